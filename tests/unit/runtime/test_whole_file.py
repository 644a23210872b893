"""A file is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama_demo.runtime.whole_file import whole_file


@pytest.mark.parametrize("durable", [True, False])
def test_a_failure_while_a_file_is_written_leaves_the_old_one_and_nothing_beside(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / "file"
    with whole_file(file, durable=durable) as stream:
        stream.write(b"old")
    with pytest.raises(TypeError), whole_file(file, durable=durable) as stream:
        stream.writelines([b"ne", "w"])  # type: ignore[list-item]  # fails after its first bytes
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_two_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with whole_file(file) as first, whole_file(file) as second:
        first.write(b"first")
        second.write(b"2")
    assert file.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    file = tmp_path / ("𠀀" * 62 + ".html")  # 253 of 255 bytes
    with whole_file(file) as stream:
        stream.write(b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(file.name, b"new")]
