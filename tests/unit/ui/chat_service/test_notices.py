# pyright: reportArgumentType=false
"""Failures become notices, unexpected failures are logged; and who owns what a page stores."""

from __future__ import annotations

import html
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest

from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.ui.page_update import PageSession, PageUpdate, failures_as_notices, guarded, page_session_of
from tests.support.chat_setup import REFUSALS, CollectedUpdates

pytestmark = pytest.mark.timeout(60)


async def test_a_failure_becomes_a_notice_that_is_escaped(notices) -> None:
    async def fails() -> str:
        raise BadRequest('"<img src=x onerror=alert(1)>" is no image.')

    assert await guarded(fails()) is None
    [text] = notices
    assert "<" not in text
    assert html.unescape(text) == '"<img src=x onerror=alert(1)>" is no image.'


async def test_a_busy_backend_becomes_a_notice(notices) -> None:
    async def fails() -> None:
        raise REFUSALS[0]

    await guarded(fails())
    assert notices == [str(REFUSALS[0])]


async def test_a_stream_ends_at_a_failure_and_keeps_earlier_updates(notices) -> None:
    async def updates() -> AsyncGenerator[PageUpdate, None]:
        yield PageUpdate(title="shown")
        raise NotFound("It is gone.")

    async def cannot_begin() -> AsyncGenerator[PageUpdate, None]:
        raise BadRequest("top_p must be lower.")
        yield PageUpdate()

    async def noticed(updates: AsyncGenerator[PageUpdate, None]) -> AsyncGenerator[PageUpdate, None]:
        with failures_as_notices():
            async for update in updates:
                yield update

    assert await CollectedUpdates(noticed(updates())).all() == [PageUpdate(title="shown")]
    assert await CollectedUpdates(noticed(cannot_begin())).all() == []
    assert notices == ["It is gone.", "top_p must be lower."]


async def test_a_result_is_returned_without_a_notice(notices) -> None:
    async def works() -> int:
        return 7

    assert await guarded(works()) == 7
    assert notices == []


async def test_an_unexpected_failure_is_logged_and_its_text_is_not_shown(notices, caplog) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("a secret")

    assert await guarded(fails()) is None
    with failures_as_notices():
        await fails()
    assert notices == ["Something went wrong in the demo; its log has the cause."] * 2
    assert caplog.text.count("ZeroDivisionError: a secret") == 2


def test_the_owner_is_the_user_or_the_cookie_or_the_page() -> None:
    token = "A" * 32

    def visit(cookie: str | None, session: str, user: str | None = None) -> PageSession:
        headers = {"cookie": cookie} if cookie else {}
        return page_session_of(SimpleNamespace(session_hash=session, headers=headers, username=user, client=None))

    assert visit(f"mllama_visitor={token}", "one") == PageSession(token, "one")
    assert visit(f"mllama_visitor={token}", "one", "anna") == PageSession("user:anna", "one"), (
        "who signed in is more than a cookie"
    )
    assert visit(f"mllama_visitor={token}", "two").owner == visit(f"mllama_visitor={token}", "one").owner
    assert visit(None, "one").owner != visit(None, "two").owner
    assert visit("mllama_visitor=session-two", "one") == visit(None, "one"), "nobody becomes another page by a cookie"
