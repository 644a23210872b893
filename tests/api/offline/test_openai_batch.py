"""A file of OpenAI's batch format through the command `offline`, with the embedded checkpoint, to its own output format."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.cli import main
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.offline.openai_batch import is_batch

pytestmark = pytest.mark.timeout(300)
PICTURE = "data:image/png;base64," + base64.b64encode((EXAMPLES_FOLDER / "dog.png").read_bytes()).decode()


def request(custom_id: Any, content: Any = "What is the capital of Italy?", **fields: Any) -> dict[str, Any]:
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 12,
        **fields,
    }
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_request_gets_its_response_under_its_id(tmp_path, capsys):
    image = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    batch = write(
        tmp_path / "requests.jsonl",
        request("one"),
        request("two", image, n=2),
        request("three", temperature=9),
        {**request("four"), "url": "/v1/embeddings"},
        request("one"),
        request("five", stream=True),
        "{broken",
        {"body": {}},
        request("nine", **{"image\ud800": "x"}),
        request("ten\ud800"),
        {**request("eleven"), "problem": 5},
    )
    output = tmp_path / "responses.jsonl"
    assert main(["offline", str(batch), "--output", str(output), "--device", "cpu"]) == 1
    found = {line["custom_id"]: line for line in lines_of(output)}
    assert list(found) == ["one", "two", "three", "four", "line-5", "five", "line-7", "line-8", "nine", "line-10", "eleven"]
    assert all(set(line) == {"id", "custom_id", "response", "error"} for line in found.values())
    assert {name: line["response"]["status_code"] for name, line in found.items()} == {
        **dict.fromkeys(("one", "two", "eleven"), 200),
        **dict.fromkeys(("three", "four", "line-5", "five", "line-7", "line-8", "nine", "line-10"), 400),
    }
    one, two = found["one"]["response"]["body"], found["two"]["response"]["body"]
    assert (one["object"], one["model"]) == ("chat.completion", "embedded")
    assert "Rome" in one["choices"][0]["message"]["content"]
    assert "dog" in two["choices"][0]["message"]["content"]
    assert len(two["choices"]) == 2
    assert found["three"]["response"]["body"]["error"]["param"] == "temperature"
    told = capsys.readouterr().err
    assert "3 of 11 answered" in told
    assert "line-5: Line 5 has the custom_id 'one' of an earlier line." in told


def test_what_is_answered_is_not_asked_again(tmp_path, capsys):
    batch = write(tmp_path / "requests.jsonl", request("one"), request("two"), request("three"))
    output = tmp_path / "responses.jsonl"
    command = ["offline", str(batch), "--output", str(output), "--device", "cpu"]
    assert main(command) == 0
    first = lines_of(output)
    kept = first[0]
    failed = {**first[1], "response": {**first[1]["response"], "status_code": 500, "body": {"error": {"message": "x"}}}}
    cut = json.dumps(first[2])[:40]
    output.write_text(f"{json.dumps(failed)}\n{json.dumps(kept)}\n{cut}", encoding="utf-8")
    capsys.readouterr()
    assert main(command) == 0
    again = lines_of(output)
    assert [line["custom_id"] for line in again] == ["one", "two", "three"]
    assert again[0] == kept
    assert [line["response"]["status_code"] for line in again] == [200, 200, 200]
    assert "2 of 2 answered (1 more were answered before)" in capsys.readouterr().err


def test_without_an_output_the_lines_are_printed(tmp_path, capsys):
    batch = write(tmp_path / "requests.jsonl", "", request("東京", "Hi"))
    assert main(["offline", str(batch), "--device", "cpu", "--concurrency", "1"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["custom_id"] == "東京"


def test_a_file_with_something_else_is_no_place_for_results(tmp_path, capsys):
    batch = write(tmp_path / "requests.jsonl", request("one"))
    for content in ("notes\n", "notes", '{"round": 1}\n'):
        output = tmp_path / "mine.txt"
        output.write_text(content)
        assert main(["offline", str(batch), "--output", str(output), "--device", "cpu"]) == 2
        assert "is no place for these results" in capsys.readouterr().err
        assert output.read_text() == content


@pytest.mark.parametrize("many", ["0", "many", "1,2"])
def test_a_concurrency_that_cannot_be_used_is_named(tmp_path, capsys, many):
    batch = write(tmp_path / "requests.jsonl", request("one"))
    assert main(["offline", str(batch), "--concurrency", many]) == 2
    assert "concurrency must be a whole number from 1 to 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '\n{"custom_id": "1", "body": {}}', True),
        ("a.jsonl", '{"prompt": "Hi"}', False),
        ("a.jsonl", "", False),
        ("a.jsonl", "[", False),
        ("a.yaml", '{"custom_id": "1", "body": {}}', False),
    ],
)
def test_the_format_is_known_by_the_first_line(tmp_path, name, content, expected):
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    assert is_batch(file) is expected
