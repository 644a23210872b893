"""The page behind a share link: plain HTML from the store, needing neither a model nor a script nor a sign-in."""

from __future__ import annotations

import threading
from collections import OrderedDict

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from mllama_demo.chat.conversation import ImageRef
from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import DemoError, NotFound
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.storage.shares import Share, ShareGone
from mllama_demo.storage.stores import Stores
from mllama_demo.web.requests import html_page, notice_page
from mllama_demo.web.share.export import to_html

KEPT_PAGES = 32


class SharePages:
    """Makes the pages, and keeps the last few: decoding pictures is worth doing once, and what a share shows never changes."""

    def __init__(self, stores: Stores, settings: Settings, brand: Brand) -> None:
        self._shares = stores.shares
        self._store, self._limits, self._brand = stores.conversations, settings.image_limits, brand
        self._made: OrderedDict[str, str] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def html(self, token: str) -> str:
        """Raises NotFound and ShareGone with a sentence for the reader."""
        share = self._shares.open(token)
        with self._one_at_a_time:
            made = self._made.pop(share.digest, None) or self._make(share)
            self._made[share.digest] = made
            while len(self._made) > KEPT_PAGES:
                self._made.popitem(last=False)
        return made

    def _make(self, share: Share) -> str:
        dates = f"Shared on {share.created:%Y-%m-%d} · read only · the link expires on {share.expires:%Y-%m-%d at %H:%M} UTC"
        return to_html(share.conversation, self._load, self._brand, dates)

    def _load(self, image: ImageRef) -> LoadedImage:
        return load_image(self._store.image_bytes(image.digest), image.name, self._limits)


def add_share_page(app: FastAPI, settings: Settings, stores: Stores, brand: Brand) -> None:
    """GET /share/<token>: 200 with the page, 410 when the link is over, 404 when there is none."""
    pages = SharePages(stores, settings, brand)

    @app.api_route("/share/{token:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def share(token: str, request: Request) -> Response:
        # The address is the secret: a link followed from here must not carry it along.
        headers = {"Referrer-Policy": "no-referrer"}
        try:
            return html_page(await run_in_threadpool(pages.html, token), headers=headers)
        except DemoError as error:
            heading = "This link is over" if isinstance(error, ShareGone) else "Nothing is shared here"
            if not isinstance(error, (ShareGone, NotFound)):
                heading = "Not now"
            return notice_page(brand, heading, str(error), error.status, headers=headers)
