"""FeedbackControls and notes: whose they are, what is kept of them, and a CSV file that no spreadsheet can be hurt with."""

from __future__ import annotations

import csv
import io

import pytest

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.feedback import COLUMNS, MAX_NOTE_LENGTH, Feedback, to_csv
from mllama_demo.ui.feedback_controls import thumbs

SAMPLING = {"temperature": 0.2, "top_p": 0.9}


@pytest.fixture
def feedback(store: ConversationStore) -> Feedback:
    return Feedback(store)


@pytest.fixture
def kept(store: ConversationStore) -> Conversation:
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


def test_a_thumb_is_kept_with_the_model_the_parameters_and_the_texts(feedback, kept):
    feedback.rate("me", kept.id, 3, False, "the model")
    feedback.add_note("me", kept.id, 3, "  It is, „no\ndog“ ")
    (row,) = rows(feedback)
    assert tuple(row) == COLUMNS
    assert row["rating"] == "bad"
    assert row["note"] == "It is, „no\ndog“"
    assert (row["model"], row["question"], row["answer"]) == ("the model", "Question 2", "Answer 2")
    assert row["sampling"] == '{"temperature": 0.2, "top_p": 0.9}'
    assert (row["conversation"], row["message"], row["user"]) == (kept.id, "3", "")


def test_a_second_thumb_replaces_the_first_and_keeps_its_note_and_none_takes_it_back(feedback, kept):
    feedback.rate("me", kept.id, 1, True, "m")
    feedback.add_note("me", kept.id, 1, "why")
    feedback.rate("me", kept.id, 1, False, "m")
    (row,) = rows(feedback)
    assert (row["rating"], row["note"]) == ("bad", "why")
    assert feedback.counts() == (0, 1)
    feedback.rate("me", kept.id, 1, None, "m")
    assert rows(feedback) == []
    assert feedback.ratings("me", kept.id) == {}


def test_nobody_rates_or_sees_what_is_not_theirs(feedback, kept):
    with pytest.raises(NotFound):
        feedback.rate("a stranger", kept.id, 1, True, "m")
    feedback.rate("me", kept.id, 1, True, "m")
    with pytest.raises(NotFound):
        feedback.add_note("a stranger", kept.id, 1, "spoilt")
    assert feedback.ratings("a stranger", kept.id) == {}
    assert feedback.ratings("me", kept.id) == {1: True}


@pytest.mark.parametrize("message", [0, 2, 4, -1])
def test_only_answers_are_rated(feedback, kept, message):
    with pytest.raises(BadRequest, match="answer"):
        feedback.rate("me", kept.id, message, True, "m")


def test_a_note_needs_a_thumb_and_has_an_end(feedback, kept):
    with pytest.raises(NotFound, match="thumb"):
        feedback.add_note("me", kept.id, 1, "hello")
    feedback.rate("me", kept.id, 1, True, "m")
    with pytest.raises(BadRequest, match=str(MAX_NOTE_LENGTH)):
        feedback.add_note("me", kept.id, 1, "x" * (MAX_NOTE_LENGTH + 1))


@pytest.mark.parametrize("formula", ["=HYPERLINK(1)", "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1"])
def test_what_a_visitor_writes_is_no_formula(feedback, kept, formula):
    feedback.rate("me", kept.id, 1, True, "m")
    feedback.add_note("me", kept.id, 1, "x" + formula)
    assert rows(feedback)[0]["note"] == "x" + formula
    feedback.add_note("me", kept.id, 1, formula)
    assert rows(feedback)[0]["note"] == "'" + formula.strip()


def test_with_the_conversation_its_texts_are_gone_from_the_feedback(store, feedback, kept):
    feedback.rate("me", kept.id, 1, True, "m")
    store.delete("me", kept.id)
    (row,) = rows(feedback)
    assert (row["rating"], row["question"], row["answer"]) == ("good", "", "")


def test_the_name_of_who_signed_in_is_told_and_no_visitors_cookie(store, feedback):
    for owner in ("user:anna", "A" * 32):
        kept = store.save(owner, Conversation((Message("user", "?"), Message("assistant", "!")), title=owner))
        feedback.rate(owner, kept.id, 1, True, "m")
    assert sorted(row["user"] for row in rows(feedback)) == ["", "anna"]


def test_the_chatbot_shows_the_thumbs_of_the_versions_it_shows(store, feedback, kept):
    feedback.rate("me", kept.id, 3, True, "m")
    assert thumbs(store.tree("me", kept.id), feedback.ratings("me", kept.id)) == [None, "Like"]
    store.save("me", kept.cut(3).add(Message("assistant", "Another answer")))
    assert thumbs(store.tree("me", kept.id), feedback.ratings("me", kept.id)) == [None, None]


def test_an_erased_owner_leaves_no_thumb_and_others_keep_theirs(store, feedback, kept):
    theirs = store.save("her", Conversation((Message("user", "a"), Message("assistant", "b"))))
    feedback.rate("me", kept.id, 1, True, "m")
    feedback.rate("her", theirs.id, 1, False, "m")
    feedback.erase("me")
    assert [row["conversation"] for row in rows(feedback)] == [theirs.id]
