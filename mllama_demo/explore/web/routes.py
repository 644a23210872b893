"""The routes of the Explore page: its files, generation as streams of events, saved runs and their analysis.

Runs belong to the visitor's cookie, like conversations. Only the routes run, again, rerun and branch generate tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response

from mllama_demo.config.branding import Brand
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.explore.edits import without_branch
from mllama_demo.explore.grid import Axis
from mllama_demo.explore.import_export import from_json, max_import_bytes, to_csv, to_json
from mllama_demo.explore.report import html_report
from mllama_demo.explore.results import Run
from mllama_demo.explore.snippets import image_file, snippets
from mllama_demo.explore.stream import start_event
from mllama_demo.explore.web import views
from mllama_demo.explore.web.api import read_grid, read_object
from mllama_demo.explore.web.service import EXAMPLE_IMAGES, ExploreService
from mllama_demo.explore.web.tour import TOUR, why_no_token_view
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.sampling import BOUNDS, SamplingParams
from mllama_demo.web.auth.identity import owner_of
from mllama_demo.web.auth.login import signed_in_user
from mllama_demo.web.errors import ApiError
from mllama_demo.web.requests import StaticAssets, read_body, require_same_origin
from mllama_demo.web.streaming import NdjsonStream
from mllama_demo.web.templating import render

STATIC = Path(__file__).resolve().parent / "static"


def _owner(request: Request) -> str:
    owner = owner_of(request.headers.get("cookie"), signed_in_user(request))
    if owner is None:
        raise ApiError(400, "This page needs its cookie to know whose runs are whose; please reload it.", code="no_cookie")
    return owner


Owner = Annotated[str, Depends(_owner)]


def explore_page(service: ExploreService, brand: Brand) -> APIRouter:
    """The page at /explore and the routes that it calls."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(require_same_origin)])

    def load(id: str, owner: Owner) -> Run:
        return service.runs.load(owner, id)

    saved_run = Depends(load)  # the default of a parameter: the run that the path names
    _add_files(router, service, brand)
    _add_generation(router, service, saved_run)
    _add_runs(router, service, brand, saved_run)
    _add_analysis(router, service, saved_run)
    return router


async def _values(request: Request, service: ExploreService) -> dict[str, Any]:
    return read_object(await read_body(request, service.settings.max_request_bytes))


def _natural_number(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequest(f"{name} must be a whole number from 0, got {value!r:.80}.")
    return value


# --- page ----------------------------------------------------------------------------------------------------------------


def _add_files(router: APIRouter, service: ExploreService, brand: Brand) -> None:
    html = render("explore/page", brand)

    @router.get("/explore")
    def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"Cache-Control": "no-cache"})

    router.mount("/explore/static", StaticAssets(directory=STATIC))
    router.mount("/explore/examples", StaticAssets(directory=EXAMPLES_FOLDER))

    @router.get("/explore/about")
    def about() -> dict[str, Any]:
        return {
            "model": service.info.model,
            "max_kept_runs": service.settings.max_kept_runs,
            "bounds": {n: {"min": b.minimum, "max": b.maximum, "step": b.step, "hint": b.hint} for n, b in BOUNDS.items()},
            "example_images": list(EXAMPLE_IMAGES) if "images" in service.info.capabilities else [],
            "takes_images": "images" in service.info.capabilities,
            "why_no_token_view": why_no_token_view(service.info),
            "tour": [{**vars(step), **({} if service.settings.embedded else {"embedded_text": ""})} for step in TOUR],
        }


# --- generation ----------------------------------------------------------------------------------------------------------


def _add_generation(router: APIRouter, service: ExploreService, saved_run: Any) -> None:
    @router.post("/explore/estimate")
    async def estimate(request: Request) -> dict[str, Any]:
        grid, _, _ = read_grid(await _values(request, service), service.settings)
        return start_event(grid, service.explorer.estimate(grid), "")

    @router.post("/explore/run")
    async def run(request: Request, owner: Owner) -> Response:
        values = await _values(request, service)
        source = values.pop("image", None)
        if source is not None and not isinstance(source, str):
            raise BadRequest("image must be a data URL or the name of an example.")
        grid, _, _ = read_grid(values, service.settings)
        image = await run_in_threadpool(service.load_image, source)
        return NdjsonStream(service.grid_events(owner, await service.explorer.start(grid, image, owner)))

    @router.post("/explore/runs/{id}/again")
    async def again(owner: Owner, run: Run = saved_run) -> Response:
        return NdjsonStream(service.grid_events(owner, await service.explorer.start(run.grid, service.image_of(run), owner)))

    @router.post("/explore/live/{id}/stop")
    async def stop(request: Request, owner: Owner, id: str) -> dict[str, Any]:
        """id: field `run` of the start event of a run, of a repeated cell, or of a branch."""
        values = await _values(request, service)
        service.stop(owner, id, None if values.get("cell") is None else _natural_number(values, "cell"))
        return {"stopped": True}

    @router.post("/explore/runs/{id}/cells/{index}/rerun")
    async def rerun(owner: Owner, index: int, run: Run = saved_run) -> Response:
        if run.branch_at(index) is not None:
            raise BadRequest("A branch cannot be run again; go on from the same token once more instead.")
        tasks = await service.explorer.rerun_cell(run, index, service.image_of(run), owner)
        return NdjsonStream(service.rerun_events(owner, run, index, tasks))

    @router.post("/explore/runs/{id}/cells/{index}/branch")
    async def branch(request: Request, owner: Owner, index: int, run: Run = saved_run) -> Response:
        values = await _values(request, service)
        position, token_id = _natural_number(values, "position"), _natural_number(values, "token_id")
        tasks = await service.explorer.branch(run, index, position, token_id, service.image_of(run), owner)
        return NdjsonStream(service.branch_events(owner, run, index, position, tasks))


# --- saved runs ----------------------------------------------------------------------------------------------------------


def _add_runs(router: APIRouter, service: ExploreService, brand: Brand, saved_run: Any) -> None:
    @router.get("/explore/runs")
    def runs(owner: Owner) -> list[dict[str, Any]]:
        return [{**vars(run), "created": run.created.isoformat()} for run in service.runs.list(owner)]

    @router.get("/explore/runs/{id}")
    def one(run: Run = saved_run) -> dict[str, Any]:
        return service.view(run)

    @router.delete("/explore/runs/{id}")
    def delete(owner: Owner, id: str) -> dict[str, Any]:
        service.runs.delete(owner, id)
        return {"deleted": id}

    @router.delete("/explore/runs/{id}/cells/{index}")
    def delete_branch(owner: Owner, id: str, index: int) -> dict[str, Any]:
        return service.view(service.runs.change(owner, id, lambda run: without_branch(run, index)))

    @router.get("/explore/runs/{id}/image")
    def image(run: Run = saved_run) -> Response:
        if run.image is None:
            raise NotFound("This run has no picture.")
        return Response(run.image.data, media_type=run.image.media_type)

    @router.get("/explore/runs/{id}/export.{kind}")
    def export(request: Request, kind: Literal["json", "csv", "html"], run: Run = saved_run) -> Response:
        make = {"json": to_json, "csv": to_csv, "html": lambda run: html_report(run, _api_url(request), brand)}[kind]
        media = {"json": "application/json", "csv": "text/csv; charset=utf-8", "html": "text/html; charset=utf-8"}[kind]
        name = f"exploration-{run.created:%Y%m%d-%H%M}-{run.id[:6]}.{kind}"
        return Response(make(run), media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    @router.post("/explore/import")
    async def import_run(request: Request, owner: Owner) -> JSONResponse:
        limits = service.settings.image_limits
        data = await read_body(request, max_import_bytes(limits))

        def save() -> views.View:
            run = from_json(data, limits)
            try:
                service.runs.save(owner, run)
            except NotFound:  # another owner has saved this run
                run = run.model_copy(update={"id": Run.model_fields["id"].get_default(call_default_factory=True)})
                service.runs.save(owner, run)
            return service.view(run)

        return JSONResponse(await run_in_threadpool(save))


def _api_url(request: Request) -> str:
    return f"{str(request.base_url).rstrip('/')}/v1"


# --- analysis ------------------------------------------------------------------------------------------------------------


def _add_analysis(router: APIRouter, service: ExploreService, saved_run: Any) -> None:
    @router.get("/explore/runs/{id}/cells/{index}/tokens")
    def tokens(index: int, run: Run = saved_run) -> list[dict[str, Any]]:
        return views.tokens_view(run.answer(index))

    @router.get("/explore/runs/{id}/cells/{index}/tokens/{position}")
    def steps(index: int, position: int, run: Run = saved_run) -> dict[str, Any]:
        return views.steps_view(run.answer(index), position, run.effective_sampling(index), service.tokenizer)

    @router.post("/explore/runs/{id}/cells/{index}/whatif")
    async def whatif(request: Request, index: int, run: Run = saved_run) -> dict[str, Any]:
        values = await _values(request, service)
        params = SamplingParams(**{name: values.get(name, BOUNDS[name].default) for name in ("temperature", "top_p", "top_k")})
        sampling = run.effective_sampling(index)
        return await run_in_threadpool(views.whatif_view, run.answer(index), sampling, params, service.tokenizer)

    @router.get("/explore/runs/{id}/cells/{index}/snippets")
    def code(request: Request, index: int, run: Run = saved_run) -> dict[str, Any]:
        if run.branch_at(index) is not None:
            raise BadRequest("A branch begins in the middle of an answer, as no request can; its cell has code.")
        return {"file": image_file(run), "snippets": [vars(one) for one in snippets(run, index, _api_url(request))]}

    @router.get("/explore/runs/{id}/compare")
    def compare(a: int, b: int, run: Run = saved_run) -> dict[str, Any]:
        return views.compare_view(run, a, b, service.tokenizer)

    @router.get("/explore/runs/{id}/heat")
    def heat(measure: str, rows: Axis, columns: Axis, run: Run = saved_run) -> dict[str, Any]:
        return views.heat_view(run, measure, rows, columns)
