"""Signing in: the gate in front of everything a user's name is asked for, the page that asks, and the way out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import quote

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama_demo.config.branding import Brand
from mllama_demo.config.passwords import USER
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BackendUnavailable, DemoError
from mllama_demo.storage.sessions import ADMIN_KEY, LIFETIME, Sessions
from mllama_demo.web.auth.attempts import FailedAttempts, TooManyAttempts
from mllama_demo.web.errors import ApiError
from mllama_demo.web.middleware import is_api_path
from mllama_demo.web.requests import html_page, is_same_origin, local_path, notice_page, read_form
from mllama_demo.web.templating import render

log = logging.getLogger(__name__)

USER_COOKIE = "mllama_session"
ADMIN_COOKIE = "mllama_admin"
# Set by AuthMiddleware: the name of who is signed in.
SIGNED_IN = "mllama_demo.user"
# Open to everybody: signing in itself, what was shared on purpose, the operator's page with its own lock, and what
# load balancers and monitoring ask.
_OPEN = (
    "/login",
    "/logout",
    "/health",
    "/version",
    "/metrics",
    "/admin",
    "/manifest.json",
)  # browsers fetch the last without cookies
_OPEN_BELOW = ("/share/", "/admin/")
_CROSS_SITE = "This form was not sent from a page of this server. Please go back, load the page anew and try again."


def credentials(settings: Settings) -> dict[str, str]:
    """For each user, and for the admin key, what their sessions depend on."""
    found = {match[1]: match[2] for entry in settings.users or () if (match := USER.match(entry))}
    return found | ({} if settings.admin_key is None else {ADMIN_KEY: settings.admin_key})


def signed_in_user(request: Request) -> str | None:
    """The name of who sent a request through the gate; None where nobody signs in."""
    return request.scope.get(SIGNED_IN)


class AuthMiddleware:
    """Lets only those through who are signed in, and the API's clients where keys are asked for."""

    def __init__(self, app: ASGIApp, sessions: Sessions | None, api_has_keys: bool) -> None:
        self._app, self._sessions, self._api_has_keys = app, sessions, api_has_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path in _OPEN or path.startswith(_OPEN_BELOW) or (is_api_path(path) and self._api_has_keys):
            await self._app(scope, receive, send)
            return
        token = HTTPConnection(scope).cookies.get(USER_COOKIE)
        try:
            user = None
            if self._sessions is not None and not is_api_path(path):  # a browser's cookie is no key to the API
                user = await run_in_threadpool(self._sessions.subject, token)
        except BackendUnavailable as error:
            await self._refused(scope, JSONResponse({"detail": str(error)}, error.status))(scope, receive, send)
            return
        if user is None:
            await self._refused(scope, self._ask(scope))(scope, receive, send)
            return
        scope[SIGNED_IN] = user
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope, response: Response) -> ASGIApp:
        async def close(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.close", "code": 1008})

        return close if scope["type"] == "websocket" else response

    def _ask(self, scope: Scope) -> Response:
        if scope["type"] == "websocket":
            return Response()
        if is_api_path(scope["path"]):
            message = "This server asks people to sign in, so its API needs keys; none are configured (option api_keys)."
            return ApiError(401, message, code="invalid_api_key").response()
        if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
            query = scope["query_string"].decode("latin-1")
            wanted = quote(local_path(scope["path"] + (f"?{query}" if query else "")), safe="/")
            return RedirectResponse(f"/login?next={wanted}" if wanted != "/" else "/login", 303, {"Cache-Control": "no-store"})
        return JSONResponse({"detail": "Please sign in; the page to do so is /login."}, 401, {"Cache-Control": "no-store"})


class LoginService:
    """Takes a name and a password, or a key, and hands out sessions; slows down who guesses.

    An address gets few attempts. A name gets more, from all addresses together, so that nobody locks its owner out easily.
    """

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self._of_address, self._of_name = FailedAttempts(10), FailedAttempts(60)

    async def sign_in(self, request: Request, subject: str, right: Callable[[], bool]) -> str | None:
        """The token of a new session, or None when `right`, called in a thread, says no. Raises TooManyAttempts."""
        address, name = request.client.host if request.client else "unknown", subject[:64]
        # Counted before it is looked at, so that many at once gain nothing.
        self._of_address.add(address)
        self._of_name.add(name)
        if not await run_in_threadpool(right):
            log.warning("wrong password for %r from %s", name, address)
            return None
        self._of_address.remove_last(address)
        self._of_name.remove_last(name)
        return await run_in_threadpool(self.sessions.open, subject)


def signed_in(request: Request, address: str, cookie: str, token: str, path: str = "/") -> Response:
    """Sends the browser on, with its new cookie."""
    response = RedirectResponse(address, 303, {"Cache-Control": "no-store"})
    secure = request.url.scheme == "https"
    response.set_cookie(cookie, token, int(LIFETIME.total_seconds()), path=path, secure=secure, httponly=True, samesite="lax")
    return response


def add_auth_middleware(app: FastAPI, settings: Settings, login: LoginService | None) -> None:
    """Requires a sign-in in front of every route when the settings name users. login: None where there are no pages."""
    if settings.users is not None:
        app.add_middleware(AuthMiddleware, sessions=login.sessions if login else None, api_has_keys=bool(settings.api_keys))


def add_login(app: FastAPI, settings: Settings, brand: Brand, desk: LoginService) -> None:
    """The routes /login and /logout, when the settings name users."""
    if settings.users is None:
        return

    def ask(next: str, name: str = "", problem: str = "", status: int = 200, headers: dict[str, str] | None = None) -> Response:
        values = {"heading": "Sign in", "action": "/login", "named": True, "name": name, "next": next, "problem": problem}
        return html_page(render("auth/login", brand, **values), status, headers)

    @app.get("/login", include_in_schema=False)
    async def login_page(request: Request) -> Response:
        return ask(local_path(request.query_params.get("next")))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        if not is_same_origin(request):
            return ask("/", problem=_CROSS_SITE, status=403)
        form = await read_form(request)
        if form is None:
            return ask("/", problem="The form could not be read; please try again.", status=400)
        next, name, password = local_path(form.get("next")), form.get("name", "").strip(), form.get("password", "")
        try:
            token = await desk.sign_in(request, name, lambda: desk.sessions.password_matches(name, password))
        except TooManyAttempts as error:
            return ask(next, name[:64], str(error), error.status, {"Retry-After": str(error.retry_s)})
        except DemoError as error:
            return ask(next, name[:64], str(error), error.status)
        if token is None:
            return ask(next, name[:64], "That name and password do not belong together.", 401)
        return signed_in(request, next, USER_COOKIE, token)

    @app.get("/logout", include_in_schema=False)
    async def logout_page(request: Request) -> Response:
        token = request.cookies.get(USER_COOKIE)
        user = await run_in_threadpool(desk.sessions.subject, token)
        if user is None:
            return RedirectResponse("/login", 303)
        return html_page(render("auth/logout", brand, heading="Sign out?", sentence=f"You are signed in as {user}.", link=None))

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        if not is_same_origin(request):
            return notice_page(brand, "Not signed out", _CROSS_SITE, 403)
        await run_in_threadpool(desk.sessions.close, request.cookies.get(USER_COOKIE))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(USER_COOKIE)
        return response
