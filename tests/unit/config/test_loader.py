# pyright: reportArgumentType=false
"""Where an option's value comes from, and what a person reads when it cannot be used."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from mllama_demo import __version__
from mllama_demo.config.loader import load_settings
from mllama_demo.config.neuron import OnDeviceSampling
from mllama_demo.config.option_texts import allowed_values
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT, SCENARIOS, Settings
from mllama_demo.errors import ConfigError
from mllama_demo.images.loading import ImageLimits
from mllama_demo.sampling import BOUNDS, SamplingParams
from tests.support.paths import ROOT

LAPTOP = ROOT / "configs" / "laptop.yaml"
NUMBERS = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]


def run(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environ, timeout=60, check=False
    )


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# --- precedence ----------------------------------------------------------------------------------------------------------


class TestPrecedence:
    LAYERS = pytest.mark.parametrize(
        ("name", "values"),
        [
            ("port", (7860, 1001, 1002, 1003)),
            ("temperature", (0.6, 0.1, 0.2, 0.3)),
            ("title", ("Llama 3.2 Vision", "from the file", "from the environment", "from the command line")),
            ("data_dir", (Path("data"), Path("file"), Path("environment"), Path("flag"))),
            ("dtype", ("auto", "float32", "bfloat16", "float16")),
            ("database_url", (None, "sqlite:///a", "sqlite:///b", "sqlite:///c")),
        ],
    )

    @LAYERS
    @pytest.mark.parametrize("layers", range(8))
    def test_the_last_layer_that_names_an_option_wins(self, yaml_file, name, values, layers):
        in_file, in_environment, in_flags = layers & 1, layers & 2, layers & 4
        _, *given = values
        config = yaml_file(f"{name}: {given[0]}\n" if in_file else "")
        environ = {f"MLLAMA_DEMO_{name.upper()}": str(given[1])} if in_environment else {}
        argv = ["--config", str(config)] + ([flag(name), str(given[2])] if in_flags else [])
        expected = values[3 if in_flags else 2 if in_environment else 1 if in_file else 0]
        assert getattr(load_settings(argv, environ), name) == expected

    def test_layers_are_merged_option_by_option(self, yaml_file):
        config = yaml_file("port: 1\nbatch_size: 2\nseq_len: 256\n")
        settings = load_settings(["--port", "3"], {"MLLAMA_DEMO_CONFIG": str(config), "MLLAMA_DEMO_BATCH_SIZE": "4"})
        assert (settings.port, settings.batch_size, settings.seq_len) == (3, 4, 256)
        assert settings == Settings(port=3, batch_size=4, seq_len=256)

    def test_the_flag_for_the_file_wins_over_the_variable(self, yaml_file, tmp_path):
        config = yaml_file("port: 1\n")
        environ = {"MLLAMA_DEMO_CONFIG": str(tmp_path / "nowhere.yaml")}
        assert load_settings(["--config", str(config)], environ).port == 1

    def test_an_empty_variable_counts_as_not_set(self, yaml_file):
        environ = {"MLLAMA_DEMO_CONFIG": str(yaml_file("port: 1\n")), "MLLAMA_DEMO_PORT": "", "MLLAMA_DEMO_DATABASE_URL": ""}
        settings = load_settings([], environ)
        assert (settings.port, settings.database_url) == (1, None)

    def test_the_environment_given_is_the_only_one_read(self, monkeypatch):
        monkeypatch.setenv("MLLAMA_DEMO_PORT", "1")
        assert load_settings([], {}).port == 7860
        assert Settings().port == 7860
        assert load_settings([]).port == 1

    def test_without_arguments_the_programs_own_are_read(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["app.py", "--port", "1"])
        assert load_settings(environ={}).port == 1

    @pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
    def test_an_empty_file_changes_nothing(self, yaml_file, text):
        assert load_settings(["--config", str(yaml_file(text))], {}) == Settings()


class TestValues:
    def test_settings_cannot_be_changed(self):
        with pytest.raises(ValidationError):
            Settings().port = 1  # pyright: ignore[reportAttributeAccessIssue]

    def test_the_sliders_start_where_sampling_says(self):
        assert Settings().sampling == SamplingParams()
        assert Settings(top_k=7, temperature=0).sampling == SamplingParams(top_k=7, temperature=0)

    def test_the_image_limits_are_those_of_the_images_module(self):
        assert Settings().image_limits == ImageLimits()
        assert Settings(max_image_bytes=2000).image_limits == ImageLimits(max_bytes=2000)

    def test_conversations_lie_in_the_data_folder_unless_a_database_is_named(self):
        assert Settings(data_dir="somewhere").store_url == "sqlite:///somewhere/conversations.sqlite3"
        assert Settings(database_url="postgresql://db/demo").store_url == "postgresql://db/demo"

    def test_the_databases_password_is_not_printed(self):
        assert "secret" not in repr(Settings(database_url="postgresql://a:secret@db/demo"))

    def test_the_embedded_checkpoint_is_the_default(self):
        assert (load_settings([], {}).model_path / "config.json").is_file()

    def test_a_tilde_is_the_home_folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert load_settings(["--model-path", "~/llama"], {}).model_path == tmp_path / "llama"

    @pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
    def test_devices_are_spelled_as_torch_does(self, device):
        assert load_settings(["--device", device], {}).device == device

    @pytest.mark.parametrize(
        ("yaml_value", "text", "hosts"),
        [
            ("[a.example, .b.example]", "a.example, .b.example", ["a.example", ".b.example"]),
            ("['10.0.0.1']", "10.0.0.1", ["10.0.0.1"]),
            ("[]", "", []),
        ],
    )
    def test_hosts_are_a_list_in_yaml_and_have_commas_elsewhere(self, yaml_file, yaml_value, text, hosts):
        config = yaml_file(f"allowed_media_hosts: {yaml_value}\n")
        assert load_settings(["--config", str(config)], {}).allowed_media_hosts == hosts
        assert load_settings(["--allowed-media-hosts", text], {}).allowed_media_hosts == hosts

    @pytest.mark.parametrize("name", NUMBERS)
    def test_a_number_is_accepted_at_both_bounds_and_refused_beyond_them(self, name):
        low, high = (float(x) for x in re.findall(r"[\d.]+", allowed_values(name)))
        for value in (low, high):
            assert getattr(load_settings([flag(name), f"{value:.10g}"], {}), name) == value
        for value in (low - 1, high + 1):
            with pytest.raises(ConfigError, match=f"{name} must be"):
                load_settings([f"{flag(name)}={value:.11g}"], {})

    @pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "max_tokens"])
    def test_sampling_values_have_the_bounds_of_the_sliders(self, name):
        assert allowed_values(name).endswith(f"from {BOUNDS[name].minimum:g} to {BOUNDS[name].maximum:g}")


# --- errors --------------------------------------------------------------------------------------------------------------


def error_of(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(argv, environ or {})
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


class TestErrors:
    def test_a_value_out_of_range_is_named_with_its_range_and_the_flag(self):
        message = "port must be a whole number from 1 to 65535, got '99999' (from --port on the command line)."
        assert error_of(["--port", "99999"]) == message

    def test_a_value_out_of_range_in_the_environment_names_the_variable(self):
        message = "batch_size must be a whole number from 1 to 64, got 'many' (from environment variable MLLAMA_DEMO_BATCH_SIZE)."
        assert error_of([], {"MLLAMA_DEMO_BATCH_SIZE": "many"}) == message

    def test_a_value_out_of_range_in_the_file_names_the_file(self, yaml_file):
        config = yaml_file("seq_len: 64\n")
        message = f"seq_len must be a whole number from 128 to 131072, got 64 (from {config})."
        assert error_of(["--config", str(config)]) == message

    def test_the_layer_that_wins_is_the_one_to_blame(self, yaml_file):
        config = yaml_file("port: 0\n")
        assert "MLLAMA_DEMO_PORT" in error_of(["--config", str(config)], {"MLLAMA_DEMO_PORT": "-1"})
        assert load_settings(["--config", str(config), "--port", "1"], {}).port == 1

    @pytest.mark.parametrize(
        ("argv", "allowed"),
        [
            (["--dtype", "int8"], "dtype must be auto or float32 or bfloat16 or float16"),
            (["--backend", "sglang"], "backend must be torch or neuron or vllm or openai"),
            (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:N"),
            (["--device", "cuda:"], "device must be auto, cpu, cuda or cuda:N"),
            (["--temperature", "nan"], "temperature must be a number from 0 to 2"),
            (["--top-k", "1.5"], "top_k must be a whole number from 0 to 200"),
            (["--title", ""], "title must be text of 1 to 120 characters"),
            (["--system-prompt", "x" * 10001], "system_prompt must be text of 0 to 10000 characters"),
            (["--allowed-media-hosts", "https://a.example"], "allowed_media_hosts must be host names"),
            (["--is-continuous-batching", "1"], "is_continuous_batching must be true or false"),
            (["--context-encoding-buckets", "1024,many"], "context_encoding_buckets must be lengths in tokens"),
            (["--on-device-sampling-config", "{"], "on_device_sampling_config must be none, or a mapping of global_topk"),
            (["--on-device-sampling-config", "true"], "on_device_sampling_config must be none, or a mapping of global_topk"),
            (["--instance-type", "g5.xlarge"], "instance_type must be trn1.2xlarge or trn1.32xlarge"),
        ],
    )
    def test_other_values_that_are_not_allowed_say_what_is(self, argv, allowed):
        message = error_of(argv)
        assert message.startswith(allowed)
        assert message.endswith(f"(from {argv[0]} on the command line).")
        assert len(message) < 300

    @pytest.mark.parametrize(
        "text",
        [
            "port: yes",
            "batch_size: true",
            "temperature: true",
            "is_continuous_batching: 1",
            "title: 3",
            "port:",
            "port: [1]",
            "data_dir: 3",
        ],
    )
    def test_yaml_values_of_another_type_are_refused(self, yaml_file, text):
        assert error_of(["--config", str(yaml_file(text))]).startswith(f"{text.split(':')[0]} must be ")

    @pytest.mark.parametrize("text", ["allowed_media_hosts: 3", "allowed_media_hosts: [3]", "allowed_media_hosts: {a: b}"])
    def test_hosts_that_are_no_names_are_refused(self, yaml_file, text):
        assert error_of(["--config", str(yaml_file(text))]).startswith("allowed_media_hosts must be host names")

    def test_an_unknown_flag_suggests_the_closest(self):
        assert error_of(["--modle-path", "x"]) == (
            "The command line has an unknown option '--modle-path': did you mean --model-path?"
        )
        assert "did you mean --port?" in error_of(["--prot=1"])

    def test_a_shortened_flag_is_unknown(self):
        assert "'--temp'" in error_of(["--temp", "1"])

    def test_a_word_without_a_flag_is_refused(self):
        assert "unknown argument 'serve'" in error_of(["serve"])

    def test_a_flag_without_its_value_is_named(self):
        assert "--port" in error_of(["--port"])

    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("modelpath", "did you mean model_path?"),
            ("model-path", "did you mean model_path?"),
            ("xyz", "--help lists all options."),
        ],
    )
    def test_an_unknown_key_in_the_file_suggests_the_closest(self, yaml_file, key, hint):
        config = yaml_file(f"port: 1\n{key}: 1\n")
        assert error_of(["--config", str(config)]) == f"The configuration file {config} has an unknown key {key!r}: {hint}"

    def test_a_key_given_twice_is_refused(self, yaml_file):
        config = yaml_file("port: 1\ntitle: x\nport: 2\n")
        assert error_of(["--config", str(config)]).endswith("is not valid YAML, line 3, column 1: port is there twice.")

    @pytest.mark.parametrize(
        ("text", "where"),
        [
            ("port: [1\n", "line 2, column 1"),
            ("port: 1\n\ttitle: x\n", "line 2, column 1"),
            ("a: b: c\n", "line 1, column 5"),
            (b"title: \xff\xfe\n", "utf-8"),
            ("title: \x00\n", "character"),
            ("title: 2024-13-45\n", "month"),
            ("? [a]\n: 1\n", "line 1"),
            ("port: 1\n---\nport: 2\n", "line 2"),
            ("title: !!python/object/apply:os.getcwd []\n", "line 1"),
        ],
    )
    def test_a_file_that_is_not_valid_yaml_says_where(self, yaml_file, text, where):
        config = yaml_file(text)
        message = error_of(["--config", str(config)])
        assert message.startswith(f"The configuration file {config} is not valid YAML")
        assert where in message

    @pytest.mark.parametrize(
        ("text", "kind"), [("- port\n", "a list"), ("port\n", "text"), ("3\n", "a number"), ("[]\n", "a list")]
    )
    def test_a_file_that_is_no_mapping_is_refused(self, yaml_file, text, kind):
        assert error_of(["--config", str(yaml_file(text))]).endswith(f"must be a mapping of option to value, got {kind}.")

    def test_a_missing_file_says_who_named_it(self, tmp_path):
        config = str(tmp_path / "nowhere.yaml")
        problem = "cannot be read: No such file or directory."
        assert error_of(["--config", config]) == f"The configuration file {config} (named by --config) {problem}"
        assert f"{config} (named by MLLAMA_DEMO_CONFIG) {problem}" in error_of([], {"MLLAMA_DEMO_CONFIG": config})

    def test_a_folder_in_place_of_the_file_is_refused(self, tmp_path):
        assert error_of(["--config", str(tmp_path)]).endswith("cannot be read: Is a directory.")

    def test_a_misspelt_variable_is_warned_of(self, caplog):
        with caplog.at_level(logging.WARNING):
            load_settings([], {"MLLAMA_DEMO_BATCHSIZE": "1", "MLLAMA_DEMO_SERVICE_HOST": "10.0.0.1", "PATH": ""})
        (record,) = caplog.records
        assert record.getMessage() == (
            "The environment variable MLLAMA_DEMO_BATCHSIZE is no option; did you mean MLLAMA_DEMO_BATCH_SIZE?"
        )

    @pytest.mark.parametrize("address", ["tcp://10.43.1.2:7860", "udp://10.43.1.2:53"])
    def test_the_address_of_a_kubernetes_service_is_no_port(self, caplog, address):
        with caplog.at_level(logging.WARNING):
            settings = load_settings([], {"MLLAMA_DEMO_PORT": address, "MLLAMA_DEMO_PORT_7860_TCP": address})
        assert settings.port == 7860
        (record,) = caplog.records
        assert f"MLLAMA_DEMO_PORT is ignored: {address} is the address of a Kubernetes service" in record.getMessage()

    @pytest.mark.parametrize(
        ("file", "environ", "argv", "expected"),
        [
            ("", {}, [], ("0.0.0.0", 7000)),
            ("port: 7001\n", {}, [], ("0.0.0.0", 7001)),
            ("port: 7001\n", {"MLLAMA_DEMO_PORT": "7002", "MLLAMA_DEMO_HOST": "::1"}, [], ("::1", 7002)),
            ("", {"MLLAMA_DEMO_PORT": "7002"}, ["--port", "7003"], ("0.0.0.0", 7003)),
            ("", {"MLLAMA_DEMO_PORT": "tcp://10.43.1.2:7860"}, [], ("0.0.0.0", 7000)),
        ],
    )
    def test_gradios_variables_count_where_nothing_else_is_said(self, yaml_file, file, environ, argv, expected):
        gradio = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "7000"}
        config = ["--config", str(yaml_file(file))] if file else []
        settings = load_settings([*config, *argv], {**gradio, **environ})
        assert (settings.host, settings.port) == expected

    def test_a_variable_of_gradio_that_cannot_be_used_is_named(self):
        assert error_of([], {"GRADIO_SERVER_PORT": "seven"}).endswith("(from environment variable GRADIO_SERVER_PORT).")


# --- help, version, import -----------------------------------------------------------------------------------------------


class TestCommandLine:
    LOAD = "from mllama_demo.config.loader import load_settings; load_settings()"

    def test_help_shows_every_option_with_its_meaning_default_and_variable(self):
        done = run(self.LOAD, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        words = " ".join(done.stdout.split())
        for name, field in Settings.model_fields.items():
            value = "[true|false]" if field.annotation is bool else name.split("_")[-1].upper()
            start = words.index(f" {flag(name)} {value} ")
            entry = words[start : words.index("]", words.index(" Takes ", start)) + 1]
            assert str(field.description) in entry
            assert f"Takes {allowed_values(name)}. Default: " in entry
            assert entry.endswith(f"[MLLAMA_DEMO_{name.upper()}]")
            shown = {
                "None": "not set",
                "": "empty",
                str(EMBEDDED_CHECKPOINT): "the embedded checkpoint",
                str(SCENARIOS): "the shipped scenarios",
                "True": "true",
            }
            shown |= {"False": "false", str(OnDeviceSampling()): '{"global_topk": 64, "dynamic": true, "deterministic": false}'}
            assert f"Default: {shown.get(str(field.default), field.default)}. " in entry

    def test_help_fits_80_columns_and_has_headings(self):
        lines = run(self.LOAD, "--help").stdout.splitlines()
        assert max(map(len, lines)) <= 80
        assert [line for line in lines if re.fullmatch(r"\w+:", line)][1:] == [
            "Server:",
            "Model:",
            "Neuron:",
            "Queue:",
            "Limits:",
            "Recovery:",
            "Images:",
            "API:",
            "Demos:",
            "Accounts:",
            "Branding:",
            "Answers:",
        ]

    def test_help_says_nothing_of_this_machine(self):
        assert str(ROOT) not in run(self.LOAD, "--help").stdout

    def test_version_is_printed(self):
        done = run(self.LOAD, "--version")
        assert (done.returncode, done.stdout) == (0, f"mllama_demo {__version__}\n")

    def test_importing_the_options_loads_nothing_heavy(self):
        code = (
            "import sys, mllama_demo.config.loader, mllama_demo.checkpoint.validate\n"
            "print([m for m in ('torch', 'transformers', 'gradio', 'sqlalchemy', 'fastapi') if m in sys.modules])"
        )
        assert run(code).stdout == "[]\n"


def test_pages_of_any_scheme_may_be_allowed_to_use_the_api() -> None:
    origins = ["https://chat.example.com", "app://obsidian.md", "tauri://localhost", "chrome-extension://abcdefghijklmnop"]
    assert load_settings(["--allowed-origins", ",".join(origins)], {}).allowed_origins == origins
    for wrong in ("obsidian.md", "app://", "https://chat.example.com/page", "*"):
        with pytest.raises(ConfigError, match="allowed_origins must be"):
            load_settings(["--allowed-origins", wrong], {})
