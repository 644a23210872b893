"""The operator's page: the queue and the slots, sums of the last hour, and the ratings of answers."""

from __future__ import annotations

import hmac
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend
from mllama_demo.errors import DemoError, cause_of
from mllama_demo.storage.feedback import Feedback, Rating, to_csv
from mllama_demo.storage.sessions import ADMIN_KEY
from mllama_demo.web.activity import Activity
from mllama_demo.web.auth.attempts import TooManyAttempts
from mllama_demo.web.auth.login import ADMIN_COOKIE, USER_COOKIE, LoginService, login_form, mark_admin, redirect_signed_in
from mllama_demo.web.requests import StaticAssets, html_page, is_same_origin, notice_page, read_form
from mllama_demo.web.templating import POLICY, render

LATEST = 50
MAX_CHARACTERS = 400  # of each text on the page; the CSV file has the whole text
_POLICY = f"{POLICY}; script-src 'self'; connect-src 'self'"
_PRIVATE = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex, nofollow"}


def add_admin(
    app: FastAPI,
    settings: Settings,
    feedback: Feedback,
    brand: Brand,
    backend: Backend,
    activity: Activity,
    service: LoginService,
) -> None:
    """Adds /admin, its figures as JSON and the feedback as CSV. Admins are the users of the option admins, and whoever has
    the admin key."""
    app.mount("/admin/static", StaticAssets(directory=Path(__file__).resolve().parent / "static"))
    admins = frozenset(settings.admins or ())
    key = settings.admin_key
    key_bytes = (key or "").encode()

    async def subject_of(request: Request, cookie: str) -> str | None:
        return await run_in_threadpool(service.sessions.subject, request.cookies.get(cookie))

    async def is_admin(request: Request) -> bool:
        return await subject_of(request, USER_COOKIE) in admins or await subject_of(request, ADMIN_COOKIE) == ADMIN_KEY

    def key_form(problem: str = "", status: int = 200, retry_s: int | None = None) -> Response:
        return login_form(brand, next="/admin", name=None, problem=problem, status=status, retry_s=retry_s)

    def refuse() -> Response:
        return JSONResponse({"detail": "This is for admins; open /admin to become one."}, 401, _PRIVATE)

    @app.get("/admin", include_in_schema=False)
    async def admin(request: Request) -> Response:
        if await is_admin(request):
            html = render("admin/page", brand, users=settings.users is not None, user=await subject_of(request, USER_COOKIE))
            return html_page(html, headers={"Content-Security-Policy": _POLICY})
        if key is not None:
            return key_form(status=401)
        if await subject_of(request, USER_COOKIE) is None:
            return RedirectResponse("/login?next=/admin", 303, _PRIVATE)
        sentence = "Only the users named in the option admins see this page."
        return notice_page(brand, "Not for you", sentence, 403, ("/", "To the chat"))

    @app.post("/admin", include_in_schema=False)
    async def open_with_key(request: Request) -> Response:
        form = await read_form(request) if is_same_origin(request) else None
        if form is None or key is None:
            return key_form("The form could not be read; please reload the page and try again.", 400)
        password = form.get("password", "").encode()
        try:
            token = await service.sign_in(request, ADMIN_KEY, lambda: hmac.compare_digest(password, key_bytes))
        except DemoError as error:
            return key_form(str(error), error.status, error.retry_s if isinstance(error, TooManyAttempts) else None)
        if token is None:
            return key_form("This is not the key.", 401)
        response = redirect_signed_in(request, "/admin", ADMIN_COOKIE, token, path="/admin")
        mark_admin(response)
        return response

    @app.get("/admin/figures", include_in_schema=False)
    async def figures(request: Request) -> Response:
        if not await is_admin(request):
            return refuse()
        try:
            opinions = await run_in_threadpool(lambda: [_rating_view(one) for one in feedback.latest(LATEST)])
            good, bad = await run_in_threadpool(feedback.counts)
        except DemoError as error:
            return JSONResponse({"detail": str(error)}, error.status, _PRIVATE)
        body = _figures(backend, activity) | {"feedback": {"good": good, "bad": bad, "latest": opinions}}
        return JSONResponse(body, headers=_PRIVATE)

    @app.get("/admin/feedback.csv", include_in_schema=False)
    async def feedback_csv(request: Request) -> Response:
        if not await is_admin(request):
            return refuse()
        name = f"feedback-{time.strftime('%Y-%m-%d', time.gmtime())}.csv"
        headers = {**_PRIVATE, "Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(to_csv(feedback.latest()), media_type="text/csv; charset=utf-8", headers=headers)


def _figures(backend: Backend, activity: Activity) -> dict[str, Any]:
    status, info, now = backend.status(), backend.info, time.monotonic()
    requests = [
        {
            "phase": one.phase,
            "seconds": round(now - one.since, 1),
            "position": one.position,
            "image": one.image,
            "prompt_tokens": one.prompt_tokens,
            "tokens": one.tokens,
        }
        for one in activity.requests()
    ]
    minutes = [
        {
            "start": one.start,
            "tokens": one.tokens,
            "requests": one.requests,
            "failed": one.failed,
            "refused": one.refused,
            "ttft_s": round(one.ttft_s / one.answered, 4) if one.answered else None,
        }
        for one in activity.minutes()
    ]
    device = f"{info.device} at {info.address}" if info.address else info.device
    model = {"name": info.model, "device": device, "backend": info.name, "context_length": info.context_length}
    state = asdict(status) | {"detail": cause_of(status.detail)}
    return {"now": int(time.time()), "model": model, "status": state, "requests": requests, "minutes": minutes}


def _rating_view(one: Rating) -> dict[str, Any]:
    return {
        "given": one.given.strftime("%Y-%m-%d %H:%M"),
        "good": one.good,
        "note": one.note[:MAX_CHARACTERS],
        "model": one.model,
        "question": None if one.question is None else one.question[:MAX_CHARACTERS],
        "answer": None if one.answer is None else one.answer[:MAX_CHARACTERS],
        "user": one.user,
    }
