"""The threads in which event loops use the database. A database that is slow, or silent, holds these threads and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mllama_demo.errors import DatabaseUnavailable
from mllama_demo.runtime.threads import WorkThreads

P = ParamSpec("P")
T = TypeVar("T")


def _busy() -> DatabaseUnavailable:
    return DatabaseUnavailable("Too much waits for the database of conversations; try again later.")


# Nothing waits for long: a database that lets somebody wait in vain refuses all others at once, see Database.
_THREADS = WorkThreads("database", 8, 1000, _busy)


async def in_database_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function that uses the database. Raises DatabaseUnavailable when too much is waiting."""
    return await _THREADS.run(work, *args, **kwargs)


# Has FastAPI run a route, or a dependency, in a thread for the database, instead of one that all requests share.
database_route = _THREADS.wrap
