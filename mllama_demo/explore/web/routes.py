"""The routes of the Explore page: its files, generation as streams of events, the way to the chat, the analysis of runs.

Runs belong to the visitor's cookie, like conversations. Only the routes run, again, rerun and branch generate tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response

from mllama_demo.config.branding import Brand
from mllama_demo.errors import BadRequest
from mllama_demo.explore.grid import AXES, Axis
from mllama_demo.explore.results import Run
from mllama_demo.explore.snippets import image_file, snippets
from mllama_demo.explore.stream import start_event
from mllama_demo.explore.web import views
from mllama_demo.explore.web.api import read_grid
from mllama_demo.explore.web.run_routes import CACHED, THUMBNAIL_PIXELS, Owner, add_run_routes, api_url, read_values
from mllama_demo.explore.web.service import EXAMPLE_IMAGES, ExploreService
from mllama_demo.explore.web.tour import TOUR, why_no_token_view
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.threads import in_image_thread
from mllama_demo.images.transforms import preview
from mllama_demo.sampling import BOUNDS, SamplingParams
from mllama_demo.storage.threads import database_route, in_database_thread
from mllama_demo.web.requests import StaticAssets, client_of, require_same_origin
from mllama_demo.web.streaming import NdjsonStream
from mllama_demo.web.templating import render

STATIC = Path(__file__).resolve().parent / "static"


def explore_page(service: ExploreService, brand: Brand) -> APIRouter:
    """The page at /explore and the routes that it calls."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(require_same_origin)])

    @database_route
    def load(id: str, owner: Owner) -> Run:
        return service.runs.load(owner, id)

    @database_route
    def read(id: str, owner: Owner) -> Run:
        return service.readable_run(owner, id)

    # The default of a parameter: the run that the path names. A readable run is shared, or the owner's own.
    saved_run, readable_run = Depends(load), Depends(read)
    _add_files(router, service, brand)
    _add_generation(router, service, saved_run)
    _add_chat(router, service, readable_run)
    add_run_routes(router, service, brand, readable_run)
    _add_analysis(router, service, readable_run)
    return router


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
            "ignored": {axis: reason for axis, reason in service.info.ignored.items() if axis in AXES},
            "branches": "probabilities" in service.info.capabilities,
            "why_no_token_view": why_no_token_view(service.info),
            "tour": [{**vars(step), **({} if service.settings.embedded else {"embedded_text": ""})} for step in TOUR],
        }


# --- generation ----------------------------------------------------------------------------------------------------------


def _add_generation(router: APIRouter, service: ExploreService, saved_run: Any) -> None:
    @router.post("/explore/estimate")
    async def estimate(request: Request) -> dict[str, Any]:
        grid, _, _ = read_grid(await read_values(request, service), service.settings, service.info)
        return start_event(grid, service.explorer.estimate(grid), "")

    @router.post("/explore/run")
    async def run(request: Request, owner: Owner) -> Response:
        values = await read_values(request, service)
        source, tour = values.pop("image", None), values.pop("tour", False) is True
        name = values.pop("image_name", None) or "image"
        if source is not None and not (isinstance(source, str) and isinstance(name, str)):
            raise BadRequest("image must be a data URL or the name of an example, and image_name must be a string.")
        grid, _, _ = read_grid(values, service.settings, service.info)
        image = await in_image_thread(service.load_image, owner, source, name)
        return NdjsonStream(
            service.grid_events(owner, await service.explorer.start(grid, image, client_of(request, owner), tour))
        )

    @router.post("/explore/runs/{id}/again")
    async def again(request: Request, owner: Owner, run: Run = saved_run) -> Response:
        image = await in_image_thread(service.image_of, run)
        return NdjsonStream(service.grid_events(owner, await service.explorer.start(run.grid, image, client_of(request, owner))))

    @router.post("/explore/live/{id}/stop")
    async def stop(request: Request, owner: Owner, id: str) -> dict[str, Any]:
        """id: field `run` of the start event of a run, of a repeated cell, or of a branch."""
        values = await read_values(request, service)
        service.stop(owner, id, None if values.get("cell") is None else _natural_number(values, "cell"))
        return {"stopped": True}

    @router.post("/explore/runs/{id}/cells/{index}/rerun")
    async def rerun(request: Request, owner: Owner, index: int, run: Run = saved_run) -> Response:
        if run.branch_at(index) is not None:
            raise BadRequest("A branch cannot be run again; go on from the same token once more instead.")
        image = await in_image_thread(service.image_of, run)
        tasks = await service.explorer.rerun_cell(run, index, image, client_of(request, owner))
        return NdjsonStream(service.rerun_events(owner, run, index, tasks))

    @router.post("/explore/runs/{id}/cells/{index}/branch")
    async def branch(request: Request, owner: Owner, index: int, run: Run = saved_run) -> Response:
        values = await read_values(request, service)
        position, token_id = _natural_number(values, "position"), _natural_number(values, "token_id")
        image = await in_image_thread(service.image_of, run)
        tasks = await service.explorer.branch(run, index, position, token_id, image, client_of(request, owner))
        return NdjsonStream(service.branch_events(owner, run, index, position, tasks))


# --- chat ----------------------------------------------------------------------------------------------------------------


def _add_chat(router: APIRouter, service: ExploreService, readable_run: Any) -> None:
    @router.get("/explore/chat/{conversation_id}/{number}")
    @database_route
    def from_chat(owner: Owner, conversation_id: str, number: int) -> dict[str, Any]:
        """The fields of a grid that repeats an answer of the chat. number: of the answer in the message tree."""
        return service.chat.grid_values(owner, conversation_id, number)

    @router.get("/explore/chat/{conversation_id}/{number}/image")
    async def image(owner: Owner, conversation_id: str, number: int) -> Response:
        def make() -> bytes:
            loaded = service.load_image(owner, f"chat:{conversation_id}:{number}")
            assert loaded is not None  # load_image raises for an answer without image
            return preview(loaded, THUMBNAIL_PIXELS)

        return Response(await in_image_thread(make), media_type="image/webp", headers=CACHED)

    @router.post("/explore/runs/{id}/cells/{index}/chat")
    async def to_chat(owner: Owner, index: int, run: Run = readable_run) -> dict[str, Any]:
        """Stores the answer as a conversation; returns the address of the chat that shows it."""
        image = await in_image_thread(service.image_of, run)
        return {"address": await in_database_thread(service.chat.continue_in_chat, owner, run, index, image)}


# --- analysis ------------------------------------------------------------------------------------------------------------


def _add_analysis(router: APIRouter, service: ExploreService, readable_run: Any) -> None:
    @router.get("/explore/runs/{id}/cells/{index}/tokens")
    def tokens(index: int, run: Run = readable_run) -> list[dict[str, Any]]:
        return views.tokens_view(run.answer(index))

    @router.get("/explore/runs/{id}/cells/{index}/tokens/{position}")
    def steps(index: int, position: int, run: Run = readable_run) -> dict[str, Any]:
        return views.steps_view(run.answer(index), position, run.effective_sampling(index), service.tokenizer)

    @router.post("/explore/runs/{id}/cells/{index}/whatif")
    async def whatif(request: Request, index: int, run: Run = readable_run) -> dict[str, Any]:
        values = await read_values(request, service)
        params = SamplingParams(**{name: values.get(name, BOUNDS[name].default) for name in ("temperature", "top_p", "top_k")})
        position = None if values.get("position") is None else _natural_number(values, "position")
        sampling = run.effective_sampling(index)
        return await run_in_threadpool(views.whatif_view, run.answer(index), sampling, params, service.tokenizer, position)

    @router.get("/explore/runs/{id}/cells/{index}/snippets")
    def code(request: Request, index: int, run: Run = readable_run) -> dict[str, Any]:
        if run.branch_at(index) is not None:
            raise BadRequest("A branch begins in the middle of an answer, as no request can; its cell has code.")
        return {
            "file": image_file(run),
            "snippets": [vars(one) for one in snippets(run, index, api_url(request, service.settings))],
        }

    @router.get("/explore/runs/{id}/compare")
    def compare(a: int, b: int, run: Run = readable_run) -> dict[str, Any]:
        return views.compare_view(run, a, b, service.tokenizer)

    @router.get("/explore/runs/{id}/heat")
    def heat(measure: str, rows: Axis, columns: Axis, run: Run = readable_run) -> dict[str, Any]:
        return views.heat_view(run, measure, rows, columns)
