"""The direction of the arrows: what importing a room brings along, and what it must not."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
MODEL = {"torch", "transformers"}
WEB = {"gradio", "fastapi", "starlette", "uvicorn"}

# In the order of import. Each room may know at least what those above it may, so that one interpreter shows them all: what
# a room must not bring cannot be there already, unless a room above has failed.
FORBIDDEN = {
    "mllama_demo.engine.scheduler": MODEL | WEB | {"sqlalchemy", "tokenizers"},
    "mllama_demo.chat.prompt": MODEL | WEB | {"sqlalchemy"},
    "app": MODEL | WEB | {"sqlalchemy"},
    "mllama_demo.assembly": MODEL | WEB | {"sqlalchemy"},
    "mllama_demo.web.loading_app": MODEL | WEB | {"sqlalchemy"},
    "mllama_demo.generation.service": MODEL | WEB | {"sqlalchemy"},
    "mllama_demo.generation.tasks": MODEL | WEB,
    "mllama_demo.backends": MODEL | WEB,
    "mllama_demo.present.presenter": MODEL | WEB,
    "mllama_demo.ui.formatting": MODEL | WEB,
    "mllama_demo.openai_api.routes": MODEL | {"gradio"},
    "mllama_demo.ui.chat_page": MODEL,
}
CODE = """
import importlib, json, sys
def loaded(): return {name.partition(".")[0] for name in sys.modules}
brought = {}
for module in sys.argv[1:]:
    before = loaded()
    importlib.import_module(module)
    brought[module] = sorted(loaded() - before)
print(json.dumps(brought))
"""


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The top-level packages that came with each room, in a fresh interpreter."""
    home = str(tmp_path_factory.mktemp("home"))
    environment = {**os.environ, "HOME": home, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *FORBIDDEN], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return {module: set(names) for module, names in json.loads(done.stdout).items()}


def test_the_order_of_the_rooms_is_one_in_which_each_can_be_judged() -> None:
    rules = list(FORBIDDEN.values())
    assert all(later <= earlier for earlier, later in itertools.pairwise(rules))


@pytest.mark.parametrize("module", FORBIDDEN)
def test_importing_a_room_does_not_bring_what_it_must_not_know(module: str, brought: dict[str, set[str]]) -> None:
    assert brought[module] & FORBIDDEN[module] == set()


def test_what_a_room_may_know_is_seen_to_come_with_it(brought: dict[str, set[str]]) -> None:
    """The measure works: the page brings Gradio, and the store its database."""
    assert "gradio" in brought["mllama_demo.ui.chat_page"]
    assert "fastapi" in brought["mllama_demo.openai_api.routes"]
    assert "sqlalchemy" in brought["mllama_demo.generation.tasks"]
    assert "tokenizers" in brought["mllama_demo.chat.prompt"]
