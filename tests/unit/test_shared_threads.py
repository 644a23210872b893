"""What runs in the threads that all requests share: nothing that waits for the database, for an image or for a password.

Each of these has threads of its own, so that it holds up nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mllama_demo

PACKAGE = Path(mllama_demo.__file__).parent
CALLS = {"asyncio.to_thread", "run_in_threadpool", "anyio.to_thread.run_sync"}
# The functions that hand work to the shared threads, and the work.
ALLOWED = {
    ("chat/live_rendering.py", "render"): "an answer becomes HTML",
    ("engine/process/child.py", "run"): "the process ends",
    ("engine/remote/backend.py", "_image_url"): "an image is encoded",
    ("engine/vllm/backend.py", "_answer"): "a prompt is built",
    ("explore/web/routes.py", "whatif"): "probabilities are computed",
    ("generation/request.py", "build"): "a prompt is built",
    ("offline/ask.py", "_fill"): "a command without a server",
    ("present/presenter.py", "rehearse"): "a recording is written",
    ("ui/history.py", "load_history"): "messages become HTML",
    ("web/share/routes.py", "html"): "messages become HTML",
}
# Routes that are plain functions, which FastAPI runs in the shared threads: they compute with a run that was loaded before.
PLAIN_ROUTES = {"about", "code", "compare", "heat", "image", "one", "export", "page", "steps", "tokens"}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield path.relative_to(PACKAGE).as_posix(), node


@pytest.mark.slow
def test_the_shared_threads_get_no_work_that_waits() -> None:
    found = set()
    for path, function in functions():
        inner = [
            node for node in ast.walk(function) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node != function
        ]
        within = {node for nested in inner for node in ast.walk(nested)}
        names = {
            ast.unparse(node) for node in ast.walk(function) if isinstance(node, (ast.Attribute, ast.Name)) and node not in within
        }
        if names & CALLS:
            found.add((path, function.name))
    assert found == set(ALLOWED)


@pytest.mark.slow
def test_plain_routes_wait_for_neither_database_nor_images() -> None:
    found = set()
    for path, function in functions():
        decorators = [ast.unparse(one) for one in function.decorator_list]
        is_route = any(one.startswith(("router.", "app.")) and "(" in one for one in decorators)
        if (
            is_route
            and isinstance(function, ast.FunctionDef)
            and not {"database_route", "image_route"} & {*decorators}
            and path.startswith(("explore/", "present/"))
        ):
            found.add(function.name)
    assert found <= PLAIN_ROUTES, found - PLAIN_ROUTES
