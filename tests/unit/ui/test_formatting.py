# pyright: reportArgumentType=false
"""The text and HTML of the page about waiting, speed and the backend. Everything from outside is escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.message_tree import Siblings
from mllama_demo.generation.service import Answer
from mllama_demo.sampling import SamplingParams
from mllama_demo.ui.formatting import (
    context,
    failure,
    live_line,
    progress,
    queue_position,
    status_line,
    versions_bar,
)
from tests.support.page_text import INFO, READY, Page, status_page

SCRIPT = '"><script>alert(1)</script>'
# --- time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "estimate", "said"),
    [
        (1, None, "Next in line"),
        (1, 4.0, "Next in line, about 4.0 s to go"),
        (1, 0.0, "Next in line, about 1.0 s to go"),
        (2, None, "Number 2 in line"),
        (17, 65.0, "Number 17 in line, about 65 s to go"),
        (40, 600.0, "Number 40 in line, about 10 min to go"),
    ],
)
def test_the_position_in_the_queue_comes_with_the_estimated_wait(position: int, estimate: float | None, said: str) -> None:
    assert queue_position(position, estimate) == said


# --- the backend ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "shown", "said"),
    [
        (
            {"state": "loading", "detail": "reading 3 of 5"},
            "loading",
            "Loading the model: reading 3 of 5 … · model a model on cpu",
        ),
        (
            {"state": "down", "detail": "The model is down: no power"},
            "down",
            "The model is down: no power · model a model on cpu",
        ),
        ({}, "ready", "Ready · answers at once · 1 of 4 slots busy, 0 waiting · model a model on cpu"),
        ({"running": 0}, "ready", "Ready · answers at once · 0 of 4 slots busy, 0 waiting · model a model on cpu"),
        (
            {"running": 4, "estimated_wait_s": None},
            "busy",
            "Busy · 4 of 4 slots busy, 0 waiting · model a model on cpu",
        ),
        (
            {"running": 4, "waiting": 3, "estimated_wait_s": 12.3},
            "busy",
            "Busy · a question sent now starts in about 12 s · 4 of 4 slots busy, 3 waiting · model a model on cpu",
        ),
        (
            {"running": 4, "waiting": 0, "estimated_wait_s": 0.01},
            "busy",
            "Busy · a question sent now starts in about 1.0 s · 4 of 4 slots busy, 0 waiting · model a model on cpu",
        ),
        (
            {"running": 3, "waiting": 1, "estimated_wait_s": None},
            "busy",
            "Busy · 3 of 4 slots busy, 1 waiting · model a model on cpu",
        ),
    ],
)
def test_the_status_line_shows_state_slots_and_wait(changes: dict[str, Any], shown: str, said: str) -> None:
    page = status_page(**changes)
    assert page.text == said
    assert page.elements[0] == ("div", {"class": f"status {shown}", "role": "status", "title": said})


def test_what_a_kiosk_does_not_show_is_marked_as_figures() -> None:
    assert (
        '<span class="figures"> · 1 of 4 slots busy, 0 waiting<span class="model"> · model a model on cpu</span></span>'
        in status_line(READY, INFO)
    )
    reading = progress(replace(NEW, phase="reading", prompt_tokens=812), now=0.0)
    assert re.sub(r'<span class="figures">.*?</span>', "", reading) == '<span class="progress">Reading …</span>'


@pytest.mark.parametrize("state", ["loading", "down"])
def test_a_detail_in_the_status_line_is_escaped(state: str) -> None:
    page = status_page(state=state, detail=SCRIPT)
    assert SCRIPT in page.text
    assert [tag for tag, _ in page.elements] == ["div", "span", "span", "span", "span"]


def test_a_model_name_in_the_status_line_is_escaped() -> None:
    page = Page(status_line(READY, replace(INFO, model=SCRIPT)))
    assert SCRIPT in page.text
    assert [tag for tag, _ in page.elements] == ["div", "span", "span", "span", "span"]


# --- an answer that is being written -------------------------------------------------------------------------------------

NEW = Answer("id", SamplingParams(), None, 0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Sending …"),
        (NEW, "Sending …"),
        (replace(NEW, position=1), "Next in line …"),
        (replace(NEW, position=3, estimated_wait_s=20.0, phase_began=100.0), "Number 3 in line, about 20 s to go …"),
        (replace(NEW, position=3, estimated_wait_s=20.0, phase_began=95.0), "Number 3 in line, about 15 s to go …"),
        (replace(NEW, position=1, estimated_wait_s=20.0, phase_began=10.0), "Next in line, about 1.0 s to go …"),
        (replace(NEW, phase="reading", phase_began=99.9), "Reading …"),
        (replace(NEW, phase="reading", phase_began=99.9, prompt_tokens=812), "Reading 812 tokens …"),
        (replace(NEW, phase="reading", phase_began=97.0, prompt_tokens=812), "Reading 812 tokens … 3.0 s"),
        (
            replace(NEW, phase="reading", phase_began=100.0, image=ImageRef("1" * 64, SCRIPT, 8, 6), prompt_tokens=812),
            "Looking at the image and reading 812 tokens …",
        ),
        (replace(NEW, phase="writing", tokens=40, phase_began=93.0), "Thinking … 7.0 s"),
    ],
)
def test_the_progress_in_place_of_an_answer(answer: Answer | None, said: str) -> None:
    page = Page(progress(answer, now=100.0))
    assert page.text == said
    assert page.elements[0] == ("span", {"class": "progress"})
    assert {tag for tag, _ in page.elements} == {"span"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": 1}, "read 812 tokens in 0.4 s · writing: 1 token context 813 of 2048 "),
        (
            {"tokens": 1, "estimated": True},
            "read about 812 tokens in 0.4 s · writing: about 1 token context 813 of 2048 ",
        ),
        ({"tokens": 32, "wrote_s": 1.0}, "read 812 tokens in 0.4 s · writing: 32 tokens at 31 tokens/s context 844 of 2048 "),
        ({"tokens": 3, "wrote_s": 4.0}, "read 812 tokens in 0.4 s · writing: 3 tokens at 0.5 tokens/s context 815 of 2048 "),
    ],
)
def test_the_live_line_shows_tokens_read_and_the_speed(changes: dict[str, Any], said: str) -> None:
    page = Page(live_line(replace(NEW, phase="writing", prompt_tokens=812, read_s=0.4, **changes), 2048))
    assert page.text == said


@pytest.mark.parametrize(("used", "length", "width"), [(0, 2048, "0%"), (1024, 2048, "50%"), (3000, 2048, "100%")])
def test_the_context_has_a_bar_that_ends_where_it_is_full(used: int, length: int, width: str) -> None:
    assert ("span", {"style": f"width:{width}"}) in Page(context(used, length)).elements


# --- versions ------------------------------------------------------------------------------------------------------------


def test_a_single_version_has_no_arrows() -> None:
    assert versions_bar(Siblings((0,), 0), Siblings((1,), 0)) == ""


def test_arrows_select_the_neighbouring_versions_and_end_at_the_last() -> None:
    page = Page(versions_bar(None, Siblings((1, 4, 7), 2)))
    assert "3 / 3" in page.text
    assert "Previous version of the answer" in page.text
    previous, following = (attributes for tag, attributes in page.elements if tag == "button")
    assert "select-version-4" in str(previous["class"])
    assert "disabled" not in previous
    assert "disabled" in following
    assert "select-version" not in str(following["class"])


def test_arrows_are_disabled_while_an_answer_is_written() -> None:
    page = Page(versions_bar(Siblings((0, 2), 0), None, later=(5,), locked=True))
    assert "1 / 2" in page.text
    assert all("disabled" in attributes for tag, attributes in page.elements if tag == "button")


def test_later_messages_can_be_restored() -> None:
    page = Page(versions_bar(None, None, later=(2, 5)))
    [(_, attributes)] = [element for element in page.elements if element[0] == "button"]
    assert "select-version-5" in str(attributes["class"])
    assert page.text == "Bring back 2 later versions"


# --- failures --------------------------------------------------------------------------------------------------------------


def test_a_failure_shows_its_sentence_and_the_id_of_its_request() -> None:
    html = failure(Message("assistant", "", metadata={"error": "It failed <b>.", "request_id": "a<b"}), may_retry=False)
    assert "It failed &lt;b&gt;." in html
    assert "Request a&lt;b</small>" in html
    assert "Request" not in failure(Message("assistant", "", metadata={"error": "It failed."}), may_retry=True)
    assert failure(Message("assistant", "Yes."), may_retry=True) == ""
