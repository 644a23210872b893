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
from mllama_demo.images.loading import size_text
from mllama_demo.web.errors import CLIENT_CLOSED_REQUEST, ApiError
from mllama_demo.web.templating import POLICY, render

MAX_FORM_BYTES = 16 * 2**10


def is_same_origin(request: Request) -> bool:
    """Whether a request comes from a page of this server. A page of another site could use the cookies of its visitor."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    # Browsers send Origin with every form. A client without Origin is no browser, so it has no cookies of a visitor.
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def require_same_origin(request: Request) -> None:
    """A dependency for routes that scripts of our pages call. Raises ApiError 403 for a request from another site."""
    if request.method not in ("GET", "HEAD") and not is_same_origin(request):
        raise ApiError(403, "This request was not sent from a page of this server.", code="cross_site")


class BodyTooLarge(HTTPException):
    """Status 413. It is an HTTPException because FastAPI reports any other error while it reads a body as a malformed body."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The request is too large; at most {size_text(limit)} are allowed.")


def limit_body(scope: Scope, receive: Receive, limit: int) -> Receive:
    """Returns a `receive` that raises BodyTooLarge after more than `limit` bytes of body.

    Raises:
        BodyTooLarge: the header Content-Length already announces more.
    """
    announced = Headers(scope=scope).get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(limit)
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise BodyTooLarge(limit)
        return message

    return limited


async def read_body(request: Request, limit: int) -> bytes:
    """Returns the whole body. Raises BodyTooLarge, and ApiError 499 when the client disconnects before the end of the body."""
    try:
        return await Request(request.scope, limit_body(request.scope, request.receive, limit)).body()
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
