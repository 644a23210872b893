"""The command line: commands found by name, loaded when called, and failing with one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from mllama_demo import __version__, cli
from mllama_demo.cli import main
from mllama_demo.config.neuron import NOT_OPTIONS
from mllama_demo.errors import ConfigError
from tests.support.paths import ROOT

COMMANDS = [command.name or "" for command in cli.app.registered_commands]
HEAVY = (
    "torch",
    "transformers",
    "huggingface_hub",
    "gradio",
    "sqlalchemy",
    "fastapi",
    "numpy",
    "yaml",
    "tokenizers",
    "requests",
    "tqdm",
)


@pytest.fixture
def commands() -> Iterator[list[Any]]:
    """Registers the commands of this module for one test; the list holds what `echo` was called with."""
    calls: list[Any] = []
    before = list(cli.app.registered_commands)

    @cli.command("echo")
    def echo(
        context: typer.Context,
        file: Annotated[Path | None, typer.Argument()] = None,
        spec: Annotated[str, typer.Option()] = "",
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> int:
        calls.append((str(file or ""), spec, as_json, context.args))
        return 7

    @cli.command("refuse")
    def refuse() -> int:
        raise ConfigError("It cannot be done.")

    @cli.command("interrupt")
    def interrupt() -> int:
        raise KeyboardInterrupt

    yield calls
    cli.app.registered_commands[:] = before


@pytest.mark.parametrize(
    ("words", "file", "spec", "as_json", "of_serve"),
    [
        ("", "", "", False, ""),
        ("--json --port 1", "", "", True, "--port 1"),
        ("--port 1 --json", "", "", True, "--port 1"),
        ("--port=1 batch --spec=a", "batch", "a", False, "--port=1"),
        ("--config demo.yaml batch --spec a", "batch", "a", False, "--config demo.yaml"),
        ("batch --top-k -3", "batch", "", False, "--top-k -3"),
        ("batch --spec -", "batch", "-", False, ""),
        ("--api-only --json batch", "batch", "", True, "--api-only"),
        ("--api-only=true --prot 1", "", "", False, "--api-only=true --prot 1"),
    ],
)
def test_a_command_takes_its_own_options_and_leaves_those_of_serve(commands, words, file, spec, as_json, of_serve):
    assert main(["echo", *words.split()]) == 7
    assert commands == [(file, spec, as_json, of_serve.split())]


def test_an_expected_failure_is_one_sentence_on_stderr_and_exit_code_2(commands, capsys):
    assert main(["refuse"]) == 2
    assert capsys.readouterr() == ("", "mllama-demo: It cannot be done.\n")


def test_an_interruption_is_no_traceback(commands, capsys):
    assert main(["interrupt"]) == 2
    assert capsys.readouterr().err == "mllama-demo: Interrupted.\n"


def test_a_reader_that_closes_the_pipe_is_no_traceback():
    line = f"{sys.executable} -m mllama_demo plan --shape 90B --batch-size 1 --seq-len 1024 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] in ("0", "1", "141")


@pytest.mark.parametrize(("word", "hint"), [("covnert", "Did you mean 'convert'?"), ("xyz", "see --help")])
def test_an_unknown_command_suggests_the_closest(word, hint, capsys):
    assert main([word]) == 2
    error = capsys.readouterr().err
    assert f"No such command {word!r}" in error
    assert hint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("plan --shape 7B", "Invalid value for '--shape': '7B' is not one of '11b', '90b'; see plan --help."),
        ("plan --shape", "Option '--shape' requires an argument; see plan --help."),
        ("convert", "Missing option '--input-dir'; see convert --help."),
        ("explore", "'--spec' / '--run': give one of them; see explore --help."),
        ("offline a.yaml b.yaml", "unexpected extra argument(s) (b.yaml); see offline --help."),
        ("--prot", "No such option: --prot; see --help."),
    ],
)
def test_a_wrong_command_line_is_one_sentence(words, expected, capsys):
    assert main(words.split()) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("mllama-demo: The command line cannot be used: ")
    assert error.endswith(expected + "\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_with_a_whole_sentence(argv, capsys):
    assert main(argv) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert all(any(line.startswith(name + "  ") for line in lines) for name in COMMANDS)
    assert not [line for line in lines if line.endswith("...")]


def test_without_a_command_the_help_goes_to_stderr(capsys):
    assert main([]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "Usage: python -m mllama_demo" in error


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mllama_demo {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    code = f"import json, sys\nfrom mllama_demo.cli import main\ntry:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
    code += "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.lower().startswith(f"usage: python -m mllama_demo {words[0] if words[1:] else '[options]'}")
    heavy = {*HEAVY} - ({"yaml"} if words[0] == "serve" else set())  # its options are fields of a model
    assert not heavy & {*json.loads(done.stdout.splitlines()[-1])}


def test_serve_takes_the_options_of_the_demo(capsys):
    assert main(["serve", "--prot=1"]) == 2
    assert "did you mean --port?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["compile", "--dryrun"], "'--dryrun': did you mean --dry-run?"),
        (["compile", "--dry_run", "--config", "x.yaml"], "'--dry_run': did you mean --dry-run?"),
        (["doctor", "--jsn"], "'--jsn': did you mean --json?"),
        (["vllm-command", "--gneration=v1"], "'--gneration': did you mean --generation?"),
        (["plan", "--sahpe", "11B"], "'--sahpe': did you mean --shape?"),
    ],
)
def test_a_misspelt_option_of_a_command_is_named_with_the_right_one(words, meant, capsys):
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert (out, error) == ("", f"mllama-demo: The command line has an unknown option {meant}\n")


@pytest.mark.parametrize("command", ["compile", "doctor", "offline", "plan", "serve", "vllm-command"])
@pytest.mark.parametrize("name", ["quantized", "tp_degree", "max_model_len"])
def test_an_option_of_nxdi_that_is_none_here_is_refused_with_the_reason(command, name, tmp_path, capsys):
    file = tmp_path / "neuron.yaml"
    file.write_text(f"backend: neuron\n{name}: 1\n")
    more = ["batch.yaml"] if command == "offline" else []
    for options in (["--config", str(file)], [f"--{name.replace('_', '-')}", "1"]):
        assert main([command, *more, *options]) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert f"which is no option: {NOT_OPTIONS[name]}." in error


NEURON_COMMANDS = ("compile", "plan", "vllm-command")


@pytest.mark.parametrize(
    ("commands", "options", "found"),
    [
        (NEURON_COMMANDS, [], "neither backend nor model_path is given"),
        (NEURON_COMMANDS, ["--config", "configs/vllm-server.yaml"], "backend is openai (from configs/vllm-server.yaml)"),
        # `plan` plans these for backend torch.
        (("compile", "vllm-command"), ["--config", "configs/laptop.yaml"], "device is cpu (from configs/laptop.yaml)"),
        (("compile", "vllm-command"), ["--config", "configs/laptop-11b.yaml"], "backend is torch (from configs/laptop-11b.yaml)"),
        (("compile", "vllm-command"), ["--backend", "torch"], "backend is torch (from --backend on the command line)"),
    ],
)
def test_a_configuration_that_is_not_for_neuron_is_said_to_be_none(commands, options, found, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands:
        assert main([command, *options]) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert f"is for Neuron, {'and' if not options else 'but'} {found}; name a configuration for Neuron, such as" in error


@pytest.mark.parametrize(
    "options", [["--shape", "11B"], ["--model-path", "Llama-3.2-90B"], ["--config", "configs/trn1-11b.yaml"]]
)
def test_a_model_for_neuron_needs_no_backend_to_be_planned(options, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["plan", *options]) == 0
