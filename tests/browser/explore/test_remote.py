"""Explore in front of a remote server: the alternatives that it sends, an answer that is too long, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.browser.browsers import Browsers
from tests.support.browser.explore_page import (
    exported,
    fill,
    open_answer,
    open_explore,
    open_tokens,
    run_and_wait,
    text_of,
    wait_token,
)
from tests.support.program import Program, running
from tests.support.protocol_server import Exchange, ProtocolServer, hello

pytestmark = pytest.mark.timeout(300)
ALTERNATIVES = {"A": 0.5, "The": 0.3, "One": 0.1}
WORDS = ("A", " dog", " sleeps", ".", " Good", " night")


@pytest.fixture(scope="module")
def model_server() -> Iterator[ProtocolServer]:
    server = ProtocolServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, model_server: ProtocolServer) -> Iterator[Program]:
    options = ("--backend", "openai", "--remote-url", model_server.url)
    with running(tmp_path_factory.mktemp("front"), *options) as program:
        program.wait_ready()
        yield program


def with_alternatives(exchange: Exchange) -> None:
    """Six words with their alternatives, whatever max_tokens says."""
    assert (exchange.body["logprobs"], exchange.body["top_logprobs"]) == (True, 20)
    exchange.begin()
    for index, word in enumerate(WORDS):
        likeliest = {word: 0.5, **{name: p for name, p in ALTERNATIVES.items() if index == 0 and name != word}}
        entries: list[dict[str, Any]] = [{"token": text, "logprob": math.log(p)} for text, p in likeliest.items()]
        exchange.chunk({"content": word}, logprobs={"content": [{**entries[0], "top_logprobs": entries}]})
    exchange.end(usage=(12, len(WORDS)))


def test_tokens_and_what_if_come_from_the_alternatives_of_the_server(
    browsers: Browsers, front: Program, model_server: ProtocolServer
) -> None:
    model_server.chat = with_alternatives
    page = open_explore(browsers.open(front))
    fill(page, temperature="1", top_p="1", seed="1, 2", max_tokens="4")
    run_and_wait(page, 2)
    expect(page.locator("#no-token-view")).to_be_hidden()
    assert text_of(page, 0) == "".join(WORDS), "an answer longer than max_tokens is kept"
    expect(open_answer(page, 0).locator("> .status")).to_contain_text("2 more than the 4 that were asked for")
    page.reload()
    expect(page.locator("#grid .cell")).to_have_count(1)
    assert [len(made["tokens"]) for made in exported(page)["cells"]] == [6, 6]

    open_tokens(page, 0)
    expect(page.locator("#explanation")).to_contain_text(
        "The server sent 3 alternatives for this token, which have 90.0 % together."
    )
    rows = page.locator(".candidates tbody tr")
    expect(rows.locator("th")).to_have_text(["A", "The", "One", "all others"])
    expect(page.locator(".candidates .chosen")).to_contain_text("the server's token")
    expect(page.get_by_role("button", name="Continue from")).to_have_count(0)
    page.locator("#whatif-top_p").fill("0.7")
    expect(rows.nth(2)).to_have_text("top-p 0.7 cuts here")
    expect(rows.nth(0)).to_contain_text("62.5 %")
    expect(page.locator("#whatif-result")).to_contain_text("The server does not tell its random numbers")
    page.locator("#token-1").click()
    wait_token(page, 2)
    expect(page.locator("#explanation")).to_contain_text("The server sent 1 alternative")

    model_server.chat = hello  # the server stops to send alternatives
    fill(page, temperature="0, 1, 2", top_p="0.5, 0.9, 1", seed="1", max_tokens="8")
    run_and_wait(page, 9)
    expect(page.locator("#no-token-view")).to_be_visible()
    assert page.locator("body").inner_text().count("no token view") == 1
    expect(open_answer(page, 4).get_by_role("button", name="Tokens")).to_have_count(0)


def test_a_list_that_the_server_does_not_read_is_disabled_and_not_sent(
    browsers: Browsers, model_server: ProtocolServer, tmp_path: Path
) -> None:
    model_server.chat = hello
    with running(tmp_path, "--backend", "openai", "--remote-url", model_server.url, "--remote-kind", "other") as program:
        program.wait_ready()
        page = open_explore(browsers.open(program))
        expect(page.locator("#top_k")).to_be_disabled()
        expect(page.locator("#top_k-hint")).to_have_text("This server speaks the plain OpenAI protocol, which has no top_k.")
        page.locator("#top_k").evaluate("field => (field.value = '5, 10')")  # as the link from an answer of another server does
        fill(page, temperature="0.5, 1", top_p="1", seed="1", max_tokens="4")
        run_and_wait(page, 2)
        assert exported(page)["grid"]["top_k"] == [0]
