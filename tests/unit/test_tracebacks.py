"""A test that ends between two lines fails alone, and does not end the whole run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, TracebackType

import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has -1 there, which pytest can subtract from")


def _struck() -> None:
    with Path("/dev/null").open():
        pass
    raise ValueError("struck")


def _between_lines(code: CodeType) -> int:
    """The offset of an instruction that belongs to no line."""
    return next(start for start, _, line in code.co_lines() if line is None)


def _error() -> ValueError:
    """An error as a signal handler raises it, while the end of a `with` block runs."""
    with pytest.raises(ValueError, match="struck") as caught:
        _struck()
    root = caught.value.__traceback__
    assert root is not None
    assert root.tb_next is not None
    frame = root.tb_next.tb_frame
    root.tb_next = TracebackType(None, frame, _between_lines(frame.f_code), -1)
    return caught.value


def _raise_itself() -> None:
    raise _error()


def _raise_another() -> None:
    raise KeyError("another") from _error()


@pytest.mark.parametrize("run", [_raise_itself, _raise_another])
def test_a_test_that_ends_between_two_lines_gets_its_report(request: pytest.FixtureRequest, run: Callable[[], None]) -> None:
    call = pytest.CallInfo.from_call(run, "call", reraise=pytest.skip.Exception)
    report = request.config.hook.pytest_runtest_makereport(item=request.node, call=call)
    assert report.failed
    assert "struck" in report.longreprtext


def test_pytest_still_needs_line_numbers() -> None:
    """When this fails, tests/support/tracebacks.py may go."""
    with pytest.raises(TypeError, match="NoneType"):
        pytest.ExceptionInfo.from_exception(_error()).getrepr()
