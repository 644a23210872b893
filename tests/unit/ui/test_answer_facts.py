# pyright: reportArgumentType=false
"""The facts of an answer: the line that is always visible, and the list that it opens. Everything from outside is escaped."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from mllama_demo.chat.conversation import Message
from mllama_demo.chat.message_summary import END_REASONS
from mllama_demo.engine.base import FinishReason
from mllama_demo.ui.answer_facts import answer_facts
from tests.support.page_text import BOAT, METADATA, Page, answer_page

SCRIPT = '"><script>alert(1)</script>'


def line(html: str) -> str:
    """The line that is visible without opening the list."""
    found = re.search(r"<summary>(.*?)</summary>", html)
    assert found is not None
    return Page(found[1]).text


def facts(html: str) -> dict[str, str]:
    """The values of the list by their names."""
    rows = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html)
    return {Page(name).text: Page(value).text.strip() for name, value in rows}


def of(number: int | None = None, question: Message | None = None, **changes: Any) -> str:
    return answer_facts(Message("assistant", "A boat.", metadata={**METADATA, **changes}), number, question)


def test_the_line_says_what_the_model_saw_and_how_fast_it_was() -> None:
    assert line(of(image=BOAT)) == "saw boat.png, 640 × 480 px, 1 tile · 5 tokens · 32 tokens/s"
    assert line(of()) == "5 tokens · 32 tokens/s"
    assert line(of(reason="cancelled")) == "stopped by hand · 5 tokens · 32 tokens/s"


def test_the_list_has_values_seed_tiles_times_and_context() -> None:
    assert facts(of(image=BOAT, context_length=2048, waited_s=3.0)) == {
        "Image": "saw boat.png, 640 × 480 px, 1 tile",
        "Temperature": "0.6",
        "Top-p": "0.9",
        "Top-k": "0",
        "Max tokens": "256",
        "Seed": "7",
        "In the queue": "waited 3.0 s",
        "First token": "after 0.4 s",
        "Speed": "32 tokens/s",
        "Read": "17 tokens",
        "Wrote": "5 tokens",
        "Context": "22 of 2048 tokens",
        "End": "finished",
    }
    greedy = facts(of(sampling={**METADATA["sampling"], "temperature": 0, "seed": None, "ignore_eos": True}))
    assert greedy["Temperature"] == "0 (greedy)"
    assert "Top-p" not in greedy
    assert "Seed" not in greedy
    assert "Ignore the end" in greedy


def test_every_fact_can_be_copied_alone_and_all_together() -> None:
    html = of(image=BOAT)
    copied = [attributes["data-text"] for tag, attributes in Page(html).elements if "data-text" in attributes]
    assert copied[:-1] == list(facts(html).values())
    assert copied[-1] == "\n".join(f"{name}: {value}" for name, value in facts(html).items())


def test_a_numbered_answer_has_buttons_that_show_the_tiles_and_set_the_values() -> None:
    buttons = [attributes for tag, attributes in Page(of(3, image=BOAT)).elements if tag == "button"]
    assert any("preview-3" in str(button["class"]) for button in buttons)
    assert any("use-values" in str(button["class"]) and button["data-number"] == "3" for button in buttons)
    assert "preview-" not in of(3)
    assert "use-values" not in of(image=BOAT)


def test_an_image_that_was_set_aside_is_named_in_the_line() -> None:
    question = Message("user", "WhichImage?", metadata={"set_aside": ["boat.png", "car.png"]})
    assert "set aside: boat.png, car.png" in line(of(3, question))


@pytest.mark.parametrize(("key", "missing"), [("ttft_s", "First token"), ("tokens_per_second", "Speed")])
def test_a_figure_that_is_not_known_is_not_shown(key: str, missing: str) -> None:
    assert missing in facts(of())
    assert missing not in facts(of(**{key: None}))


@pytest.mark.parametrize(("tokens", "tokens_per_second", "known"), [(2, 13680.0, False), (200, 40000.0, False), (2, 4.0, True)])
def test_the_speed_of_a_burst_is_not_shown(tokens: int, tokens_per_second: float, known: bool) -> None:
    """Answers that were stored by earlier versions have such speeds."""
    html = of(completion_tokens=tokens, tokens_per_second=tokens_per_second)
    assert ("tokens/s" in Page(html).text) == known


def test_a_slow_model_is_not_said_to_stand_still() -> None:
    assert facts(of(tokens_per_second=0.4))["Speed"] == "0.4 tokens/s"


def test_a_truncated_answer_has_a_line() -> None:
    message = Message("assistant", "A bo", metadata={"sampling": METADATA["sampling"], "dropped": 0})
    assert line(answer_facts(message)) == "About this answer"


def test_a_message_without_metadata_has_no_line() -> None:
    assert answer_facts(Message("user", "What is it?")) == ""


@pytest.mark.parametrize("reason", [*get_args(FinishReason), "abandoned", "cut_off"])
def test_every_way_to_end_has_its_words(reason: str) -> None:
    assert facts(of(reason=reason))["End"] == END_REASONS[reason]


@pytest.mark.parametrize(
    ("dropped", "said"),
    [(1, "the 1 oldest message did not fit and was left out"), (4, "the 4 oldest messages did not fit and were left out")],
)
def test_what_was_left_out_is_said_in_the_line(dropped: int, said: str) -> None:
    assert said in line(of(dropped=dropped))
    assert "left out" not in line(of(dropped=0))


def test_a_limit_of_the_backend_is_said() -> None:
    assert "Top-k of the backendlimited to 64" in Page(of(top_k_limit=64)).text
    assert "limited" not in Page(of()).text


@pytest.mark.parametrize(
    "changes",
    [{"image": {**BOAT, "name": f"boat{SCRIPT}.png"}}, {"sampling": {**METADATA["sampling"], "seed": SCRIPT}}],
    ids=["image name", "sampling"],
)
def test_everything_in_the_facts_is_escaped(changes: dict[str, Any]) -> None:
    page = Page(of(3, **changes))
    assert "script" not in {tag for tag, _ in page.elements}
    assert SCRIPT in page.text


def test_the_page_of_an_answer_is_one_element_that_opens() -> None:
    assert answer_page().elements[0][0] == "details"
