"""Prints the records of a batch, or writes them as JSON lines to a file from which an interrupted batch can continue.

A record is appended as soon as it is complete. At the end the file is sorted into the order of the batch and replaced at once.
Knows no backend, and of a record only what its RecordFormat says.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mllama_demo.errors import ConfigError
from mllama_demo.runtime.process import exclusive_lock
from mllama_demo.runtime.whole_file import whole_file

Record = dict[str, Any]
Key = Hashable


@dataclass(frozen=True)
class RecordFormat:
    """One kind of records.

    Attributes:
        begin: How each line of a file begins.
        key: Returns the key of a record. Raises ValueError, KeyError, TypeError or AttributeError for anything else.
        failure: Returns the line for the terminal of a record without an answer; None where there is an answer.
        tokens: Returns how many tokens the answer has.
        text: Returns the line to print in place of JSON. Nothing is printed for a failed record. None prints JSON.
    """

    begin: bytes
    key: Callable[[Record], Key]
    failure: Callable[[Record], str | None]
    tokens: Callable[[Record], int]
    text: Callable[[Record], str] | None = None


def to_json_line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


class OrderedPrinter:
    """Prints records in the order of `keys`. A record that is early waits for those before it."""

    def __init__(self, out: IO[str], keys: Sequence[Key], format: RecordFormat, *, as_json: bool) -> None:
        self._out, self._keys, self._format, self._as_json = out, list(reversed(keys)), format, as_json
        self._waiting: dict[Key, Record] = {}

    def add(self, record: Record) -> None:
        self._waiting[self._format.key(record)] = record
        while self._keys and self._keys[-1] in self._waiting:
            self._print(self._waiting.pop(self._keys.pop()))

    def close(self) -> None:
        """Prints the records that wait for a question without an answer."""
        for key in reversed(self._keys):
            if key in self._waiting:
                self._print(self._waiting.pop(key))

    def _print(self, record: Record) -> None:
        if self._as_json or self._format.text is None:
            print(to_json_line(record), end="", file=self._out, flush=True)
        elif self._format.failure(record) is None:
            print(self._format.text(record), file=self._out, flush=True)


class Results:
    """An open file of results. `records` has the latest record of each question."""

    def __init__(self, file: IO[str], records: dict[Key, Record], format: RecordFormat) -> None:
        self._file, self._format = file, format
        self.records = records

    def add(self, record: Record) -> None:
        """Writes the record at once, so that the file has it even if the program is killed."""
        self.records[self._format.key(record)] = record
        self._file.write(to_json_line(record))
        self._file.flush()


@contextlib.contextmanager
def open_results(path: Path, format: RecordFormat, keys: Sequence[Key]) -> Iterator[Results]:
    """Opens the results in a new or existing file. The file is sorted at the end, also after an exception.

    Args:
        keys: The order of the records. Records with other keys come last.

    Raises:
        ConfigError: the file cannot be used, holds something else, or is open in another process.
    """
    try:
        path.touch()
    except OSError as error:
        raise ConfigError(f"The results {path} cannot be written: {error.strerror}.") from None
    with exclusive_lock(path, "Another batch"):
        records, size = _read(path, format)
        os.truncate(path, size)
        results = None
        try:
            with path.open("a", encoding="utf-8", newline="\n") as file:
                results = Results(file, records, format)
                yield results
        finally:  # after the file is closed: Windows does not replace an open one
            if results is not None:
                _write_sorted(path, results.records, keys)


def _read(path: Path, format: RecordFormat) -> tuple[dict[Key, Record], int]:
    """The records, and their size in bytes without the last line if a killed program did not finish it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The results {path} cannot be read: {error.strerror}.") from None
    size = content.rfind(b"\n") + 1
    records = {}
    for number, line in enumerate(content[:size].splitlines(), start=1):
        try:
            record = json.loads(line)
            format.failure(record)
            records[format.key(record)] = record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise wrong_file(path, f"line {number} is no result of such a batch") from None
    if size < len(content) and not content[size:].startswith(format.begin):
        raise wrong_file(path, "it holds no results of such a batch")
    return records, size


def wrong_file(path: Path, what: str) -> ConfigError:
    return ConfigError(f"The file {path} is no place for these results: {what}. Name another one with --output, or remove it.")


def _write_sorted(path: Path, records: dict[Key, Record], keys: Sequence[Key]) -> None:
    order = {key: place for place, key in enumerate(keys)}
    with whole_file(path, durable=True) as file:
        for key in sorted(records, key=lambda key: order.get(key, len(order))):
            file.write(to_json_line(records[key]).encode())
        Path(file.name).chmod(path.stat().st_mode & 0o777)
