"""Serves the JavaScript and CSS of Gradio from memory, compressed once.

Gradio: 6.31.0, 6.17.3
Defect: a first visit loads about 90 files below /assets. Gradio compresses each file again for each visitor, and sends no
  Cache-Control header, so that browsers ask again whether a file has changed. The names of the files have a hash of the content.
Report: no upstream report known
Test: tests/unit/ui/test_gradio_patches.py::test_assets_are_compressed_once_and_may_be_kept_by_browsers
"""

from __future__ import annotations

import mimetypes
from functools import cache
from pathlib import Path

import gradio
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from mllama_demo.web.compression import compress, encoding_for

FOLDER = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
COMPRESSIBLE = (".js", ".css", ".svg", ".json")
KEEP = "public, max-age=31536000, immutable"


class AssetFiles:
    """The ASGI application of the path /assets."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {file.name: file for file in folder.iterdir()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].rpartition("/")[2]
        if scope["method"] not in ("GET", "HEAD"):
            response = PlainTextResponse("Only GET and HEAD are allowed here.", 405)
        elif name not in self._files:
            response = PlainTextResponse("There is no such file.", 404)
        else:
            response = _response(self._files[name], encoding_for(Headers(scope=scope).get("accept-encoding", "")))
        await response(scope, receive, send)


def _response(file: Path, encoding: str | None) -> Response:
    headers = {"cache-control": KEEP, "vary": "Accept-Encoding"}
    if encoding is not None and file.suffix in COMPRESSIBLE:
        headers["content-encoding"] = encoding
    else:
        encoding = None
    return Response(_content(file, encoding), headers=headers, media_type=mimetypes.guess_type(file.name)[0])


@cache
def _content(file: Path, encoding: str | None) -> bytes:
    return compress(file.read_bytes(), encoding)
