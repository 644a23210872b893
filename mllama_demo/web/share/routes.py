"""The page behind a share link. It needs no model, no script and no sign-in."""

from __future__ import annotations

from cachetools import LRUCache
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from mllama_demo.chat.conversation import ImageRef
from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import DemoError
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.images.threads import in_image_thread
from mllama_demo.storage.shares import Share
from mllama_demo.storage.stores import Stores
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.web.requests import html_page
from mllama_demo.web.share.export import to_html
from mllama_demo.web.share.notices import share_notice

MAX_CACHED_PAGES = 32


class SharePages:
    """Renders shared conversations. Caches the pages, because decoding images takes long and a share never changes."""

    def __init__(self, stores: Stores, settings: Settings, brand: Brand) -> None:
        self._shares, self._conversations = stores.shares, stores.conversations
        self._limits, self._brand = settings.image_limits, brand
        self._pages: LRUCache[str, str] = LRUCache(MAX_CACHED_PAGES)  # by digest of the token

    async def html(self, token: str) -> str:
        """Returns the page of a share link.

        Raises:
            NotFound: the link is unknown.
            ShareGone: the link is expired or revoked.
            ServerBusy: the page has images, is not cached, and too many images are waiting.
        """
        share = await in_database_thread(self._shares.open, token)
        page = self._pages.get(share.digest)
        if page is None:
            has_images = any(message.image is not None for message in share.conversation.messages)
            page = await (in_image_thread if has_images else run_in_threadpool)(self._render, share)
            self._pages[share.digest] = page
        return page

    def _render(self, share: Share) -> str:
        dates = f"Shared on {share.created:%Y-%m-%d} · read only · the link expires on {share.expires:%Y-%m-%d at %H:%M} UTC"
        return to_html(share.conversation, self._load, self._brand, dates)

    def _load(self, image: ImageRef) -> LoadedImage:
        return load_image(self._conversations.image_bytes(image.digest), image.name, self._limits)


def add_share_page(app: FastAPI, settings: Settings, stores: Stores, brand: Brand) -> None:
    """Adds GET /share/<token>: status 200 with the page, 410 for an expired or revoked link, 404 for an unknown link."""
    pages = SharePages(stores, settings, brand)

    @app.api_route("/share/{token:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def share(token: str, request: Request) -> Response:
        # The address is the secret, so that no link on the page may send it to another site as its referrer.
        headers = {"Referrer-Policy": "no-referrer"}
        try:
            return html_page(await pages.html(token), headers=headers)
        except DemoError as error:
            return share_notice(brand, error, headers)
