# pyright: reportOptionalMemberAccess=false
"""A message tree never loses a message, and shows again what it showed before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree, Siblings
from mllama_demo.errors import NotFound
from tests.support.manual_backend import conversation_of

FIRST = conversation_of("one", "two", "three", "four").messages
EDITED = (*FIRST[:2], Message("user", "other"), Message("assistant", "answer"))
RETRIED = (*FIRST[:3], Message("assistant", "again"))


def shown_texts(tree: MessageTree) -> list[str]:
    return [message.text for message in tree.conversation().messages]


def test_a_tree_shows_the_messages_it_was_last_given() -> None:
    tree = MessageTree()
    assert shown_texts(tree) == []
    for messages in (FIRST, EDITED, RETRIED, FIRST[:1], ()):
        tree = tree.with_messages(messages)
        assert tree.conversation().messages == messages
    assert len(tree.nodes) == 7


def test_known_messages_add_no_nodes() -> None:
    tree = MessageTree().with_messages(FIRST)
    assert tree.with_messages(FIRST) == tree
    assert tree.with_messages(EDITED).with_messages(FIRST).nodes[:4] == tree.nodes


def test_siblings_are_counted_where_the_tree_branches() -> None:
    tree = MessageTree().with_messages(FIRST).with_messages(RETRIED).with_messages(EDITED)
    assert tree.siblings(EDITED) == [
        Siblings((0,), 0), Siblings((1,), 0), Siblings((2, 5), 1), Siblings((6,), 0),
    ]  # fmt: skip
    assert tree.siblings(RETRIED)[2:] == [Siblings((2, 5), 0), Siblings((3, 4), 1)]


def test_an_unknown_message_and_those_after_it_have_no_siblings() -> None:
    tree = MessageTree().with_messages(FIRST)
    assert tree.siblings((*FIRST[:1], Message("assistant", "new"), *FIRST[2:])) == [Siblings((0,), 0), None, None, None]


def test_selecting_a_node_shows_the_descendants_last_shown() -> None:
    tree = MessageTree().with_messages(FIRST).with_messages(RETRIED).with_messages(FIRST).with_messages(EDITED)
    back = tree.with_selected(2)
    assert shown_texts(back) == ["one", "two", "three", "four"], "not the answer that came last, but the one that was shown"
    assert shown_texts(back.with_selected(5)) == ["one", "two", "other", "answer"]


def test_selecting_a_node_without_a_shown_child_shows_the_newest() -> None:
    tree = MessageTree().with_messages(FIRST).with_messages(RETRIED).with_messages(FIRST[:3])
    assert tree.children(2) == (3, 4)
    assert shown_texts(tree.with_selected(2)) == ["one", "two", "three", "again"]


def test_a_hidden_message_is_shown_with_everything_before_it() -> None:
    tree = MessageTree().with_messages(FIRST).with_messages((Message("user", "quite different"),))
    assert shown_texts(tree.with_selected(3)) == ["one", "two", "three", "four"]
    assert [message.text for message in tree.up_to(1).messages] == ["one", "two"]


@pytest.mark.parametrize("act", [MessageTree.with_selected, MessageTree.up_to])
def test_an_unknown_number_is_named(act) -> None:
    with pytest.raises(NotFound, match="no version 9"):
        act(MessageTree().with_messages(FIRST), 9)


words = st.sampled_from(["a", "b"])


@settings(deadline=None)
@given(st.lists(st.lists(words, max_size=5), max_size=8), st.data())
def test_no_message_is_ever_lost_and_one_path_is_shown(shown: list[list[str]], data: st.DataObject) -> None:
    tree, ever = MessageTree(), set[tuple[str, ...]]()
    for texts in shown:
        tree = tree.with_messages(conversation_of(*texts).messages)
        ever |= {tuple(texts[: n + 1]) for n in range(len(texts))}
        assert shown_texts(tree) == texts
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
