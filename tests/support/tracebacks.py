"""Line numbers for tracebacks that lack them, which end a run of pytest 9.2 with an INTERNALERROR.

Some instructions, such as the end of a `with` block, belong to no line. An exception of a signal handler, such as that of
pytest-timeout, may come between any two instructions. pytest subtracts 1 from the line number, which Python 3.11 says is None.
"""

from __future__ import annotations

from types import TracebackType


def add_line_numbers(error: BaseException) -> None:
    """Gives each traceback entry without a line number that of the function, also in the errors that led to this one."""
    errors, seen = [error], set[int]()
    while errors:
        each = errors.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        errors += [other for other in (each.__cause__, each.__context__) if other is not None]
        if each.__traceback__ is not None:
            each.__traceback__ = entry = _numbered(each.__traceback__)
            while entry.tb_next is not None:
                entry.tb_next = entry = _numbered(entry.tb_next)


def _numbered(entry: TracebackType) -> TracebackType:
    line: int | None = entry.tb_lineno
    if line is not None:
        return entry
    return TracebackType(entry.tb_next, entry.tb_frame, entry.tb_lasti, entry.tb_frame.f_code.co_firstlineno)
