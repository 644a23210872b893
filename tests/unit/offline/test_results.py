"""The file of results: complete after a kill, sorted at the end, and refused for another batch."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.errors import ConfigError
from mllama_demo.offline import results as results_file
from mllama_demo.offline.prompt_records import FORMAT, check_same_batch, failed
from mllama_demo.offline.results import OrderedPrinter, to_json_line

KEYS = [(round_, line) for round_ in (1, 2) for line in range(1, 10)]


def record(line: int, round_: int = 1, **other: Any) -> dict[str, Any]:
    usual = {
        "round": round_,
        "line": line,
        "prompt": "Hello?",
        "image": None,
        "parameters": {"top_k": 1, "seed": 7},
        "system_prompt": "",
        "model": "m",
        "prompt_text": "<p>",
        "answer": "Hi.",
        "finish_reason": "end_of_turn",
        "error": None,
    }
    return usual | other


def open_results(path: Path) -> Any:
    return results_file.open_results(path, FORMAT, KEYS)


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_are_written_immediately_and_sorted_at_the_end(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    with open_results(path) as results:
        for number, round_ in ((3, 1), (1, 2), (2, 1)):
            results.add(record(number, round_))
        assert [r["line"] for r in written(path)] == [3, 1, 2]
    assert [(r["round"], r["line"]) for r in written(path)] == [(1, 2), (1, 3), (2, 1)]
    assert list(tmp_path.iterdir()) == [path], "no draft is left"


def test_an_interrupted_file_is_sorted_too(tmp_path) -> None:
    path = tmp_path / "out.jsonl"

    def batch() -> None:
        with open_results(path) as results:
            results.add(record(2))
            results.add(record(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch()
    assert [r["line"] for r in written(path)] == [1, 2]


def test_an_unfinished_last_line_is_dropped_and_the_batch_continues(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(to_json_line(record(5)) + to_json_line(record(2)) + to_json_line(record(9))[:30])
    with open_results(path) as results:
        assert sorted(results.records) == [(1, 2), (1, 5)]
        results.add(record(3))
        assert [r["line"] for r in written(path)] == [5, 2, 3], "the new line does not go on with the broken one"
    assert [r["line"] for r in written(path)] == [2, 3, 5]


def test_the_latest_record_of_a_question_counts(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(to_json_line(record(1, error="No.")) + to_json_line(record(1, answer="Yes.")))
    with open_results(path) as results:
        assert results.records[1, 1]["answer"] == "Yes."
    assert [r["answer"] for r in written(path)] == ["Yes."]


@pytest.mark.parametrize(
    "content", ['{"a": 1}\n', "my notes\n", "my notes", "[1]\n", "3\n", '{"round": "x", "line": 1}\n', "\xff\n"]
)
def test_a_file_of_something_else_is_refused_and_not_changed(content: str, tmp_path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"notes\.txt is no place for these results"), open_results(path):
        pass
    assert path.read_text(encoding="latin-1") == content


def test_an_unwritable_path_is_reported(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"), open_results(tmp_path / "no" / "x"):
        pass
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"), open_results(tmp_path):
        pass


def test_a_second_batch_for_the_same_file_is_refused(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    with open_results(path), pytest.raises(ConfigError, match="Another batch is writing"), open_results(path):
        pass


# --- is it the same question? --------------------------------------------------------------------------------------------

ASKED = record(1, answer=None, finish_reason=None, parameters={"top_k": 1, "seed": None})


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "Bye?"},
        {"system_prompt": "Be brief."},
        {"model": "another"},
        {"parameters": {"top_k": 2, "seed": None}},
        {"parameters": {"top_k": 1, "seed": 8}},
        {"image": {"source": "a.png"}},
    ],
)
def test_an_answer_to_another_question_is_refused(changed: dict[str, Any], tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(to_json_line(record(1)))
    with open_results(path) as results:
        check_same_batch(path, results, {(1, 1): ASKED})
        with pytest.raises(ConfigError, match="its answer to line 1 is not to what line 1 of the batch asks now"):
            check_same_batch(path, results, {(1, 1): ASKED | changed})
    assert len(written(path)) == 1


def test_a_changed_image_is_another_question(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(to_json_line(record(1, image={"source": "a.png", "digest": "0"})))
    with open_results(path) as results:
        for digest in ("0", None):  # None: it cannot be told without fetching
            check_same_batch(path, results, {(1, 1): ASKED | {"image": {"source": "a.png", "digest": digest}}})
        with pytest.raises(ConfigError):
            check_same_batch(path, results, {(1, 1): ASKED | {"image": {"source": "a.png", "digest": "1"}}})


def test_an_ignored_seed_is_not_compared(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(to_json_line(record(1, parameters={"top_k": 1, "seed": None}, ignored={"seed": "It draws by itself."})))
    with open_results(path) as results:
        check_same_batch(path, results, {(1, 1): ASKED | {"parameters": {"top_k": 1, "seed": 8}}})


def test_a_failed_line_may_change(tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(
        to_json_line(record(1, prompt=None, error="It is not valid JSON.")) + to_json_line(record(2, finish_reason="time_limit"))
    )
    with open_results(path) as results:
        check_same_batch(path, results, {(1, 1): ASKED})
        assert all(map(failed, results.records.values()))


# --- printing ------------------------------------------------------------------------------------------------------------


def test_records_are_printed_in_order_in_the_tutorials_format() -> None:
    out = io.StringIO()
    printer = OrderedPrinter(out, KEYS, FORMAT, as_json=False)
    printer.add(record(2, answer="Zwei.\n"))
    assert out.getvalue() == ""
    printer.add(record(1))
    assert out.getvalue() == "Prompt: '<p>', Generated text: 'Hi.'\nPrompt: '<p>', Generated text: 'Zwei.\\n'\n"
    printer.add(record(3, error="No."))
    assert out.getvalue().count("\n") == 2, "what failed is told elsewhere"


def test_waiting_records_are_printed_after_an_interruption() -> None:
    out = io.StringIO()
    printer = OrderedPrinter(out, KEYS, FORMAT, as_json=True)
    printer.add(record(2))
    printer.close()
    assert json.loads(out.getvalue())["line"] == 2
