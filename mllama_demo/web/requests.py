"""Small things that our own pages share: where a request comes from, which cookie it brings, how a page is answered."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse

from mllama_demo.web.errors import ApiError
from mllama_demo.web.templating import POLICY

MAX_FORM_BYTES = 16 * 2**10


def from_our_page(request: Request) -> bool:
    """Whether a form was sent from a page of this server: no other site may have a browser send one in a visitor's name."""
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None and fetched not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    # Browsers send it with every form; a client without one has no visitor whose cookies it could misuse.
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def refuse_other_sites(request: Request) -> None:
    """For the routes that our pages' scripts call: raises ApiError 403 for what another site had a browser send."""
    if request.method not in ("GET", "HEAD") and not from_our_page(request):
        raise ApiError(403, "This request was not sent from a page of this server.", code="cross_site")


async def form_of(request: Request) -> dict[str, str] | None:
    """The fields of a sent form, the first of each name; None when it is none of ours or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        return None
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            return None
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        return None
    return {name: values[0] for name, values in fields.items()}


def cookie_of(header: str | None, name: str) -> str | None:
    """The first cookie of the name in a Cookie header, whatever other programs on this host put beside it."""
    for pair in (header or "").split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value
    return None


def local_path(address: str | None) -> str:
    """The address where it is a path on this server, else "/": a link must not lead elsewhere through our pages."""
    address = address or ""
    plain = address.isascii() and address.isprintable() and "\\" not in address and len(address) < 2000
    return address if plain and address.startswith("/") and not address.startswith("//") else "/"


def page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    """A page of ours: kept by no cache, found by no search engine, run by nothing."""
    common = {
        "Cache-Control": "no-store",
        "X-Robots-Tag": "noindex, nofollow",
        "Content-Security-Policy": POLICY,
        # Under "no-referrer", a browser would not say where a form comes from.
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(html, status, {**common, **(headers or {})})
