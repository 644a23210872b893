"""Buckets by the lengths that a store has."""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sql
from sqlalchemy import make_url

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.checkpoint.bucket_plan import _best, _contexts, suggest
from mllama_demo.cli import main
from mllama_demo.config.neuron import first_problem
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from mllama_demo.storage.answer_lengths import AnswerLength, answer_lengths
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.read_only import read_only_connection
from mllama_demo.storage.schema import messages

SHORT = [AnswerLength(60, 100, False)] * 90 + [AnswerLength(700, 200, False)] * 10


def neuron(**options):
    return Settings(**{"context_encoding_buckets": [1024, 2048], "token_generation_buckets": [1024, 2048], **options}).neuron


def test_short_prompts_get_small_buckets_and_the_largest_stays():
    plan = suggest(SHORT, neuron())
    assert plan.context == (128, 768, 2048)
    assert plan.token[-1] == 2048
    assert plan.padded == (1024, 0.9 * 128 + 0.1 * 768)
    assert plan.prompts == {50: 60, 90: 700, 99: 700, 100: 700}


def test_a_prompt_of_the_length_of_a_bucket_takes_the_next_one():
    """As NxDI does, except for the largest."""
    plan = suggest([AnswerLength(128, 1, False)] * 10, neuron())
    assert plan.context == (192, 2048)
    assert plan.padded[1] == 192
    assert suggest([AnswerLength(2048, 1, False)], neuron()).padded[1] == 2048


def test_prompts_beyond_the_longest_bucket_are_counted():
    plan = suggest([AnswerLength(5000, 10, True), AnswerLength(10, 10, False)], neuron())
    assert (plan.beyond, plan.estimated) == (1, 1)
    assert any("longer than the largest bucket" in line for line in plan.lines())


@pytest.mark.parametrize(
    "options",
    [
        {"seq_len": 16384, "context_encoding_buckets": [16384], "token_generation_buckets": [16384]},
        {"sequence_parallel_enabled": True},
        {"seq_len": 2000, "context_encoding_buckets": [500], "token_generation_buckets": [2000]},
        {"seq_len": 131072, "batch_size": 1, "context_encoding_buckets": [131072], "token_generation_buckets": [131072]},
    ],
)
def test_the_suggestion_keeps_the_rules_of_a_configuration(options):
    rng = random.Random(1)
    found = [AnswerLength(rng.randint(1, 3000), rng.randint(0, 500), False) for _ in range(500)]
    o = neuron(**options)
    plan = suggest(found, o)
    settings = {**options, "context_encoding_buckets": list(plan.context), "token_generation_buckets": list(plan.token)}
    assert first_problem(neuron(**settings)) is None


def test_no_other_choice_of_buckets_pads_less():
    rng = random.Random(2)
    candidates = [128, 256, 384, 512, 768, 1024, 2048]
    for _ in range(20):
        lengths = {rng.randint(1, 2048): rng.randint(1, 9) for _ in range(30)}

        def cost(buckets: tuple[int, ...], lengths: dict[int, int] = lengths) -> int:
            return sum(count * next((b for b in buckets if length < b), buckets[-1]) for length, count in lengths.items())

        others = [
            (*some, 2048) for size in range(4) for some in itertools.combinations(candidates[:-1], size)
        ]  # up to four buckets, the last one always the longest
        assert cost(_best(lengths, candidates, 4)) == min(map(cost, others))


# --- the store and the command -------------------------------------------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """A store with three answers: two that were counted, and one that failed before its first token."""
    folder = tmp_path / "data"
    database = Database(f"sqlite:///{folder / 'conversations.sqlite3'}")
    store = ConversationStore(database)
    for prompt, metadata in ((50, {}), (300, {"estimated": True}), (None, {})):
        facts = {"prompt_tokens": prompt, "completion_tokens": 20, **metadata} if prompt else {}
        messages = (Message("user", "question"), Message("assistant", "answer", metadata=facts))
        store.save("somebody", Conversation(messages))
    imported = {"prompt_tokens": 9, "completion_tokens": 9, "imported": True}
    store.save("somebody", Conversation((Message("user", "question"), Message("assistant", "answer", metadata=imported))))
    database.close()
    return folder


def test_lengths_are_those_of_answers_that_were_counted_here(data_dir):
    url = make_url(f"sqlite:///{data_dir / 'conversations.sqlite3'}")
    assert answer_lengths(url) == [AnswerLength(50, 20, False), AnswerLength(300, 20, True)]


def test_the_store_of_a_running_demo_of_an_earlier_version_is_read_and_not_changed(data_dir, capsys):
    file = data_dir / "conversations.sqlite3"
    with closing(sqlite3.connect(file)) as demo, demo:
        demo.execute("UPDATE schema_version SET version = 3")
        demo.execute("DROP TABLE drafts")
    with closing(sqlite3.connect(file, isolation_level=None)) as demo:
        demo.execute("BEGIN IMMEDIATE")  # the demo is writing
        before = list(demo.iterdump())
        assert main(["plan", "--from-store", "--shape", "90B", "--data-dir", str(data_dir)]) == 0
        assert "The store has 2 answers." in capsys.readouterr().out
        demo.execute("ROLLBACK")
        assert list(demo.iterdump()) == before
    assert [path.name for path in data_dir.iterdir()] == [file.name]


def test_nothing_can_be_written_and_a_file_of_any_name_is_read(data_dir):
    folder = data_dir.rename(data_dir.with_name("data #1? 100%"))
    url = make_url("sqlite://").set(database=str(folder / "conversations.sqlite3"))
    assert len(answer_lengths(url)) == 2
    with pytest.raises(ConfigError, match="readonly database"), read_only_connection(url) as connection:
        connection.execute(sql.delete(messages))
    assert len(answer_lengths(url)) == 2


def test_a_file_that_is_no_store_is_one_sentence(tmp_path, capsys):
    (tmp_path / "conversations.sqlite3").write_bytes(b"no database" * 1000)
    assert main(["plan", "--from-store", "--shape", "90B", "--data-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "cannot be read: file is not a database." in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("other", [["--device", "cpu"], ["--device=cuda"]])
def test_what_has_no_buckets_is_refused_with_the_store(data_dir, capsys, other):
    assert main(["plan", "--from-store", "--shape", "90B", "--data-dir", str(data_dir), *other]) == 2
    printed = capsys.readouterr()
    assert "leave it out" in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_decode_steps_are_counted_by_the_length_of_their_context():
    rng = random.Random(3)
    found = [AnswerLength(rng.randint(1, 300), rng.randint(0, 200), False) for _ in range(200)]
    for longest in (100, 250, 600):
        steps = Counter(min(at, longest) for one in found for at in range(one.prompt, one.prompt + max(1, one.answer)))
        assert +Counter(_contexts(found, longest)) == steps


def test_plan_suggests_buckets_from_the_store(data_dir, capsys):
    arguments = ["plan", "--from-store", "--shape", "90B", "--data-dir", str(data_dir)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "The store has 2 answers. Prompts: 50% up to 300" in out
    assert "context_encoding_buckets: [128, 384, 2048]" in out
    assert "Fewer than 50 answers say little." in out
    assert "1 of the counts are estimates" in out
    assert "With these buckets each core fits" in out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["context_encoding_buckets"] == [128, 384, 2048]
    assert [path.name for path in data_dir.iterdir()] == ["conversations.sqlite3"]


@pytest.mark.parametrize("empty", [True, False], ids=["a store without answers", "no store"])
def test_without_answers_it_is_one_sentence_and_nothing_is_created(tmp_path, capsys, empty):
    folder = tmp_path / "data"
    if empty:
        Database(f"sqlite:///{folder / 'conversations.sqlite3'}").close()
    assert main(["plan", "--from-store", "--shape", "90B", "--data-dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("has no answer" if empty else "There is no store at") in error
    assert folder.exists() == empty
