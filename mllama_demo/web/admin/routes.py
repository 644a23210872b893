"""The operator's page: the queue and the slots, sums of the last hour, the latest failures, and the ratings of answers."""

from __future__ import annotations

import hmac
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import DatabaseUnavailable, DemoError
from mllama_demo.runtime.failures import FAILURES, report_failure
from mllama_demo.storage.feedback import Feedback, Rating, to_csv
from mllama_demo.storage.sessions import ADMIN_KEY
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.web.admin.figures import OperatorView
from mllama_demo.web.auth.attempts import TooManyAttempts
from mllama_demo.web.auth.login import ADMIN_COOKIE, USER_COOKIE, LoginService, login_form, mark_admin, redirect_signed_in
from mllama_demo.web.requests import StaticAssets, html_page, is_same_origin, notice_page, read_form, require_same_origin
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
    view: OperatorView,
    service: LoginService,
) -> None:
    """Adds /admin, its figures as JSON and the feedback as CSV.

    Admins are the users of the option admins, and whoever has the admin key.
    """
    app.mount("/admin/static", StaticAssets(directory=Path(__file__).resolve().parent / "static"))
    admins = frozenset(settings.admins or ())
    key = settings.admin_key
    key_bytes = (key or "").encode()

    async def subject_of(request: Request, cookie: str) -> str | None:
        with suppress(DatabaseUnavailable):  # who signs in again is let in while it fails
            return await in_database_thread(service.sessions.subject, request.cookies.get(cookie))
        return None

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
            return key_form(report_failure(error), error.status, error.retry_s if isinstance(error, TooManyAttempts) else None)
        if token is None:
            return key_form("This is not the key.", 401)
        response = redirect_signed_in(request, "/admin", ADMIN_COOKIE, token, path="/admin")
        mark_admin(response)
        return response

    @app.get("/admin/figures", include_in_schema=False)
    async def figures(request: Request) -> Response:
        if not await is_admin(request):
            return refuse()
        ratings: dict[str, Any] | None = None
        with suppress(DatabaseUnavailable):  # the page says so
            opinions = await in_database_thread(lambda: [_rating_view(one) for one in feedback.latest(LATEST)])
            good, bad = await in_database_thread(feedback.counts)
            ratings = {"good": good, "bad": bad, "latest": opinions}
        body = view.figures() | {"feedback": ratings}
        body["failures"] = [asdict(record) for record in FAILURES.latest()]
        return JSONResponse(body, headers=_PRIVATE)

    @app.post("/admin/restart", include_in_schema=False, dependencies=[Depends(require_same_origin)])
    async def restart_model(request: Request) -> Response:
        if not await is_admin(request):
            return refuse()
        if view.restart is None:
            return JSONResponse({"detail": "The model has no process of its own that could be started again."}, 409, _PRIVATE)
        view.restart()
        return Response(status_code=202, headers=_PRIVATE)

    @app.get("/admin/feedback.csv", include_in_schema=False)
    async def feedback_csv(request: Request) -> Response:
        if not await is_admin(request):
            return refuse()
        name = f"feedback-{time.strftime('%Y-%m-%d', time.gmtime())}.csv"
        headers = {**_PRIVATE, "Content-Disposition": f'attachment; filename="{name}"'}
        try:
            text = await in_database_thread(lambda: "".join(to_csv(feedback.latest())))
        except DatabaseUnavailable as error:
            return JSONResponse({"detail": report_failure(error)}, error.status, _PRIVATE)
        return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


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
