"""Mounts the chat page on the web application."""

from __future__ import annotations

import atexit

from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from mllama_demo.chat.export import MAX_FILE_BYTES
from mllama_demo.config.branding import ICON_FILE, Brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import DemoError
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_page import ChatPage
from mllama_demo.ui.chat_service import ChatService
from mllama_demo.ui.gradio_patches.asset_files import AssetFiles
from mllama_demo.ui.gradio_patches.checked_requests import mount_checked
from mllama_demo.ui.gradio_patches.page_html import PageHtml
from mllama_demo.ui.gradio_patches.run_history import without_run_history
from mllama_demo.ui.gradio_patches.signed_in_user import auth_dependency
from mllama_demo.ui.opening import opening_head
from mllama_demo.ui.page_update import KIOSK
from mllama_demo.ui.theme import CSS, HEAD, make_theme
from mllama_demo.web.auth.identity import owner_of
from mllama_demo.web.auth.login import signed_in_user
from mllama_demo.web.errors import ApiError
from mllama_demo.web.requests import require_same_origin

# For previews of the address in messengers.
DESCRIPTION = "Ask about a picture, and see what temperature, top-p and top-k do to the answer."


def mount_ui(app: FastAPI, settings: Settings, service: ChatService, stores: Stores, brand: Brand) -> None:
    """Builds the page and mounts it at the root of `app`."""
    atexit.register(service.close)
    service.session_cleanup.erase_all(KIOSK)
    chat_page = ChatPage(settings, service, stores, brand)

    # See gradio_patches/page_close.js.
    @app.post("/closed/{page_id}", status_code=204, include_in_schema=False, dependencies=[Depends(require_same_origin)])
    async def closed(page_id: str) -> None:
        await chat_page.close_page(page_id)

    # See static/attachments.js. page: the id of the page, which alone knows it; a kiosk's page owns its conversations.
    @app.get("/picture/{name}", include_in_schema=False)
    async def picture(request: Request, name: str, page: str = "") -> Response:
        owner = chat_page.owner_of(page if page.isalnum() else "", request.headers.get("cookie"), signed_in_user(request))
        try:
            data, media_type = await service.image_access.full_size(owner, name)
        except DemoError as error:
            return ApiError.from_demo_error(error).response()
        return Response(data, media_type=media_type, headers={"Cache-Control": "private, no-store"})

    # Gradio serves its previews to everybody who knows their address. This route comes before Gradio's.
    @app.get(f"/gradio_api/file={service.previews.as_posix()}/shown/{{name}}/preview.webp", include_in_schema=False)
    async def preview(request: Request, name: str) -> Response:
        try:
            owner = owner_of(request.headers.get("cookie"), signed_in_user(request))
            path = await service.image_access.preview(owner, name)
        except DemoError as error:
            return ApiError.from_demo_error(error).response()
        return FileResponse(path, media_type="image/webp", headers={"Cache-Control": "private, no-cache"})

    @app.get(f"/gradio_api/file={service.previews.as_posix()}/uploaded/{{name}}/preview.webp", include_in_schema=False)
    async def upload_preview(request: Request, name: str) -> Response:
        try:
            owner = owner_of(request.headers.get("cookie"), signed_in_user(request))
            path = service.image_access.upload_preview(owner, name)
        except DemoError as error:
            return ApiError.from_demo_error(error).response()
        return FileResponse(path, media_type="image/webp", headers={"Cache-Control": "private, no-store"})

    # See static/connection.js.
    @app.get("/status", include_in_schema=False)
    async def status(page: str = "", lag_ms: float = 0) -> JSONResponse:
        """The status line. page: the id of the page that asks; lag_ms: how late it draws the answer that it shows."""
        service.pages.report_lag(page, lag_ms)
        return JSONResponse({"html": service.status()}, headers={"Cache-Control": "no-store"})

    icon = f'<link rel="icon" href="{brand.icon}">'
    app.add_middleware(PageHtml, brand.title, DESCRIPTION, icon + HEAD + opening_head(brand.title, brand.color))
    app.mount("/assets", AssetFiles())  # before Gradio's own, which is part of the application mounted at /
    mount_checked(
        app,
        chat_page.build(),
        private=service.previews,  # Gradio would serve them by other spellings of their address, and files that are attached
        root_path=settings.root_path or None,
        theme=make_theme(),
        css=CSS + brand.gradio_css(),
        auth_dependency=auth_dependency(settings.users is not None),
        footer_links=[],
        favicon_path=str(settings.brand_logo or ICON_FILE),  # for /favicon.ico and the manifest
        ssr_mode=False,
        enable_monitoring=False,
        allowed_paths=[str(service.previews), str(EXAMPLES_FOLDER)],
        max_file_size=max(settings.max_image_bytes, MAX_FILE_BYTES),
        **without_run_history(),
    )
