"""What came of each question: a record, printed, or kept as one JSON object a line in a file that survives an interruption.

While the batch runs, results are appended as they come; at its end the file is put into the order of the batch in one move. A
file that is there already is gone on with: what it answers is not asked again. Knows nothing of backends.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mllama_demo.errors import ConfigError
from mllama_demo.runtime.process import only_one

Record = dict[str, Any]
Key = tuple[int, int]  # round and line: which question of which round

# Ends after which nothing is left to ask; the others, such as a time limit, may turn out otherwise the next time.
FINISHED = ("end_of_turn", "stop_string", "max_tokens", "context_full")


def key_of(record: Record) -> Key:
    return record["round"], record["line"]


def failed(record: Record) -> bool:
    return record["error"] is not None or record["finish_reason"] not in FINISHED


def same_question(record: Record, asked: Record) -> bool:
    """Whether a record is of the question that `asked` puts now: the same words, image, parameters and model.

    A seed and a model count only where the question names one, the seed not for a backend that ignores it, and what an image
    shows where that can be told without fetching it.
    """
    before, now = record.get("parameters") or {}, dict(asked["parameters"])
    if now["seed"] is None or "seed" in record.get("ignored", ()):
        del now["seed"]
    if any(before.get(key) != value for key, value in now.items()):
        return False
    seen, shown = record.get("image") or {}, asked["image"] or {}
    if seen.get("source") != shown.get("source") or shown.get("digest") not in (None, seen.get("digest")):
        return False
    if asked["model"] not in (None, record.get("model")):
        return False
    return all(record.get(key) == asked[key] for key in ("prompt", "system_prompt"))


def as_line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


class Printer:
    """Prints records in the order of the batch, whatever the order they come in. keys: that order."""

    def __init__(self, out: IO[str], keys: Sequence[Key], *, as_json: bool) -> None:
        self._out, self._left, self._as_json = out, list(reversed(keys)), as_json
        self._held: dict[Key, Record] = {}

    def add(self, record: Record) -> None:
        self._held[key_of(record)] = record
        while self._left and self._left[-1] in self._held:
            self._print(self._held.pop(self._left.pop()))

    def close(self) -> None:
        """Prints what waits for a question that was never answered."""
        for key in sorted(self._held):
            self._print(self._held.pop(key))

    def _print(self, record: Record) -> None:
        if self._as_json:
            print(as_line(record), end="", file=self._out, flush=True)
        elif not failed(record):  # the format of AWS's tutorial
            print(f"Prompt: {record['prompt_text']!r}, Generated text: {record['answer']!r}", file=self._out, flush=True)


class Results:
    """An open file of results. records: the latest one of each question."""

    def __init__(self, file: IO[str], records: Sequence[Record]) -> None:
        self._file = file
        self.records: dict[Key, Record] = {key_of(record): record for record in records}

    def add(self, record: Record) -> None:
        """Written at once and whole, so that it is there even if the program is killed."""
        self.records[key_of(record)] = record
        self._file.write(as_line(record))
        self._file.flush()


@contextlib.contextmanager
def open_results(path: Path) -> Iterator[Results]:
    """The results in path, to go on with. Sorted when it ends, however that happens.

    Raises ConfigError when the file cannot be used, holds something else, or another process writes to it.
    """
    try:
        path.touch()
    except OSError as error:
        raise ConfigError(f"The results {path} cannot be written: {error.strerror}.") from None
    with only_one(path, "Another batch"):
        records, size = _read(path)
        os.truncate(path, size)
        with path.open("a", encoding="utf-8") as file:
            results = Results(file, records)
            try:
                yield results
            finally:
                _write_sorted(path, results.records)


def _read(path: Path) -> tuple[list[Record], int]:
    """The records, and the bytes they take. A last line without an end is what a killed program was writing."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The results {path} cannot be read: {error.strerror}.") from None
    size = content.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(content[:size].splitlines(), start=1):
        try:
            record = json.loads(line)
            key = key_of(record)
            if not all(isinstance(part, int) for part in key) or not {"error", "finish_reason"} <= record.keys():
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _foreign(path, f"line {number} is no result of a batch") from None
        records.append(record)
    if size < len(content) and not content[size:].startswith(b'{"round": '):
        raise _foreign(path, "it holds no results of a batch")
    return records, size


def _foreign(path: Path, what: str) -> ConfigError:
    return ConfigError(f"The file {path} is no place for these results: {what}. Name another one with --output, or remove it.")


def _write_sorted(path: Path, records: dict[Key, Record]) -> None:
    draft = path.with_name(f".{path.name}.sorted")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(as_line(records[key]) for key in sorted(records))
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(path.stat().st_mode & 0o777)
    draft.replace(path)


def check_kept(path: Path, results: Results, asked: dict[Key, Record]) -> None:
    """Raises ConfigError when the file answers a question that is not asked: it belongs to another batch, or the batch has
    changed since. Failed records are no loss and may be of anything. asked: the records of all questions, still blank."""
    for (round_, line), record in results.records.items():
        blank = asked.get((round_, line))
        if not failed(record) and (blank is None or not same_question(record, blank)):
            raise _foreign(path, f"its answer to line {line} is not to what line {line} of the batch asks now")
