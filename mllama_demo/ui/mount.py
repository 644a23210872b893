"""Mounts the chat page on the web application."""

from __future__ import annotations

import atexit

import gradio as gr
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from mllama_demo.chat.export import MAX_FILE_BYTES
from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import DemoError
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_page import ChatPage
from mllama_demo.ui.chat_service import ChatService
from mllama_demo.ui.gradio_patches.asset_files import AssetFiles
from mllama_demo.ui.gradio_patches.page_html import PageHtml
from mllama_demo.ui.gradio_patches.run_history import without_run_history
from mllama_demo.ui.gradio_patches.signed_in_user import auth_dependency
from mllama_demo.ui.kiosk import OWNER_PREFIX
from mllama_demo.ui.opening import opening_head
from mllama_demo.ui.theme import CSS, HEAD, make_theme
from mllama_demo.web.auth.login import signed_in_user
from mllama_demo.web.errors import ApiError
from mllama_demo.web.requests import require_same_origin

# For previews of the address in messengers.
DESCRIPTION = "Ask about a picture, and see what temperature, top-p and top-k do to the answer."


def mount_ui(app: FastAPI, settings: Settings, service: ChatService, stores: Stores, brand: Brand) -> None:
    """Builds the page and mounts it at the root of `app`."""
    atexit.register(service.close)
    service.session_cleanup.erase_all(OWNER_PREFIX)
    chat_page = ChatPage(settings, service, stores, brand)

    # See gradio_patches/page_close.js.
    @app.post("/closed/{page_id}", status_code=204, include_in_schema=False, dependencies=[Depends(require_same_origin)])
    async def closed(page_id: str) -> None:
        await chat_page.close_page(page_id)

    # See static/attachments.js. page: the id of the page, which alone knows it; a kiosk's page owns its conversations.
    @app.get("/picture/{digest}", include_in_schema=False)
    async def picture(request: Request, digest: str, page: str = "") -> Response:
        owner = chat_page.owner_of(page if page.isalnum() else "", request.headers.get("cookie"), signed_in_user(request))
        try:
            data, media_type = await service.full_size(owner, digest)
        except DemoError as error:
            return ApiError.from_demo_error(error).response()
        return Response(data, media_type=media_type, headers={"Cache-Control": "private, no-store"})

    # See static/connection.js.
    @app.get("/status", include_in_schema=False)
    async def status() -> JSONResponse:
        return JSONResponse({"state": service.state(), "html": service.status()}, headers={"Cache-Control": "no-store"})

    app.add_middleware(PageHtml, brand.title, DESCRIPTION, HEAD + opening_head(brand.title, brand.color))
    app.mount("/assets", AssetFiles())  # before Gradio's own, which is part of the application mounted at /
    gr.mount_gradio_app(
        app,
        chat_page.build(),
        path="/",
        theme=make_theme(),
        css=CSS + brand.gradio_css(),
        auth_dependency=auth_dependency(settings.users is not None),
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        show_error=True,
        allowed_paths=[str(service.previews), str(EXAMPLES_FOLDER)],
        max_file_size=max(settings.max_image_bytes, MAX_FILE_BYTES),
        **without_run_history(),
    )
