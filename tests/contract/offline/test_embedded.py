"""The command offline on the embedded checkpoint: the tutorial, invalid lines, and repeating a record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.cli import main
from tests.support.paths import ROOT

pytestmark = pytest.mark.timeout(600)
PICTURES = ROOT / "mllama_demo" / "images" / "example_images"


def write(path: Path, *entries: Any) -> Path:
    path.write_text("".join(entry if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in entries))
    return path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*words: Any) -> int:
    return main(["offline", *map(str, words), "--device", "cpu"])


@pytest.mark.slow
def test_the_shipped_batch_gives_the_same_greedy_answers_alone_and_in_a_batch(capsys) -> None:
    assert run(ROOT / "configs" / "offline" / "tutorial.yaml") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 8
    first = (
        "Prompt: '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\n<|image|>What is in this image? Tell me a story"
    )
    assert lines[0].startswith(first + "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n', Generated text: '")
    assert "dog" in lines[0].partition("Generated text")[2]
    assert [line.partition(", Generated")[0] for line in lines[:4]] == [line.partition(", Generated")[0] for line in lines[4:]]
    assert lines[0] == lines[4], "top_k 1 answers the same alone and in a batch"
    assert lines[1] == lines[5]
    assert err.startswith("8 of 8 answered in ")


@pytest.mark.slow
def test_a_record_has_everything_to_get_the_same_answer_again(tmp_path) -> None:
    shutil.copy(PICTURES / "shapes.png", tmp_path)
    wild = {"prompt": "Describe this image", "image": "shapes.png", "temperature": 1.5, "max_tokens": 24, "stop": ["zzz"]}
    assert run(write(tmp_path / "a.jsonl", wild, {"prompt": "Hello?"}), "--output", tmp_path / "a.out") == 0
    first = records(tmp_path / "a.out")[0]
    assert (first["line"], first["model"], first["backend"]) == (1, "embedded", "torch")
    assert first["finish_reason"] in ("end_of_turn", "max_tokens")
    assert first["prompt_tokens"] > 0 < first["completion_tokens"]
    assert first["timings"]["ttft_s"] > 0
    assert first["image"]["source"] == "shapes.png"
    assert len(first["image"]["digest"]) == 64
    given = {key: value for key, value in first["parameters"].items() if key != "top_k_limit"}
    again = write(tmp_path / "b.jsonl", {"prompt": first["prompt"], "image": first["image"]["source"], **given})
    assert run(again, "--output", tmp_path / "b.out") == 0
    assert records(tmp_path / "b.out")[0]["answer"] == first["answer"]


def test_invalid_lines_are_reported_by_number_and_the_others_are_answered(tmp_path, capsys) -> None:
    (tmp_path / "text.png").write_text("no picture")
    batch = write(
        tmp_path / "b.jsonl",
        {"prompt": "What is 3 + 4?"},
        "{broken\n",
        {"prompt": "x", "temperature": 9},
        {"prompt": "x", "image": "missing.png"},
        {"prompt": "x", "image": "text.png"},
        {"prompt": "x", "image": "."},
        {"prompt": "x", "image": "file:///etc/hostname"},
        {"prompt": "x", "image": "http://169.254.169.254/latest/meta-data"},
        {"prompt": "word " * 5000},
        {"prompt": "What is 3 + 4?", "image": str(PICTURES / "dog.png")},
    )
    assert run(batch, "--output", tmp_path / "out") == 1
    found = records(tmp_path / "out")
    assert [record["line"] for record in found] == list(range(1, 11))
    assert [record["error"] is None for record in found] == [True, *[False] * 8, True]
    said = [
        "not valid JSON",
        "temperature must be a number from 0 to 2, got 9",
        "missing.png cannot be read: No such file or directory",
        "is not an image that can be read",
        "is no file",
        "only http, https and data URLs are allowed",
        "private or reserved network",
        "Shorten the text",
    ]
    err = capsys.readouterr().err
    for record, words in zip(found[1:9], said, strict=True):
        assert words in record["error"]
        assert f"line {record['line']}: {record['error']}\n" in err
    assert "2 of 10 answered" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_only_failed_lines_are_asked_again(tmp_path, capsys) -> None:
    batch = write(tmp_path / "b.jsonl", {"prompt": "Hello?", "temperature": 1.5}, {"prompt": "What is it?", "image": "late.png"})
    assert run(batch, "--output", tmp_path / "out") == 1
    before = records(tmp_path / "out")
    shutil.copy(PICTURES / "apples.png", tmp_path / "late.png")
    capsys.readouterr()
    assert run(batch, "--output", tmp_path / "out") == 0
    after = records(tmp_path / "out")
    assert after[0] == before[0]
    assert after[1]["error"] is None
    assert "1 of 1 answered (1 more were answered before)" in capsys.readouterr().err
    assert run(batch, "--output", tmp_path / "out") == 0
    assert records(tmp_path / "out") == after


def test_results_of_a_changed_question_are_refused(tmp_path, capsys) -> None:
    batch = write(tmp_path / "b.jsonl", {"prompt": "Hello?"})
    assert run(batch, "--output", tmp_path / "out") == 0
    before = (tmp_path / "out").read_bytes()
    for changed in ({"prompt": "Goodbye?"}, {"prompt": "Hello?", "temperature": 9}):
        write(batch, changed)
        assert run(batch, "--output", tmp_path / "out") == 2
        assert "its answer to line 1 is not to what line 1 of the batch asks now" in capsys.readouterr().err
        assert (tmp_path / "out").read_bytes() == before


def test_json_lines_can_be_printed(tmp_path, capsys) -> None:
    assert run(write(tmp_path / "b.jsonl", {"prompt": "Hello?", "max_tokens": 3}), "--output", "-", "--concurrency=1,2") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["round"] for record in found] == [1, 2]
    assert found[0]["finish_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing argument 'FILE'; see offline --help"),
        (("a.jsonl", "b.jsonl"), "unexpected extra argument(s) (b.jsonl)"),
        (("a.jsonl", "--concurrency", "0"), "must be one or more whole numbers from 1 to 1000, got [0] (--concurrency)"),
        (("a.jsonl", "--outptu", "x"), "unknown option '--outptu'"),
        (("a.jsonl", "--top-k", "-3"), "top_k must be a whole number from 0 to 200"),
        (("missing.jsonl",), "missing.jsonl cannot be read"),
    ],
)
def test_a_command_line_mistake_is_reported_in_one_sentence(words, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", {"prompt": "Hello?"})
    assert run(*words) == 2
    assert said in capsys.readouterr().err
