"""The command of the tutorial's server, from the same configuration that the demo itself would compile."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.cli import main
from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.engine.vllm import arguments
from mllama_demo.engine.vllm.arguments import engine_arguments, engine_environment, neuron_overrides
from mllama_demo.engine.vllm.command import PLUGIN, command
from tests.support.paths import CONFIGS

TUTORIAL = {
    "context_encoding_buckets": [256, 512, 1024, 2048],  # the tutorial has 1024 and 2048
    "token_generation_buckets": [512, 1024, 2048],
    "sequence_parallel_enabled": False,
    "is_continuous_batching": True,
    "on_device_sampling_config": {"global_topk": 64, "dynamic": True, "deterministic": False},
}
MODEL = "/home/ubuntu/model_hf/Llama-3.2-90B-Vision-Instruct-hf"


def settings(name: str = "trn1-90b", **options: Any) -> Settings:
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    return load_settings(["--config", str(CONFIGS / f"{name}.yaml"), *flags], {})


def split(line: str) -> list[str]:
    """Splits a command into words, as a shell does. A backslash at the end of a line joins the line with the next line."""
    return shlex.split(line.replace("\\\n", ""))


def parts(line: str) -> tuple[dict[str, str], list[str], dict[str, str | None]]:
    """A shell command's variables, program and flags; a flag without a value has None."""
    words = split(line)
    variables = dict(word.split("=", 1) for word in words[: words.index("python3")])
    rest = words[words.index("python3") :]
    start = next(index for index, word in enumerate(rest) if word.startswith("--"))
    flags: dict[str, str | None] = {}
    for index in range(start, len(rest)):
        if rest[index].startswith("--"):
            following = rest[index + 1] if index + 1 < len(rest) else "--"
            flags[rest[index]] = None if following.startswith("--") else following
    return variables, rest[:start], flags


# --- the engine's arguments ----------------------------------------------------------------------------------------------


def test_the_neuron_overrides_equal_those_of_the_aws_tutorial():
    assert neuron_overrides(settings()) == TUTORIAL


def test_the_arguments_of_the_legacy_fork_equal_those_of_the_aws_tutorial():
    assert engine_arguments(settings(), "legacy") == {
        "model": MODEL,
        "max_num_seqs": 4,
        "max_model_len": 2048,
        "block_size": 2048,
        "device": "neuron",
        "tensor_parallel_size": 32,
        "override_neuron_config": TUTORIAL,
    }


def test_the_v1_plugin_gets_the_overrides_inside_additional_config():
    arguments = engine_arguments(settings(), "v1")
    assert arguments["additional_config"] == {"override_neuron_config": TUTORIAL}
    assert not {"device", "override_neuron_config", "block_size"} & set(arguments)


def test_max_context_length_is_passed_when_it_is_shorter_than_the_context():
    overrides = neuron_overrides(settings(context_encoding_buckets="512,1024"))
    assert (overrides["context_encoding_buckets"], overrides["max_context_length"]) == ([512, 1024], 1024)


def test_fused_qkv_is_passed_when_it_is_chosen():
    assert neuron_overrides(settings(fused_qkv="true")) == {**TUTORIAL, "fused_qkv": True}


def test_host_sampling_and_a_chosen_dtype_are_passed_to_the_engine():
    chosen = settings("trn1-90b-exploration", dtype="float32", tensor_parallel_size=16)
    assert neuron_overrides(chosen)["on_device_sampling_config"] is None
    assert engine_arguments(chosen)["dtype"] == "float32"
    assert "dtype" not in engine_arguments(settings())


def test_each_configuration_has_its_own_folder_of_compiled_artifacts(tmp_path):
    """vLLM loads any compiled model in the folder. It does not check for which values the model was compiled."""

    def folder(**options: Any) -> str:
        return engine_environment(settings(compiled_artifacts=tmp_path, **options))["NEURON_COMPILED_ARTIFACTS"]

    assert folder() == folder()
    assert len({folder(), folder(batch_size=2), folder(seq_len=4096, token_generation_buckets="4096")}) == 3
    assert Path(folder()).parent == tmp_path
    beside = Path(engine_environment(settings())["NEURON_COMPILED_ARTIFACTS"])
    assert beside.parent == Path(MODEL) / "neuron-compiled-artifacts"


def test_a_model_that_was_compiled_without_the_corrections_is_not_loaded(monkeypatch):
    before = engine_environment(settings())
    monkeypatch.setattr(arguments, "VERSION", arguments.VERSION + 1)
    assert engine_environment(settings()) != before


# --- the command ---------------------------------------------------------------------------------------------------------


def test_the_server_command_equals_that_of_the_aws_tutorial():
    variables, program, flags = parts(command(settings()))
    assert program == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    assert json.loads(flags.pop("--override-neuron-config") or "") == TUTORIAL
    assert flags == {
        "--model": MODEL,
        "--tensor-parallel-size": "32",
        "--max-model-len": "2048",
        "--max-num-seqs": "4",
        "--device": "neuron",
        "--host": "127.0.0.1",
        "--port": "8000",
    }
    artifacts = variables.pop("NEURON_COMPILED_ARTIFACTS")
    assert artifacts.startswith(f"{MODEL}/neuron-compiled-artifacts/vllm-")
    assert variables == {
        "PYTHONPATH": f"{PLUGIN}${{PYTHONPATH:+:$PYTHONPATH}}",
        "VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference",
        "NEURON_SCRATCHPAD_PAGE_SIZE": "1024",
        "VLLM_RPC_TIMEOUT": "180000",
    }


def test_the_server_command_for_the_v1_plugin_has_additional_config_and_no_device():
    _, _, flags = parts(command(settings(), "v1"))
    assert json.loads(flags["--additional-config"] or "") == {"override_neuron_config": TUTORIAL}
    assert flags["--no-enable-prefix-caching"] is None
    assert "--device" not in flags


@pytest.mark.parametrize("generation", ["legacy", "v1"])
@pytest.mark.parametrize("name", ["trn1-90b", "trn1-90b-16k", "trn1-11b", "inf2-90b"])
def test_every_neuron_configuration_of_the_project_makes_a_server_command(name, generation):
    chosen = settings(name)
    _, _, flags = parts(command(chosen, generation))
    assert flags["--max-num-seqs"] == str(chosen.batch_size)
    assert flags["--tensor-parallel-size"] == str(chosen.tensor_parallel_size)


def test_a_model_path_with_special_characters_survives_the_shell(tmp_path):
    """The path has a quote, a space, a variable and a command substitution."""
    folder = tmp_path / "a model's $HOME `x`"
    line = command(settings(model_path=folder))
    echo = f'python3() {{ printf "%s\\0" "$@"; }}\n{line}'
    printed = subprocess.run(["sh", "-c", echo], capture_output=True, text=True, check=True, timeout=30).stdout
    assert printed.split("\0")[:-1] == split(line)[split(line).index("python3") + 1 :]
    assert str(folder) in printed.split("\0")


# --- the program's command vllm-command -------------------------------------------------------------------------------------


def test_the_command_goes_to_stdout_and_the_notes_to_stderr(capsys):
    assert main(["vllm-command", "--config", str(CONFIGS / "trn1-90b.yaml"), "--server-port", "9000"]) == 0
    out, err = capsys.readouterr()
    assert parts(out)[2]["--port"] == "9000"
    assert err.startswith("# ")


def test_vllm_command_warns_that_the_v1_plugin_does_not_serve_this_model(capsys):
    assert main(["vllm-command", "--config", str(CONFIGS / "trn1-90b.yaml"), "--generation", "v1"]) == 0
    assert "does NOT serve Llama 3.2 Vision" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--generation", "v2"], "--generation"),
        (["--server-port", "70000"], "less than or equal to 65535"),
        (["--batch-size", "5"], "batch_size"),
        (["--tensor-parallel-size", "24"], "tensor_parallel_size"),
        (["--gneration", "v1"], "--gneration"),
        (["--on-device-sampling-config", "none"], "vLLM samples this model on the device only"),
    ],
)
def test_an_error_names_the_option_that_cannot_be_used(flags, named, capsys):
    assert main(["vllm-command", "--config", str(CONFIGS / "trn1-90b.yaml"), *flags]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert named in err
