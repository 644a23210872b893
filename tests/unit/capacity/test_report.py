"""The command `plan --traffic`: its table, its JSON, and its refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mllama_demo.capacity.report import PEOPLE, _profile_of, main
from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.config.loader import load_settings
from mllama_demo.engine.simulated.profile import profile_names, read_profile
from mllama_demo.errors import ConfigError
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from tests.support.paths import ROOT

FAST = "name: a device\nsource: a test\nestimated: {estimated}\nprefill_s: {{64: 0.01}}\ndecode_s: {{1: 0.001}}\n"
FEW = "people=3,answer_tokens=5,prompt_tokens=20"
pytestmark = pytest.mark.usefixtures("few_questions")


@pytest.fixture
def profile(tmp_path: Path) -> str:
    file = tmp_path / "device.yaml"
    file.write_text(FAST.format(estimated="true") + "dollars_per_hour: 2\nprice_source: a test\n")
    return str(file)


@pytest.mark.slow
def test_the_table_says_of_every_figure_that_it_is_an_estimate(profile: str, capsys) -> None:
    assert main([], FEW, profile, None, False) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [match.groups() for line in lines if (match := re.fullmatch(r" +([\d,]+) +([\d,.]+) +(.*)", line))]
    assert [row[0] for row in rows] == ["3", *(f"{people:,}" for people in PEOPLE)]
    for _, _, figures in rows:
        assert set(re.findall(r"(~?)[\d,.]+", figures)) == {"~"}
    assert any(line.startswith("~ Estimates: a test") for line in lines)
    assert "~ $2.00 an hour: a test." in lines


@pytest.mark.slow
def test_the_json_has_what_the_table_has(profile: str, capsys) -> None:
    assert main([], FEW, profile, None, True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["profile"] == {"name": "a device", "estimated": True, "source": "a test"}
    assert [one["people"] for one in told["sizes"]] == [3, *PEOPLE]
    assert all(one["in_time"] and one["instances"] >= 1 for one in told["sizes"])
    assert told["sizes"][0]["dollars_per_hour"] == 2.0


def test_a_configuration_takes_the_profile_of_its_instance_and_model() -> None:
    for name in ("trn1-90b", "trn1-11b", "inf2-90b"):
        assert _profile_of(load_settings(["--config", str(ROOT / "configs" / f"{name}.yaml")]), None) == name


@pytest.mark.parametrize(
    ("options", "traffic", "profile", "words"),
    [
        ([], "people=0", None, "people must be"),
        ([], "people=1", "trn9", "There is no device profile 'trn9'; there are cpu-embedded, .* or name a YAML file"),
        ([], "prompt_tokens=5000", "trn1-90b", "prompt_tokens must be below seq_len, 2048, got 5000"),
        (
            ["--model-path", "/tmp"],
            "people=1",
            None,
            "no device profile for backend torch with tmp",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(options, traffic, profile, words) -> None:
    with pytest.raises(ConfigError, match=words):
        main(options, traffic, profile, None, False)


def test_every_profile_of_a_neuron_device_is_an_estimate() -> None:
    for name in profile_names():
        profile = read_profile(name)
        assert profile.estimated == bool(profile.instance)
        assert (profile.dollars_per_hour is None) == (profile.price_source == "")


TRN1 = ["--config", str(ROOT / "configs" / "trn1-90b.yaml")]


@pytest.mark.slow
def test_buckets_are_suggested_for_prompts_of_the_given_length(profile: str, capsys) -> None:
    found = {}
    for tokens in (60, 600):
        traffic = f"people=3,answer_tokens=5,prompt_tokens={tokens}"
        assert main(TRN1, traffic, profile, None, False) == 0
        [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Buckets for prompts of this length")]
        buckets, after, before = re.findall(r": ([\d, ]+) \(.*to ([\d,]+) tokens.*to ([\d,]+)\.", line)[0]
        found[tokens] = [int(bucket) for bucket in buckets.split(", ")]
        assert int(after) <= int(before)
    assert found[60][0] < found[600][0]
    assert main(TRN1, FEW, profile, None, True) == 0
    told = json.loads(capsys.readouterr().out)["suggested_buckets"]
    assert told["context_encoding_buckets"][-1] == 2048


@pytest.mark.slow
def test_with_the_store_buckets_are_suggested_for_its_prompts(profile: str, tmp_path: Path, capsys) -> None:
    database = Database(f"sqlite:///{tmp_path / 'conversations.sqlite3'}")
    counts = {"prompt_tokens": 700, "completion_tokens": 20}
    ConversationStore(database).save(
        "somebody", Conversation((Message("user", "question"), Message("assistant", "answer", metadata=counts)))
    )
    database.close()
    assert main([*TRN1, "--data-dir", str(tmp_path)], FEW, profile, None, False, from_store=True) == 0
    assert "Buckets for prompts of the store: 768, 2048 (context_encoding_buckets)" in capsys.readouterr().out


def test_a_backend_without_buckets_has_no_suggestion_from_the_store(profile: str) -> None:
    with pytest.raises(ConfigError, match="--from-store suggests buckets for backend neuron, and the configuration has torch"):
        main([], FEW, profile, None, False, from_store=True)
