"""Sign-in: the middleware that requires it, the pages /login and /logout, and the sessions behind them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import quote

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama_demo.config.branding import Brand
from mllama_demo.config.passwords import USER
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BackendUnavailable, DatabaseUnavailable, DemoError, ServerBusy
from mllama_demo.runtime.failures import report_failure
from mllama_demo.runtime.threads import WorkThreads
from mllama_demo.storage.sessions import ADMIN_KEY, LIFETIME, Sessions
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.web.auth.attempts import FailedAttempts, TooManyAttempts
from mllama_demo.web.errors import ApiError
from mllama_demo.web.middleware import is_api_path
from mllama_demo.web.requests import html_page, is_same_origin, local_path, notice_page, read_form
from mllama_demo.web.templating import render

log = logging.getLogger(__name__)

USER_COOKIE = "mllama_session"
ADMIN_COOKIE = "mllama_admin"
_ADMIN_MARK = "mllama_admin_mark"  # shows the way to /admin in a browser that has opened it with the key; opens nothing
SIGNED_IN_USER = "mllama_demo.user"  # the key in an ASGI scope
# Paths without sign-in: sign-in itself, shared conversations, the operator's page (which checks admins itself), what load
# balancers and monitoring request, and the manifest, which browsers request without cookies.
_PUBLIC_PATHS = ("/login", "/logout", "/health", "/version", "/metrics", "/admin", "/manifest.json")
_PUBLIC_PREFIXES = ("/share/", "/admin/")
_NO_STORE = {"Cache-Control": "no-store"}
# A check of a password takes a tenth of a second and megabytes, so that guessing is slow.
_TOO_MANY = "Too many people are signing in at the moment. Please try again soon."
_PASSWORD_THREADS = WorkThreads("passwords", 2, 32, lambda: ServerBusy(_TOO_MANY, "password_threads"))
_NOT_STORED = (
    "Your session may go on, or come back when this server is started again, until you sign out while the database answers."
)
_CROSS_SITE = "This form was not sent from a page of this server. Please go back, reload the page and try again."


def credentials(settings: Settings) -> dict[str, str]:
    """Returns the password hash of each user, and the admin key under the name ADMIN_KEY."""
    found = {match[1]: match[2] for entry in settings.users or () if (match := USER.match(entry))}
    return found | ({} if settings.admin_key is None else {ADMIN_KEY: settings.admin_key})


def signed_in_user(request: Request) -> str | None:
    """Returns the name of the user; None where no sign-in is required."""
    return request.scope.get(SIGNED_IN_USER)


class AuthMiddleware:
    """Refuses requests without a signed-in user. Requests to the API pass if the API checks keys itself.

    Args:
        sessions: None where the server has no pages, so that no user can sign in.
        api_has_keys: whether the option api_keys is set.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions | None, api_has_keys: bool) -> None:
        self._app, self._sessions, self._api_has_keys = app, sessions, api_has_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_public(scope["path"]):
            await self._app(scope, receive, send)
            return
        user, refusal = None, None
        if self._sessions is not None and not is_api_path(scope["path"]):  # a session does not replace an API key
            try:
                token = HTTPConnection(scope).cookies.get(USER_COOKIE)
                user = await in_database_thread(self._sessions.subject, token)
            except BackendUnavailable as error:
                refusal = JSONResponse({"detail": report_failure(error)}, error.status)
        if user is not None:
            scope[SIGNED_IN_USER] = user
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await (refusal or _sign_in_required(scope))(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in _PUBLIC_PATHS or path.startswith(_PUBLIC_PREFIXES) or (is_api_path(path) and self._api_has_keys)


def _sign_in_required(scope: Scope) -> Response:
    if is_api_path(scope["path"]):
        message = "This server asks people to sign in, so its API needs keys; none are configured (option api_keys)."
        return ApiError(401, message, code="invalid_api_key").response()
    if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
        query = scope["query_string"].decode("latin-1")
        next = quote(local_path(scope["path"] + (f"?{query}" if query else "")), safe="/")
        return RedirectResponse(f"/login?next={next}" if next != "/" else "/login", 303, _NO_STORE)
    return JSONResponse({"detail": "Please sign in; the page to do so is /login."}, 401, _NO_STORE)


class LoginService:
    """Opens sessions, and limits wrong passwords: 10 for an address, 60 for a name from all addresses, in 10 minutes.

    The limit of a name is higher, so that others cannot easily lock its owner out.
    """

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self._by_address, self._by_name = FailedAttempts(10), FailedAttempts(60)

    async def sign_in(self, request: Request, subject: str, is_correct: Callable[[], bool]) -> str | None:
        """Opens a session.

        Args:
            subject: the name of the user, or ADMIN_KEY.
            is_correct: checks the password or the key; called in a thread.

        Returns:
            The token of the session; None for a wrong password.

        Raises:
            TooManyAttempts: the limit of the address or of the name is reached.
        """
        address, name = request.client.host if request.client else "unknown", subject[:64]
        # Counted before the check, so that parallel attempts do not pass the limit.
        self._by_address.add(address)
        self._by_name.add(name)
        if not await _PASSWORD_THREADS.run(is_correct):
            # A name that no user has may be a password that was typed into the wrong field.
            log.warning("wrong password for %s from %s", repr(name) if self.sessions.knows(name) else "an unknown name", address)
            return None
        self._by_address.remove_last(address)
        self._by_name.remove_last(name)
        return await in_database_thread(self.sessions.open, subject)


def redirect_signed_in(request: Request, address: str, cookie: str, token: str, path: str = "/") -> Response:
    """Redirects to a path of this server and sets the cookie of the session. path: where the browser sends the cookie."""
    response = RedirectResponse(address, 303, _NO_STORE)
    secure = request.url.scheme == "https"
    response.set_cookie(cookie, token, int(LIFETIME.total_seconds()), path=path, secure=secure, httponly=True, samesite="lax")
    return response


def mark_admin(response: Response) -> None:
    """Lets the chat of this browser show the way to the operator's page, whose own cookie is sent to /admin alone."""
    response.set_cookie(_ADMIN_MARK, "1", int(LIFETIME.total_seconds()), httponly=True, samesite="lax")


def has_admin_mark(cookie_header: str | None) -> bool:
    return cookie_parser(cookie_header or "").get(_ADMIN_MARK) == "1"


def login_form(
    brand: Brand, *, next: str, name: str | None, problem: str = "", status: int = 200, retry_s: int | None = None
) -> Response:
    """Returns the page with the sign-in form.

    Args:
        next: the path to redirect to after sign-in; the form of the operator's page is sent to its own path.
        name: the value of the field for the name; None for a form that asks for the admin key alone.
        problem: the error message above the form.
    """
    heading, action = ("Open", next) if name is None else ("Sign in", "/login")
    html = render("auth/login", brand, heading=heading, action=action, name=name, next=next, problem=problem)
    return html_page(html, status, None if retry_s is None else {"Retry-After": str(retry_s)})


def add_auth_middleware(app: FastAPI, settings: Settings, service: LoginService | None) -> None:
    """Requires sign-in for every route if the settings name users. service: None where the server has no pages."""
    if settings.users is not None:
        app.add_middleware(AuthMiddleware, sessions=service.sessions if service else None, api_has_keys=bool(settings.api_keys))


def add_login(app: FastAPI, settings: Settings, brand: Brand, service: LoginService) -> None:
    """Adds the routes /login and /logout if the settings name users."""
    if settings.users is None:
        return

    @app.get("/login", include_in_schema=False)
    async def login_page(request: Request) -> Response:
        return login_form(brand, next=local_path(request.query_params.get("next")), name="")

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        if not is_same_origin(request):
            return login_form(brand, next="/", name="", problem=_CROSS_SITE, status=403)
        form = await read_form(request)
        if form is None:
            return login_form(brand, next="/", name="", problem="The form could not be read; please try again.", status=400)
        next, name, password = local_path(form.get("next")), form.get("name", "").strip(), form.get("password", "")
        shown_name = name[:64]
        try:
            token = await service.sign_in(request, name, lambda: service.sessions.password_matches(name, password))
        except DemoError as error:
            retry_s = error.retry_s if isinstance(error, TooManyAttempts) else None
            return login_form(
                brand, next=next, name=shown_name, problem=report_failure(error), status=error.status, retry_s=retry_s
            )
        if token is None:
            problem = "That name and password do not belong together."
            return login_form(brand, next=next, name=shown_name, problem=problem, status=401)
        return redirect_signed_in(request, next, USER_COOKIE, token)

    @app.get("/logout", include_in_schema=False)
    async def logout_page(request: Request) -> Response:
        try:
            user = await in_database_thread(service.sessions.subject, request.cookies.get(USER_COOKIE))
        except DatabaseUnavailable as error:
            return notice_page(brand, "Not signed out", report_failure(error), error.status)
        if user is None:
            return RedirectResponse("/login", 303)
        return sign_out_form("Sign out?", f"You are signed in as {user}.")

    def sign_out_form(heading: str, sentence: str, status: int = 200) -> Response:
        return html_page(render("auth/logout", brand, heading=heading, sentence=sentence, link=None), status)

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        if not is_same_origin(request):
            return notice_page(brand, "Not signed out", _CROSS_SITE, 403)
        try:
            await in_database_thread(service.sessions.close, request.cookies.get(USER_COOKIE))
        except DatabaseUnavailable as error:  # the cookie stays, so that the next attempt knows the session
            return sign_out_form("Not signed out for good", f"{report_failure(error)} {_NOT_STORED}", error.status)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(USER_COOKIE)
        return response
