"""Siblings of a conversation: what was said once is never lost, and walking comes back to where one was."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree, Siblings
from mllama_demo.errors import NotFound
from tests.support.manual_backend import talk

FIRST = talk("one", "two", "three", "four").messages
EDITED = (*FIRST[:2], Message("user", "other"), Message("assistant", "answer"))
RETRIED = (*FIRST[:3], Message("assistant", "again"))


def said(tree: MessageTree) -> list[str]:
    return [message.text for message in tree.conversation().messages]


def test_a_tree_shows_what_it_was_last_told() -> None:
    tree = MessageTree()
    assert said(tree) == []
    for messages in (FIRST, EDITED, RETRIED, FIRST[:1], ()):
        tree = tree.with_messages(messages)
        assert tree.conversation().messages == messages
    assert len(tree.nodes) == 7


def test_the_same_again_adds_nothing() -> None:
    tree = MessageTree().with_messages(FIRST)
    assert tree.with_messages(FIRST) == tree
    assert tree.with_messages(EDITED).with_messages(FIRST).nodes[:4] == tree.nodes


def test_versions_are_counted_where_the_ways_part() -> None:
    tree = MessageTree().with_messages(FIRST).with_messages(RETRIED).with_messages(EDITED)
    assert tree.siblings(EDITED) == [
        Siblings((0,), 0), Siblings((1,), 0), Siblings((2, 5), 1), Siblings((6,), 0),
    ]  # fmt: skip
    assert tree.siblings(RETRIED)[2:] == [Siblings((2, 5), 0), Siblings((3, 4), 1)]


def test_messages_that_are_not_in_the_tree_have_no_version_nor_has_what_follows() -> None:
    tree = MessageTree().with_messages(FIRST)
    assert tree.siblings((*FIRST[:1], Message("assistant", "new"), *FIRST[2:])) == [Siblings((0,), 0), None, None, None]


def test_walking_comes_back_to_where_one_was() -> None:
    tree = MessageTree().with_messages(FIRST).with_messages(RETRIED).with_messages(FIRST).with_messages(EDITED)
    back = tree.with_selected(2)
    assert said(back) == ["one", "two", "three", "four"], "not the answer that came last, but the one that was shown"
    assert said(back.with_selected(5)) == ["one", "two", "other", "answer"]


def test_walking_to_where_nothing_was_shown_below_shows_what_came_last() -> None:
    tree = MessageTree().with_messages(FIRST).with_messages(RETRIED).with_messages(FIRST[:3])
    assert tree.children(2) == (3, 4)
    assert said(tree.with_selected(2)) == ["one", "two", "three", "again"]


def test_a_hidden_message_is_shown_with_everything_before_it() -> None:
    tree = MessageTree().with_messages(FIRST).with_messages((Message("user", "quite different"),))
    assert said(tree.with_selected(3)) == ["one", "two", "three", "four"]
    assert [message.text for message in tree.up_to(1).messages] == ["one", "two"]


@pytest.mark.parametrize("act", [MessageTree.with_selected, MessageTree.up_to])
def test_a_number_that_there_is_not_is_named(act) -> None:
    with pytest.raises(NotFound, match="no version 9"):
        act(MessageTree().with_messages(FIRST), 9)


words = st.sampled_from(["a", "b"])


@settings(deadline=None)
@given(st.lists(st.lists(words, max_size=5), max_size=8), st.data())
def test_nothing_is_ever_lost_and_one_way_leads_through(shown: list[list[str]], data: st.DataObject) -> None:
    tree, ever = MessageTree(), set[tuple[str, ...]]()
    for texts in shown:
        tree = tree.with_messages(talk(*texts).messages)
        ever |= {tuple(texts[: n + 1]) for n in range(len(texts))}
        assert said(tree) == texts
    if tree.nodes:
        number = data.draw(st.sampled_from([node.number for node in tree.nodes]))
        chosen = tree.with_selected(number)
        assert tree.up_to(number).messages == chosen.conversation().messages[: len(tree.up_to(number).messages)]
        assert not chosen.children(chosen.siblings(chosen.conversation().messages)[-1].number)
    assert {tuple(m.text for m in tree.up_to(node.number).messages) for node in tree.nodes} == ever
    for parent in {node.parent for node in tree.nodes}:
        assert sum(node.chosen for node in tree.nodes if node.parent == parent) <= 1


def test_a_tree_keeps_id_and_title() -> None:
    tree = MessageTree(id="x", title="Counting").with_messages(FIRST).with_selected(0)
    assert tree.conversation() == Conversation(FIRST, "x", "Counting")
