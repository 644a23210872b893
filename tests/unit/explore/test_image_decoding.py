# pyright: reportArgumentType=false
"""The routes that generate tokens decode the image of a run in a thread."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ImageError
from mllama_demo.explore.web.routes import explore_page
from mllama_demo.web.auth.identity import COOKIE


@pytest.mark.parametrize(
    ("path", "body"), [("again", {}), ("cells/0/rerun", {}), ("cells/0/branch", {"position": 0, "token_id": 1})]
)
def test_the_event_loop_does_not_decode_the_image_of_a_run(path: str, body: dict[str, Any]) -> None:
    in_loop: list[bool] = []

    def image_of(_run: Any) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            in_loop.append(False)
        else:
            in_loop.append(True)
        raise ImageError("This picture is broken.")

    run = SimpleNamespace(grid=None, branch_at=lambda _index: None)
    service = SimpleNamespace(
        runs=SimpleNamespace(load=lambda _owner, _id: run),
        image_of=image_of,
        settings=Settings(),
        explorer=SimpleNamespace(start=None, rerun_cell=None, branch=None),
    )
    app = FastAPI()
    app.include_router(explore_page(service, load_brand(Settings())))
    client = TestClient(app, cookies={COOKIE: "a" * 32})
    with pytest.raises(ImageError):
        client.post(f"/explore/runs/one/{path}", json=body)
    assert in_loop == [False]
