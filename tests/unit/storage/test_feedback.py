"""Ratings and notes: whose they are, what is stored, and a CSV file without formulas."""

from __future__ import annotations

import csv
import io

import pytest

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.feedback import COLUMNS, MAX_NOTE_LENGTH, Feedback, to_csv
from mllama_demo.ui.feedback_controls import ratings_shown

SAMPLING = {"temperature": 0.2, "top_p": 0.9}


@pytest.fixture
def feedback(store: ConversationStore) -> Feedback:
    return Feedback(store)


@pytest.fixture
def conversation(store: ConversationStore) -> Conversation:
    """Question 0, answer 1, question 2, answer 3."""
    messages = []
    for number in (1, 2):
        messages += [
            Message("user", f"Question {number}"),
            Message("assistant", f"Answer {number}", metadata={"sampling": SAMPLING}),
        ]
    return store.save("me", Conversation(tuple(messages), title="talk")).conversation()


def rows(feedback: Feedback) -> list[dict[str, str]]:
    text = "".join(to_csv(feedback.latest()))
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def test_a_rating_has_the_model_the_sampling_and_the_texts(feedback, conversation):
    feedback.rate("me", conversation.id, 3, False, "the model")
    feedback.add_note("me", conversation.id, 3, "  It is, „no\ndog“ ")
    (row,) = rows(feedback)
    assert tuple(row) == COLUMNS
    assert row["rating"] == "bad"
    assert row["note"] == "It is, „no\ndog“"
    assert (row["model"], row["question"], row["answer"]) == ("the model", "Question 2", "Answer 2")
    assert row["sampling"] == '{"temperature": 0.2, "top_p": 0.9}'
    assert (row["conversation"], row["message"], row["user"]) == (conversation.id, "3", "")


def test_a_second_rating_replaces_the_first_keeps_its_note_and_none_deletes_it(feedback, conversation):
    feedback.rate("me", conversation.id, 1, True, "m")
    feedback.add_note("me", conversation.id, 1, "why")
    feedback.rate("me", conversation.id, 1, False, "m")
    (row,) = rows(feedback)
    assert (row["rating"], row["note"]) == ("bad", "why")
    assert feedback.counts() == (0, 1)
    feedback.rate("me", conversation.id, 1, None, "m")
    assert rows(feedback) == []
    assert feedback.ratings("me", conversation.id) == {}


def test_an_owner_rates_and_sees_only_their_own_answers(feedback, conversation):
    with pytest.raises(NotFound):
        feedback.rate("someone else", conversation.id, 1, True, "m")
    feedback.rate("me", conversation.id, 1, True, "m")
    with pytest.raises(NotFound):
        feedback.add_note("someone else", conversation.id, 1, "spoilt")
    assert feedback.ratings("someone else", conversation.id) == {}
    assert feedback.ratings("me", conversation.id) == {1: True}


@pytest.mark.parametrize("message", [0, 2, 4, -1])
def test_only_answers_are_rated(feedback, conversation, message):
    with pytest.raises(BadRequest, match="answer"):
        feedback.rate("me", conversation.id, message, True, "m")


def test_a_note_needs_a_rating_and_has_a_maximum_length(feedback, conversation):
    with pytest.raises(NotFound, match="thumb"):
        feedback.add_note("me", conversation.id, 1, "hello")
    feedback.rate("me", conversation.id, 1, True, "m")
    with pytest.raises(BadRequest, match=str(MAX_NOTE_LENGTH)):
        feedback.add_note("me", conversation.id, 1, "x" * (MAX_NOTE_LENGTH + 1))


@pytest.mark.parametrize("formula", ["=HYPERLINK(1)", "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1"])
def test_a_note_never_becomes_a_formula_of_a_spreadsheet(feedback, conversation, formula):
    feedback.rate("me", conversation.id, 1, True, "m")
    feedback.add_note("me", conversation.id, 1, "x" + formula)
    assert rows(feedback)[0]["note"] == "x" + formula
    feedback.add_note("me", conversation.id, 1, formula)
    assert rows(feedback)[0]["note"] == "'" + formula.strip()


def test_a_rating_of_a_deleted_conversation_has_no_texts(store, feedback, conversation):
    feedback.rate("me", conversation.id, 1, True, "m")
    store.delete("me", conversation.id)
    (row,) = rows(feedback)
    assert (row["rating"], row["question"], row["answer"]) == ("good", "", "")


def test_a_rating_names_a_signed_in_user_and_never_a_visitors_cookie(store, feedback):
    for owner in ("user:anna", "A" * 32):
        conversation = store.save(owner, Conversation((Message("user", "?"), Message("assistant", "!")), title=owner))
        feedback.rate(owner, conversation.id, 1, True, "m")
    assert sorted(row["user"] for row in rows(feedback)) == ["", "anna"]


def test_the_chatbot_shows_the_ratings_of_the_shown_versions(store, feedback, conversation):
    feedback.rate("me", conversation.id, 3, True, "m")
    assert ratings_shown(store.tree("me", conversation.id), feedback.ratings("me", conversation.id)) == [None, "Like"]
    store.save("me", conversation.cut(3).add(Message("assistant", "Another answer")))
    assert ratings_shown(store.tree("me", conversation.id), feedback.ratings("me", conversation.id)) == [None, None]


def test_erasing_an_owner_deletes_only_their_ratings(store, feedback, conversation):
    theirs = store.save("her", Conversation((Message("user", "a"), Message("assistant", "b"))))
    feedback.rate("me", conversation.id, 1, True, "m")
    feedback.rate("her", theirs.id, 1, False, "m")
    feedback.erase("me")
    assert [row["conversation"] for row in rows(feedback)] == [theirs.id]
