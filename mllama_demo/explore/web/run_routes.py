"""The routes of saved runs: list, name, delete, export, import and share. Also the page behind a link, which needs no sign-in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import DemoError, NotFound
from mllama_demo.explore.edits import with_title, without_branch
from mllama_demo.explore.import_export import MAX_IMPORT_VALUES, from_json, max_import_bytes, to_csv, to_json
from mllama_demo.explore.report import html_report
from mllama_demo.explore.results import Run
from mllama_demo.explore.web import views
from mllama_demo.explore.web.api import read_object
from mllama_demo.explore.web.service import ExploreService
from mllama_demo.images.loading import load_image
from mllama_demo.images.threads import in_image_thread
from mllama_demo.images.transforms import preview
from mllama_demo.storage.share_links import DEFAULT_LIFETIME, LIFETIMES, is_token
from mllama_demo.storage.threads import database_route, in_database_thread
from mllama_demo.web.auth.identity import owner_of
from mllama_demo.web.auth.login import signed_in_user
from mllama_demo.web.errors import ApiError
from mllama_demo.web.requests import html_page, read_body
from mllama_demo.web.share.notices import share_notice

THUMBNAIL_PIXELS = 256
CACHED = {"Cache-Control": "private, max-age=86400"}  # the image of a run never changes

NO_COOKIE = (
    "Explore knows its runs by a cookie, and this browser keeps none for this page. Please allow it, then reload the page."
)


def _owner(request: Request) -> str:
    owner = owner_of(request.headers.get("cookie"), signed_in_user(request))
    if owner is None:
        raise ApiError(400, NO_COOKIE, code="no_cookie")
    return owner


Owner = Annotated[str, Depends(_owner)]


async def read_values(request: Request, service: ExploreService) -> dict[str, Any]:
    """The JSON object in the body of a request. Raises ApiError."""
    return read_object(await read_body(request, service.settings.max_request_bytes))


def api_url(request: Request, settings: Settings) -> str:
    """The address of the API on this server, as the client reaches it."""
    return f"{str(request.base_url).rstrip('/')}{settings.root_path}/v1"


def add_run_routes(router: APIRouter, service: ExploreService, brand: Brand, readable_run: Any) -> None:
    """readable_run: the default of a parameter, the run that the path names: shared, or the owner's own."""
    _add_saved(router, service, readable_run)
    _add_files(router, service, brand, readable_run)
    _add_shares(router, service, brand, readable_run)


def _add_saved(router: APIRouter, service: ExploreService, readable_run: Any) -> None:
    @router.get("/explore/runs")
    @database_route
    def runs(owner: Owner) -> list[dict[str, Any]]:
        return [{**vars(run), "created": run.created.isoformat()} for run in service.runs.list(owner)]

    @router.get("/explore/runs/{id}")
    @database_route
    def one(id: str, run: Run = readable_run) -> dict[str, Any]:
        return service.view(run, id if is_token(id) else None)

    @router.patch("/explore/runs/{id}")
    async def rename(request: Request, owner: Owner, id: str) -> dict[str, Any]:
        title = str((await read_values(request, service)).get("title") or "")
        run = await in_database_thread(service.runs.change, owner, id, lambda run: with_title(run, title))
        return {"title": run.title}

    @router.delete("/explore/runs/{id}")
    @database_route
    def delete(owner: Owner, id: str) -> dict[str, Any]:
        service.runs.delete(owner, id)
        return {"deleted": id}

    @router.delete("/explore/runs/{id}/cells/{index}")
    @database_route
    def delete_branch(owner: Owner, id: str, index: int) -> dict[str, Any]:
        return service.view(service.runs.change(owner, id, lambda run: without_branch(run, index)))


def _add_files(router: APIRouter, service: ExploreService, brand: Brand, readable_run: Any) -> None:
    @router.get("/explore/runs/{id}/image")
    @database_route
    def image(run: Run = readable_run) -> Response:
        if run.image is None:
            raise NotFound("This run has no picture.")
        return Response(run.image.data, media_type=run.image.media_type)

    @router.get("/explore/runs/{id}/thumbnail")
    async def thumbnail(owner: Owner, id: str) -> Response:
        def make() -> bytes:
            data = service.image_file(owner, id)
            if data is None:
                raise NotFound("This run has no picture.")
            return preview(load_image(data, "image", service.settings.image_limits), THUMBNAIL_PIXELS)

        small = await in_image_thread(make)
        # A link can be revoked: what it shows is not kept.
        headers = {"Cache-Control": "private, no-store"} if is_token(id) else CACHED
        return Response(small, media_type="image/webp", headers=headers)

    @router.get("/explore/runs/{id}/export.{kind}")
    @database_route
    def export(request: Request, kind: Literal["json", "csv", "html"], run: Run = readable_run) -> Response:
        make = {"json": to_json, "csv": to_csv, "html": lambda run: html_report(run, api_url(request, service.settings), brand)}[
            kind
        ]
        media = {"json": "application/json", "csv": "text/csv; charset=utf-8", "html": "text/html; charset=utf-8"}[kind]
        name = f"exploration-{run.created:%Y%m%d-%H%M}-{run.id[:6]}.{kind}"
        return Response(make(run), media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    @router.post("/explore/import")
    async def import_run(request: Request, owner: Owner) -> JSONResponse:
        limits = service.settings.image_limits
        data = await read_body(request, max_import_bytes(limits), MAX_IMPORT_VALUES)

        def save() -> views.View:
            run = from_json(data, limits).model_copy(update={"tour": False})
            try:
                service.runs.save(owner, run)
            except NotFound:  # another owner has saved this run
                run = service.save_copy(owner, run)
            return service.view(run)

        return JSONResponse(await in_image_thread(save))


# --- links ---------------------------------------------------------------------------------------------------------------


def _add_shares(router: APIRouter, service: ExploreService, brand: Brand, readable_run: Any) -> None:
    def state(owner: str, id: str) -> dict[str, Any]:
        ends = [end.isoformat() for end in service.runs.shared_until(owner, id)]
        return {"lifetimes": list(LIFETIMES), "default": DEFAULT_LIFETIME, "expires": ends}

    @router.get("/explore/runs/{id}/shares")
    @database_route
    def shares(owner: Owner, id: str) -> dict[str, Any]:
        """When each valid link to the run expires."""
        return state(owner, id)

    @router.post("/explore/runs/{id}/shares")
    async def share(request: Request, owner: Owner, id: str) -> dict[str, Any]:
        lifetime = str((await read_values(request, service)).get("lifetime"))
        token = await in_database_thread(service.runs.share, owner, id, lifetime)
        return {**await in_database_thread(state, owner, id), "path": f"{brand.root_path}/share/run/{token}"}

    @router.delete("/explore/runs/{id}/shares")
    @database_route
    def stop_sharing(owner: Owner, id: str) -> dict[str, Any]:
        return {"ended": service.runs.stop_sharing(owner, id), **state(owner, id)}

    @router.post("/explore/runs/{id}/copy")
    @database_route
    def copy(owner: Owner, run: Run = readable_run) -> dict[str, Any]:
        """Saves a shared run among the owner's own."""
        return {"id": service.save_copy(owner, run).id}

    @router.api_route("/share/run/{token}", methods=["GET", "HEAD"])
    @database_route
    def shared(request: Request, token: str) -> Response:
        """The report of a shared run: status 410 for an expired or revoked link, 404 for an unknown one."""
        headers = {"Referrer-Policy": "no-referrer"}  # the address is the secret
        try:
            run, found = service.runs.open_share(token)
            dates = f"Shared on {found.created:%Y-%m-%d} · the link expires on {found.expires:%Y-%m-%d at %H:%M} UTC"
            html = html_report(run, api_url(request, service.settings), brand, shared=(dates, f"/explore?run={token}"))
            return html_page(html, headers=headers)
        except DemoError as error:
            return share_notice(brand, error, headers)
