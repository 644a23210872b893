"""What every page of this server needs: same-origin checks, size limits of bodies, forms, static files and HTML responses."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope

from mllama_demo.config.branding import Brand
from mllama_demo.engine.base import Client
from mllama_demo.images.loading import size_text
from mllama_demo.runtime.failures import FAILURES
from mllama_demo.web.errors import CLIENT_CLOSED_REQUEST, ApiError
from mllama_demo.web.templating import POLICY, render

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # they change and generate nothing
MAX_FORM_BYTES = 16 * 2**10
# Few prompts of so many commas or brackets fit the context of a model that this demo serves.
MAX_JSON_VALUES = 200_000


def is_same_origin(request: Request) -> bool:
    """Whether a request comes from a page of this server. A page of another site could use the cookies of its visitor.

    Sec-Fetch-Site decides alone where a browser sends it, over HTTPS and on localhost: a proxy may send another Host than the
    visitor's. Without it Origin is compared with Host, and with the X-Forwarded-Host of a proxy: no page of another site can set
    either.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    # Browsers send Origin with every form. A client without Origin is no browser, so it has no cookies of a visitor.
    hosts = (request.headers.get("host"), request.headers.get("x-forwarded-host"))
    return origin is None or urlsplit(origin).netloc in hosts


def require_same_origin(request: Request) -> None:
    """A dependency for routes that scripts of our pages call. Raises ApiError 403 for a request from another site."""
    if request.method not in SAFE_METHODS and not is_same_origin(request):
        raise ApiError(403, "This request was not sent from a page of this server.", code="cross_site")


def client_of(request: Request, visitor: str) -> Client:
    """Who sends a request. visitor: the owner of what the request makes."""
    return Client(request.client.host if request.client else "", visitor)


class BodyTooLarge(HTTPException):
    """Status 413. It is an HTTPException because FastAPI reports any other error while it reads a body as a malformed body."""

    def __init__(self, allowed: str) -> None:
        FAILURES.add_limit("request_size")
        super().__init__(413, f"The request is too large; at most {allowed} are allowed.")


def limit_body(scope: Scope, receive: Receive, limit: int, max_values: int = MAX_JSON_VALUES) -> Receive:
    """Returns a `receive` that raises BodyTooLarge after more than `limit` bytes of body, or more than max_values values of JSON.

    Between two values is a comma. A value may take two bytes in a body and 60 in memory, and a list or an object takes
    microseconds: of these a quarter of max_values is allowed.

    Raises:
        BodyTooLarge: the header Content-Length already announces more.
    """
    announced = Headers(scope=scope).get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(size_text(limit))
    size = commas = brackets = 0

    async def limited() -> Message:
        nonlocal size, commas, brackets
        message = await receive()
        body = message.get("body", b"")
        size += len(body)
        commas += body.count(b",")
        brackets += body.count(b"[") + body.count(b"{")
        if size > limit:
            raise BodyTooLarge(size_text(limit))
        if commas > max_values:
            raise BodyTooLarge(f"{max_values:,} values and commas")
        if brackets > max_values // 4:
            raise BodyTooLarge(f"{max_values // 4:,} lists, objects and brackets")
        return message

    return limited


async def read_body(request: Request, limit: int, max_values: int = MAX_JSON_VALUES) -> bytes:
    """Returns the whole body. Raises BodyTooLarge, and ApiError 499 when the client disconnects before the end of the body."""
    try:
        return await Request(request.scope, limit_body(request.scope, request.receive, limit, max_values)).body()
    except ClientDisconnect:
        raise ApiError(CLIENT_CLOSED_REQUEST, "The client closed the connection.", code="client_closed_request") from None


async def read_form(request: Request) -> dict[str, str] | None:
    """Returns the fields of a form, the first value of each name; None when the body is too large or not a form."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return None
    try:
        body = await read_body(request, MAX_FORM_BYTES)
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=10)
    except (BodyTooLarge, ValueError):
        return None
    return {name: values[0] for name, values in fields.items()}


def local_path(address: str | None) -> str:
    """Returns `address` if it is a path on this server, else "/". This prevents redirects to other sites."""
    address = address or ""
    plain = address.isascii() and address.isprintable() and "\\" not in address and len(address) < 2000
    return address if plain and address.startswith("/") and not address.startswith("//") else "/"


def html_page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    """Returns a page that no cache stores, no search engine lists, and that runs no script."""
    common = {
        "Cache-Control": "no-store",
        "X-Robots-Tag": "noindex, nofollow",
        "Content-Security-Policy": POLICY,
        # With "no-referrer" a browser would send "Origin: null" with a form.
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(html, status, {**common, **(headers or {})})


def notice_page(
    brand: Brand,
    heading: str,
    sentence: str,
    status: int = 200,
    link: tuple[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> HTMLResponse:
    """Returns a page with one sentence. link: the address and the label of a button."""
    return html_page(render("web/notice", brand, heading=heading, sentence=sentence, link=link), status, headers)


class StaticAssets(StaticFiles):
    """Serves a folder of scripts and styles. A browser asks again each time (ETag, 304), so it never runs an old version."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response
