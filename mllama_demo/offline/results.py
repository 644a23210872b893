"""Prints the records of a batch, or writes them as JSON lines to a file from which an interrupted batch can continue.

A record is appended as soon as it is complete. At the end the file is sorted into the order of the batch and replaced at once.
Knows no backend.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mllama_demo.errors import ConfigError
from mllama_demo.runtime.process import exclusive_lock

Record = dict[str, Any]
Key = tuple[int, int]  # round and line number

# Answers with these reasons are complete. After other reasons, such as a time limit, the question is asked again.
FINISHED = ("end_of_turn", "stop_string", "max_tokens", "context_full")


def key_of(record: Record) -> Key:
    return record["round"], record["line"]


def failed(record: Record) -> bool:
    return record["error"] is not None or record["finish_reason"] not in FINISHED


def same_question(record: Record, asked: Record) -> bool:
    """Whether a record of an earlier run is for the same prompt, image, parameters and model as `asked`.

    A seed or model of None in `asked` matches any, and so does a seed that the backend ignored. The digests of the images are
    compared only if `asked` has one, since a URL has none before it is fetched.
    """
    old, parameters = record.get("parameters") or {}, dict(asked["parameters"])
    if parameters["seed"] is None or "seed" in record.get("ignored", ()):
        del parameters["seed"]
    if any(old.get(key) != value for key, value in parameters.items()):
        return False
    old_image, image = record.get("image") or {}, asked["image"] or {}
    if old_image.get("source") != image.get("source") or image.get("digest") not in (None, old_image.get("digest")):
        return False
    if asked["model"] not in (None, record.get("model")):
        return False
    return all(record.get(key) == asked[key] for key in ("prompt", "system_prompt"))


def to_json_line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


class OrderedPrinter:
    """Prints records in the order of `keys`. A record that is early waits for those before it."""

    def __init__(self, out: IO[str], keys: Sequence[Key], *, as_json: bool) -> None:
        self._out, self._keys, self._as_json = out, list(reversed(keys)), as_json
        self._waiting: dict[Key, Record] = {}

    def add(self, record: Record) -> None:
        self._waiting[key_of(record)] = record
        while self._keys and self._keys[-1] in self._waiting:
            self._print(self._waiting.pop(self._keys.pop()))

    def close(self) -> None:
        """Prints the records that wait for a question without an answer."""
        for key in sorted(self._waiting):
            self._print(self._waiting.pop(key))

    def _print(self, record: Record) -> None:
        if self._as_json:
            print(to_json_line(record), end="", file=self._out, flush=True)
        elif not failed(record):  # the format of AWS's tutorial
            print(f"Prompt: {record['prompt_text']!r}, Generated text: {record['answer']!r}", file=self._out, flush=True)


class Results:
    """An open file of results. `records` has the latest record of each question."""

    def __init__(self, file: IO[str], records: Sequence[Record]) -> None:
        self._file = file
        self.records: dict[Key, Record] = {key_of(record): record for record in records}

    def add(self, record: Record) -> None:
        """Writes the record at once, so that the file has it even if the program is killed."""
        self.records[key_of(record)] = record
        self._file.write(to_json_line(record))
        self._file.flush()


@contextlib.contextmanager
def open_results(path: Path) -> Iterator[Results]:
    """Opens the results in a new or existing file. The file is sorted at the end, also after an exception.

    Raises:
        ConfigError: the file cannot be used, holds something else, or is open in another process.
    """
    try:
        path.touch()
    except OSError as error:
        raise ConfigError(f"The results {path} cannot be written: {error.strerror}.") from None
    with exclusive_lock(path, "Another batch"):
        records, size = _read(path)
        os.truncate(path, size)
        with path.open("a", encoding="utf-8") as file:
            results = Results(file, records)
            try:
                yield results
            finally:
                _write_sorted(path, results.records)


def _read(path: Path) -> tuple[list[Record], int]:
    """The records, and their size in bytes without the last line if a killed program did not finish it."""
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
            raise _wrong_file(path, f"line {number} is no result of a batch") from None
        records.append(record)
    if size < len(content) and not content[size:].startswith(b'{"round": '):
        raise _wrong_file(path, "it holds no results of a batch")
    return records, size


def _wrong_file(path: Path, what: str) -> ConfigError:
    return ConfigError(f"The file {path} is no place for these results: {what}. Name another one with --output, or remove it.")


def _write_sorted(path: Path, records: dict[Key, Record]) -> None:
    partial = path.with_name(f".{path.name}.sorted")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(to_json_line(records[key]) for key in sorted(records))
        file.flush()
        os.fsync(file.fileno())
    partial.chmod(path.stat().st_mode & 0o777)
    partial.replace(path)


def check_same_batch(path: Path, results: Results, asked: dict[Key, Record]) -> None:
    """Checks that the answers in the file are answers to this batch. Failed records may be for anything.

    Args:
        asked: the empty record of each question.

    Raises:
        ConfigError: the file belongs to another batch, or the batch was changed.
    """
    for (round_, line), record in results.records.items():
        empty = asked.get((round_, line))
        if not failed(record) and (empty is None or not same_question(record, empty)):
            raise _wrong_file(path, f"its answer to line {line} is not to what line {line} of the batch asks now")
