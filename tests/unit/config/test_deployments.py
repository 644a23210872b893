# pyright: reportIndexIssue=false, reportOptionalSubscript=false
"""The configurations that ship, and the one that stands before another server."""

from __future__ import annotations

import re

import pytest

from mllama_demo.config.branding import load_brand
from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT, Settings
from mllama_demo.errors import ConfigError
from tests.support.accounts import users
from tests.support.paths import ROOT

LAPTOP = ROOT / "configs" / "laptop.yaml"


class TestLaptopConfiguration:
    def test_it_loads_and_its_commented_lines_are_the_defaults(self, yaml_file):
        text = LAPTOP.read_text()
        paths = ("model_path:", "scenarios_dir:")
        shown = [line for line in re.findall(r"^# (\w+: .*)$", text, re.MULTILINE) if not line.startswith(paths)]
        commented = load_settings(["--config", str(yaml_file("\n".join(shown)))], {})
        assert commented == Settings()
        named = re.findall(r"^(?:# )?(\w+):", text, re.MULTILINE)
        elsewhere = ("Neuron", "Remote server", "Ray cluster")
        others = {name for name, field in Settings.model_fields.items() if field.json_schema_extra["group"] in elsewhere}
        assert sorted(named) == sorted(set(Settings.model_fields) - {"database_url", "backend"} - others)

    def test_it_runs_the_embedded_checkpoint_on_the_cpu_for_this_machine_alone(self):
        settings = load_settings(["--config", str(LAPTOP)], {})
        assert (settings.device, settings.host, settings.allowed_media_hosts) == ("cpu", "127.0.0.1", [])
        assert settings.model_path == EMBEDDED_CHECKPOINT


class TestEvent:
    EVENT = ROOT / "configs" / "event.yaml"

    def test_it_loads_as_it_is(self):
        settings = load_settings(["--config", str(self.EVENT)], {})
        assert (settings.kiosk, settings.users, settings.host) == (True, None, "127.0.0.1")
        assert load_brand(settings).customized

    def test_it_loads_with_the_accounts_that_are_commented_out(self, yaml_file):
        text = re.sub(r"^# (users:|  - |admins:)", r"\1", self.EVENT.read_text(), flags=re.MULTILINE)
        text = text.replace("screen:HASH", users("screen")).replace("lead:HASH", users("lead"))
        settings = load_settings(["--config", str(yaml_file(text))], {})
        assert [entry.partition(":")[0] for entry in settings.users or ()] == ["screen", "lead"]
        assert settings.admins == ["lead"]


class TestRemoteServer:
    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("http://10.0.0.7:8000", "http://10.0.0.7:8000/v1"),
            ("http://10.0.0.7:8000/", "http://10.0.0.7:8000/v1"),
            ("https://models.example/llama/v1/", "https://models.example/llama/v1"),
        ],
    )
    def test_an_address_without_a_path_gets_the_protocols(self, given, used):
        assert load_settings(["--remote-url", given], {}).remote_url == used

    @pytest.mark.parametrize(
        "url", ["10.0.0.7:8000", "ftp://host/v1", "http://me:secret@host/v1", "http://host/v1?a=b", "http://"]
    )
    def test_what_is_no_plain_address_is_refused(self, url):
        with pytest.raises(ConfigError, match=r"remote_url must be an address such as http://127\.0\.0\.1:8000/v1"):
            load_settings(["--remote-url", url], {})

    def test_the_key_comes_from_the_environment_and_is_never_shown(self):
        settings = load_settings([], {"MLLAMA_DEMO_REMOTE_API_KEY": "sk-very-secret"})
        assert settings.remote_api_key == "sk-very-secret"
        assert "sk-very-secret" not in repr(settings)
        with pytest.raises(ConfigError) as caught:
            load_settings([], {"MLLAMA_DEMO_REMOTE_API_KEY": "sk very secret"})
        assert "MLLAMA_DEMO_REMOTE_API_KEY" in str(caught.value)
        assert "very" not in str(caught.value)

    def test_the_tutorials_server_is_known_for_what_it_is(self):
        settings = load_settings(["--config", str(ROOT / "configs" / "vllm-server.yaml")], {})
        assert (settings.backend, settings.remote_kind, settings.remote_concurrency) == ("openai", "vllm_neuron", 4)


@pytest.mark.parametrize(
    "name", ["trn1-90b", "trn1-90b-16k", "trn1-90b-exploration", "inf2-90b", "trn1-11b", "trn2-90b", "vllm-server"]
)
def test_every_configuration_of_an_instance_reminds_of_its_cost(name: str) -> None:
    assert load_settings(["--config", str(ROOT / "configs" / f"{name}.yaml")], {}).idle_reminder_minutes == 60
