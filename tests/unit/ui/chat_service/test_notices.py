"""An expected failure becomes a notice, an unexpected one is not swallowed; and who a visitor is."""

from __future__ import annotations

import html
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest

from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.ui.page_update import PageSession, PageUpdate, guarded, guarded_stream, page_session_of
from tests.support.chat_setup import REFUSALS, Seen

pytestmark = pytest.mark.timeout(60)


async def test_an_expected_failure_becomes_a_notice_with_nothing_taken_for_html(notices) -> None:
    async def fails() -> str:
        raise BadRequest('"<img src=x onerror=alert(1)>" is no image.')

    assert await guarded(fails()) is None
    [text] = notices
    assert "<" not in text
    assert html.unescape(text) == '"<img src=x onerror=alert(1)>" is no image.'


async def test_a_busy_backend_is_said_to_be_busy(notices) -> None:
    async def fails() -> None:
        raise REFUSALS[0]

    await guarded(fails())
    assert notices == [str(REFUSALS[0])]


async def test_a_stream_ends_at_an_expected_failure_and_leaves_what_was_shown_before(notices) -> None:
    async def views() -> AsyncGenerator[PageUpdate, None]:
        yield PageUpdate(title="shown")
        raise NotFound("It is gone.")

    async def cannot_begin() -> AsyncGenerator[PageUpdate, None]:
        raise BadRequest("top_p must be lower.")
        yield PageUpdate()

    assert await Seen(guarded_stream(views())).to_the_end() == [PageUpdate(title="shown"), PageUpdate()]
    assert await Seen(guarded_stream(cannot_begin())).to_the_end() == [PageUpdate()], "a view that changes nothing"
    assert notices == ["It is gone.", "top_p must be lower."]


async def test_what_succeeds_is_passed_on_without_a_notice(notices) -> None:
    async def works() -> int:
        return 7

    assert await guarded(works()) == 7
    assert notices == []


async def test_an_unexpected_failure_is_logged_and_said_without_its_words(notices, caplog) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("a secret")

    async def views() -> AsyncGenerator[PageUpdate, None]:
        await fails()
        yield PageUpdate()

    assert await guarded(fails()) is None
    assert await Seen(guarded_stream(views())).to_the_end() == [PageUpdate()]
    assert notices == ["Something went wrong in the demo; its log has the cause."] * 2
    assert caplog.text.count("ZeroDivisionError: a secret") == 2


def test_a_visitor_is_a_cookie_or_else_the_page_itself() -> None:
    token = "A" * 32

    def visit(cookie: str | None, session: str, user: str | None = None) -> PageSession:
        headers = {"cookie": cookie} if cookie else {}
        return page_session_of(SimpleNamespace(session_hash=session, headers=headers, username=user))

    assert visit(f"mllama_visitor={token}", "one") == PageSession(token, "one")
    assert visit(f"mllama_visitor={token}", "one", "anna") == PageSession("user:anna", "one"), (
        "who signed in is more than a cookie"
    )
    assert visit(f"mllama_visitor={token}", "two").owner == visit(f"mllama_visitor={token}", "one").owner
    assert visit(None, "one").owner != visit(None, "two").owner
    assert visit("mllama_visitor=session-two", "one") == visit(None, "one"), "nobody becomes another page by a cookie"
