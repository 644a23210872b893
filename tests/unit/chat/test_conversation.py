# pyright: reportArgumentType=false
"""A conversation's image turn, and what of it is dropped when the context is full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama_demo.chat.conversation import Conversation, ImageRef, Message, fit
from mllama_demo.errors import BadRequest

PICTURE = ImageRef(digest="0" * 64, name="boat.png", width=640, height=480)


def turn(role: str, number: int, size: int = 1, image: bool = False) -> Message:
    """A message that counts as `size` tokens and carries its number, so that equal texts stay distinguishable."""
    return Message(role, "x" * size, PICTURE if image else None, {"number": number})


def turns(shape: str) -> tuple[Message, ...]:
    """One message of size 1 for each letter: s system, u user, i user with an image, a assistant."""
    roles = {"s": "system", "u": "user", "i": "user", "a": "assistant"}
    return tuple(turn(roles[letter], n, image=letter == "i") for n, letter in enumerate(shape))


def size(messages: tuple[Message, ...]) -> int:
    return sum(len(m.text) for m in messages)


def numbers(messages: tuple[Message, ...]) -> list[int]:
    return [m.metadata["number"] for m in messages]


# --- the title ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "title", "expected"),
    [
        ((), "", "New chat"),
        ((), "Boats", "Boats"),
        ((Message("user", "What is it?"),), "", "What is it?"),
        ((Message("user", "What is it?"),), "Boats", "Boats"),
        ((Message("user", "  What\n is\tit? "),), "", "What is it?"),
        ((Message("system", "Be brief."), Message("user", "What is it?"), Message("user", "And this?")), "", "What is it?"),
        ((Message("assistant", "Welcome."),), "", "New chat"),
        ((Message("user", "", PICTURE),), "", "boat.png"),
        ((Message("user", "What is it?", PICTURE),), "", "What is it?"),
        ((Message("user", "x" * 48),), "", "x" * 48),
        ((Message("user", "x" * 49),), "", "x" * 47 + "…"),
        ((Message("user", "x" * 46 + " yz and so on"),), "", "x" * 46 + "…"),
    ],
)
def test_the_display_title_is_the_title_or_how_the_conversation_began(
    messages: tuple[Message, ...], title: str, expected: str
) -> None:
    assert Conversation(messages, title=title).display_title == expected


# --- the image turn ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "index"),
    [("", None), ("suau", None), ("iau", 0), ("uaiau", 2), ("iaiau", 2), ("iaiai", 4), ("siauau", 1)],
)
def test_the_model_sees_the_newest_image(shape: str, index: int | None) -> None:
    assert Conversation(turns(shape)).image_turn() == index


def test_adding_a_message_makes_a_new_conversation_with_the_same_id() -> None:
    before = Conversation(turns("ua"), title="boats")
    after = before.add(turn("user", 2))
    assert numbers(after.messages) == [0, 1, 2]
    assert (after.id, after.title) == (before.id, "boats")
    assert numbers(before.messages) == [0, 1]


def test_cutting_a_conversation_keeps_its_first_messages() -> None:
    before = Conversation(turns("uauau"))
    assert numbers(before.cut(3).messages) == [0, 1, 2]
    assert before.cut(3).id == before.id
    assert len(before.messages) == 5


def test_two_conversations_have_different_ids() -> None:
    assert Conversation().id != Conversation().id


# --- what is dropped, by example -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "budget", "kept"),
    [
        pytest.param("uauau", 5, [0, 1, 2, 3, 4], id="what fits stays whole"),
        pytest.param("uauau", 4, [2, 3, 4], id="a question takes its answer with it"),
        pytest.param("uauau", 3, [2, 3, 4], id="no more is dropped than needed"),
        pytest.param("uauau", 2, [4], id="the last turn is left alone"),
        pytest.param("uauau", 0, [4], id="the last turn stays even when it does not fit"),
        pytest.param("suauau", 4, [0, 3, 4, 5], id="the system turn stays"),
        pytest.param("suauau", 1, [0, 5], id="the system turn stays even when it does not fit"),
        pytest.param("iauau", 4, [0, 1, 4], id="the image turn stays and a later text pair goes"),
        pytest.param("iauau", 2, [0, 4], id="the image turn's answer goes once no other question is left"),
        pytest.param("iauau", 0, [0, 4], id="the image turn stays even when it does not fit"),
        pytest.param("uaiauau", 5, [2, 3, 4, 5, 6], id="what is older than the image goes first"),
        pytest.param("uaiauau", 3, [2, 3, 6], id="then what is newer"),
        pytest.param("iaiau", 3, [2, 3, 4], id="an image that the model no longer sees is dropped like text"),
        pytest.param("siai", 2, [0, 3], id="a last turn with an image frees the older image"),
    ],
)
def test_the_oldest_text_turns_are_dropped_first(shape: str, budget: int, kept: list[int]) -> None:
    messages = turns(shape)
    fitted = fit(messages, budget, size)
    assert numbers(fitted.messages) == kept
    assert fitted.dropped == len(messages) - len(kept)


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(BadRequest, match="empty"):
        fit((), 10, size)


def test_the_budget_is_compared_with_the_count_of_the_whole_list() -> None:
    """A template's overhead belongs to the list, not to its messages: `count` is asked about what would be sent."""
    assert numbers(fit(turns("uauau"), 13, lambda kept: 10 + size(kept)).messages) == [2, 3, 4]


def test_a_long_conversation_is_counted_a_few_times_only() -> None:
    messages, counted = turns("ua" * 500 + "u"), []

    def count(kept: tuple[Message, ...]) -> int:
        counted.append(kept)
        return size(kept)

    assert len(fit(messages, 100, count).messages) == 99
    assert len(counted) < 12


# --- what is dropped, for any conversation -------------------------------------------------------------------------------

budgets = st.integers(min_value=0, max_value=60)


@st.composite
def any_messages(draw: st.DrawFn) -> tuple[Message, ...]:
    roles = draw(st.lists(st.sampled_from(["system", "user", "user", "assistant", "assistant"]), min_size=1, max_size=14))
    return tuple(
        turn(role, n, draw(st.integers(0, 9)), image=role == "user" and draw(st.integers(0, 3)) == 0)
        for n, role in enumerate(roles)
    )


@st.composite
def chats(draw: st.DrawFn, images: bool = True) -> tuple[Message, ...]:
    """Questions and answers in turn, a question last, perhaps a system turn first."""
    with_system = draw(st.booleans())
    roles = ["system"] * with_system + ["user", "assistant"] * draw(st.integers(0, 6)) + ["user"]
    return tuple(
        turn(role, n, draw(st.integers(1, 9)), image=images and role == "user" and draw(st.integers(0, 3)) == 0)
        for n, role in enumerate(roles)
    )


def protected_numbers(messages: tuple[Message, ...]) -> set[int]:
    pictured = [n for n, m in enumerate(messages) if m.image is not None]
    return {n for n, m in enumerate(messages) if m.role == "system"} | set(pictured[-1:]) | {len(messages) - 1}


@given(any_messages(), budgets)
def test_what_is_kept_is_a_subsequence_and_the_dropped_are_counted(messages: tuple[Message, ...], budget: int) -> None:
    fitted = fit(messages, budget, size)
    kept = numbers(fitted.messages)
    assert kept == sorted(set(kept))
    assert fitted.messages == tuple(messages[n] for n in kept)
    assert fitted.dropped == len(messages) - len(kept)


@given(any_messages(), budgets)
def test_the_system_turns_the_image_turn_and_the_last_turn_are_always_kept(messages: tuple[Message, ...], budget: int) -> None:
    assert protected_numbers(messages) <= set(numbers(fit(messages, budget, size).messages))


@given(any_messages(), budgets)
def test_it_is_over_budget_only_when_nothing_is_left_to_drop(messages: tuple[Message, ...], budget: int) -> None:
    fitted = fit(messages, budget, size)
    smallest = protected_numbers(messages)
    if size(fitted.messages) > budget:
        assert set(numbers(fitted.messages)) == smallest
    if sum(len(messages[n].text) for n in smallest) <= budget:
        assert size(fitted.messages) <= budget


@given(any_messages())
def test_nothing_is_dropped_from_what_fits(messages: tuple[Message, ...]) -> None:
    fitted = fit(messages, size(messages), size)
    assert (fitted.messages, fitted.dropped) == (messages, 0)


@given(any_messages(), budgets)
def test_questions_are_dropped_oldest_first(messages: tuple[Message, ...], budget: int) -> None:
    kept = set(numbers(fit(messages, budget, size).messages))
    smallest = protected_numbers(messages)
    questions_kept = [n in kept for n, m in enumerate(messages) if m.role == "user" and n not in smallest]
    assert questions_kept == sorted(questions_kept), "a newer question was dropped before an older one"


@given(chats(images=False), budgets)
def test_no_more_pairs_are_dropped_than_the_budget_requires(messages: tuple[Message, ...], budget: int) -> None:
    system, rest = [m for m in messages if m.role == "system"], [m for m in messages if m.role != "system"]
    options = [(*system, *rest[start:]) for start in range(0, len(rest), 2)]
    expected = next((option for option in options if size(option) <= budget), options[-1])
    assert fit(messages, budget, size).messages == expected


@given(chats(), budgets)
def test_questions_and_answers_still_alternate_while_a_question_is_left_to_drop(
    messages: tuple[Message, ...], budget: int
) -> None:
    kept = fit(messages, budget, size).messages
    smallest = protected_numbers(messages)
    if any(m.role == "user" and m.metadata["number"] not in smallest for m in kept):
        spoken = [m.role for m in kept if m.role != "system"]
        assert spoken == [("user", "assistant")[n % 2] for n in range(len(spoken))]


@given(chats(), budgets)
def test_an_answer_is_never_kept_without_its_question(messages: tuple[Message, ...], budget: int) -> None:
    kept = set(numbers(fit(messages, budget, size).messages))
    orphans = [n for n in kept if messages[n].role == "assistant" and n - 1 not in kept]
    assert orphans == []


@given(any_messages(), budgets)
def test_the_model_sees_the_same_image_after_dropping(messages: tuple[Message, ...], budget: int) -> None:
    def seen(some: tuple[Message, ...]) -> int | None:
        index = Conversation(some).image_turn()
        return None if index is None else some[index].metadata["number"]

    assert seen(fit(messages, budget, size).messages) == seen(messages)


@given(any_messages(), budgets)
def test_fitting_twice_changes_nothing_more(messages: tuple[Message, ...], budget: int) -> None:
    once = fit(messages, budget, size)
    assert fit(once.messages, budget, size).messages == once.messages
    assert fit(once.messages, budget, size).dropped == 0
