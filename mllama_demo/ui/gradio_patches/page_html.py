"""Changes the HTML of Gradio's page: a head of its own from the first byte, the title of this demo, and compression.

Gradio: 6.31.0, 6.17.3
Defect: JavaScript adds the argument `head` of mount_gradio_app, after the first paint and after Gradio has read the language of
  the browser. The served page has no title, its preview in messengers says "Gradio: Click to try out the app!" with an image from
  another host, and its 200 kB are not compressed. Its manifest and a script are outside of the path below which a proxy
  serves the page.
Report: no upstream report known
Test: tests/unit/ui/test_page_html.py::test_gradio_adds_the_head_only_by_javascript
"""

from __future__ import annotations

import html
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama_demo.web.compression import compress, encoding_for

_PREVIEW = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*')
_ROOT = re.compile(rb'const root = "[^"]*";')
_HEAD = re.compile(rb'<head>\s*<meta charset="utf-8" ?/?>')


class PageHtml:
    """A middleware that changes the response of the page at /.

    Args:
        title: The title of the page, as plain text.
        description: A sentence for previews of the page's address.
        head: HTML for the head, before everything of Gradio's.
    """

    def __init__(self, app: ASGIApp, title: str, description: str, head: str) -> None:
        self._app = app
        title, description = html.escape(title), html.escape(description)
        self._head = (
            f'<title>{title}</title><meta name="description" content="{description}">'
            f'<meta property="og:title" content="{title}"><meta property="og:description" content="{description}">{head}'
        ).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        encoding = encoding_for(Headers(scope=scope).get("accept-encoding", ""))
        start: Message = {}
        body = bytearray()

        async def send_changed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            content = compress(self._change(bytes(body)), encoding)
            headers = MutableHeaders(scope=start)
            headers.add_vary_header("Accept-Encoding")
            headers["Content-Length"] = str(len(content))
            if encoding is not None:
                headers["Content-Encoding"] = encoding
            await send(start)
            await send({"type": "http.response.body", "body": content})

        await self._app(scope, receive, send_changed)

    def _change(self, page: bytes) -> bytes:
        """The page with the head. Another response, such as an error, stays as it is."""
        if not _HEAD.search(page):
            return page
        page = _PREVIEW.sub(b"", page).replace(b'href="/manifest.json"', b'href="manifest.json"')
        page = _ROOT.sub(b'const root = window.gradio_config?.root ?? "";', page)  # see page_root.js
        return _HEAD.sub(lambda found: found[0] + self._head, page, count=1)
