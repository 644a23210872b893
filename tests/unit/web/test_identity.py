# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
"""The visitor's cookie: reading it, setting it, rejecting forged values. The security headers of every response."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama_demo.web.auth.identity import CONTENT_SECURITY_POLICY, COOKIE, COOKIE_DAYS, VisitorMiddleware, visitor_id

TOKEN = "abcDEF0123456789_-abcDEF01234567"
OURS = f"{COOKIE}={TOKEN}"

# --- reading the cookie --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        OURS,
        f"{OURS}; other=1",
        f"other=1; {OURS}",
        f"a=1;{OURS};b=2",
        f"{COOKIE}_old={'B' * 32}; {OURS}",
        f"x{COOKIE}={'B' * 32}; {OURS}",
        f"_xsrf=2|1a2b3c|4d5e; session=eyJh.eyJz.c2ln==; {OURS}",
    ],
)
def test_a_visitor_is_identified_by_the_cookie_among_others(header: str) -> None:
    assert len(TOKEN) == 32
    assert visitor_id(header) == TOKEN


@pytest.mark.parametrize(
    "strange",
    ['prefs={"theme":"dark"}', "secure", "path=/", "user@site=1", "list[0]=a", "näme=x", "=nameless", 'open="never closed', ""],
)
@pytest.mark.parametrize("header", ["{}; " + OURS, OURS + "; {}"], ids=["before", "after"])
def test_a_malformed_cookie_of_another_program_on_this_host_is_ignored(header: str, strange: str) -> None:
    """Cookies do not know ports: whatever else runs on localhost sends its own along. Losing ours would lose all chats."""
    assert visitor_id(header.format(strange)) == TOKEN


@pytest.mark.parametrize(
    "value",
    [
        "",
        "A" * 31,
        "A" * 33,
        "A" * 31 + "!",
        "A" * 31 + "/",
        "A" * 31 + "é",
        "A" * 31 + "\uff21",
        "session-" + "A" * 32,
        "../../" + "A" * 26,
        "' OR 1=1 --" + "A" * 21,
    ],
)
def test_a_forged_cookie_identifies_no_visitor(value: str) -> None:
    assert visitor_id(f"{COOKIE}={value}") is None
    assert visitor_id(f'{COOKIE}="{value}"') is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ";",
        "=",
        ";;;=;",
        "other=1",
        COOKIE,
        f"{COOKIE}=",
        f"{COOKIE.upper()}={TOKEN}",
        f"x{OURS}",
        TOKEN,
        "\x00\xff",
        "a" * 9999,
    ],
)
def test_a_header_without_our_cookie_identifies_no_visitor(header: str | None) -> None:
    assert visitor_id(header) is None


@given(st.text(max_size=80) | st.text('=;, "\\\x00\r\n' + COOKIE[:3]).map(lambda noise: f"{noise}{COOKIE}={noise}"))
def test_any_header_gives_a_valid_token_or_none(header: str) -> None:
    found = visitor_id(header)
    assert found is None or re.fullmatch(r"[A-Za-z0-9_-]{32}", found)


# --- the responses -------------------------------------------------------------------------------------------------------


async def page(scope: Any, receive: Any, send: Any) -> None:
    """An application whose page sets a cookie of its own, and that knows no path but "/"."""
    status = 200 if scope["path"] == "/" else 404
    headers = [(b"set-cookie", b"own=1"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


async def ask(
    path: str = "/", cookie: str | None = None, scheme: str = "http", method: str = "GET"
) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers of the response."""
    headers = [(b"host", b"localhost")] + ([(b"cookie", cookie.encode("latin-1"))] if cookie else [])
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": method, "path": path, "scheme": scheme, "headers": headers}
    await VisitorMiddleware(page)(scope, receive, send)
    assert sent[1]["body"] == b"hello"
    return sent[0]["status"], [(name.decode().lower(), value.decode("latin-1")) for name, value in sent[0]["headers"]]


def cookie_set(headers: list[tuple[str, str]]) -> str | None:
    """Our cookie in the response, if there is one; there is never more than one."""
    ours = [value for name, value in headers if name == "set-cookie" and value.startswith(COOKIE)]
    assert len(ours) <= 1
    return ours[0] if ours else None


async def test_a_new_visitor_gets_a_cookie_that_no_script_and_no_other_site_can_use() -> None:
    _, headers = await ask()
    cookie = cookie_set(headers)
    assert cookie is not None
    value, *attributes = cookie.split("; ")
    assert sorted(attributes) == sorted(["HttpOnly", "SameSite=Lax", "Path=/", f"Max-Age={COOKIE_DAYS * 86400}"])
    assert visitor_id(value) == value.removeprefix(f"{COOKIE}=")
    assert ("set-cookie", "own=1") in headers, "cookies of the page itself stay"


async def test_the_cookie_is_secure_only_over_https() -> None:
    over_tls, plain = cookie_set((await ask(scheme="https"))[1]), cookie_set((await ask())[1])
    assert over_tls is not None
    assert plain is not None
    assert "Secure" in over_tls.split("; ")
    assert "Secure" not in plain


async def test_every_new_visitor_gets_a_different_cookie() -> None:
    cookies = {cookie_set((await ask())[1]) for _ in range(20)}
    assert len(cookies) == 20


async def test_a_visitor_with_a_cookie_gets_no_other() -> None:
    issued = cookie_set((await ask())[1])
    assert issued is not None
    assert cookie_set((await ask(cookie=issued.split(";")[0]))[1]) is None
    assert cookie_set((await ask(cookie=f"other=1; {OURS}"))[1]) is None


@pytest.mark.parametrize("cookie", ["other=1", f"{COOKIE}=forged", f"{COOKIE}=", "\xff\xfe"])
async def test_a_forged_cookie_is_replaced(cookie: str) -> None:
    assert cookie_set((await ask(cookie=cookie))[1]) is not None


async def test_only_pages_set_the_cookie() -> None:
    """Many parts are asked for at once on a first visit: each would make the visitor somebody else."""
    step = "/present/demo/steps/1/run"
    scripts = ("/present/static/stage.js", "/present/demo/scenario.json", "/present/demo/images/0", step, f"{step}/question")
    for path in ("/health", "/assets/index.js", "/gradio_api/queue/join", "//", *scripts):
        assert cookie_set((await ask(path))[1]) is None, path
    for path in ("/", "/explore", "/present", "/present/demo", "/present/demo/notes", "/present/demo/rehearsal"):
        assert cookie_set((await ask(path))[1]) is not None, path


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/missing", 404)])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("cookie", [None, OURS])
async def test_every_response_forbids_other_hosts(path: str, status: int, method: str, cookie: str | None) -> None:
    found, headers = await ask(path, cookie, method=method)
    assert found == status
    assert [value for name, value in headers if name == "content-security-policy"] == [CONTENT_SECURITY_POLICY]
    assert ("x-content-type-options", "nosniff") in headers
    assert ("referrer-policy", "same-origin") in headers


def test_the_policy_allows_no_host_but_this_one() -> None:
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["default-src"] == "'self'"
    assert {"img-src", "connect-src", "script-src", "object-src", "base-uri", "form-action", "frame-ancestors"} <= set(rules)
    for name, sources in rules.items():
        known = {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
        assert set(sources.split()) <= known, name
        assert "'self'" in sources or sources == "'none'", name
    assert "data:" not in rules["script-src"]


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_scopes_than_http_pass_unchanged(kind: str) -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments)

    given = ({"type": kind}, object(), object())
    await VisitorMiddleware(app)(*given)
    assert seen == [given]
