"""Links to a conversation: what they show and to whom, for how long, and who may end them."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sql

from mllama_demo.chat.conversation import Message
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage import share_links
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.shares import MAX_SHARES, ShareGone, Shares
from tests.support.manual_backend import conversation_of


@pytest.fixture
def shares(store: ConversationStore) -> Shares:
    return Shares(store)


@pytest.fixture
def conversation(store: ConversationStore):
    """A stored conversation of "me"."""
    return store.save("me", conversation_of("What is it?", "A dog.")).conversation()


def texts(shares: Shares, token: str) -> list[str]:
    return [message.text for message in shares.open(token).conversation.messages]


def test_a_link_shows_what_the_conversation_showed_and_not_what_came_later(store, shares, conversation):
    token = shares.create("me", conversation.id, "1 day")
    store.rename("me", conversation.id, "A private name")
    store.save("me", conversation.add(Message("user", "And a secret?")))
    assert texts(shares, token) == ["What is it?", "A dog."]
    assert shares.open(token).conversation.title == conversation.title


def test_another_version_chosen_later_does_not_change_what_was_shared(store, shares, conversation):
    token = shares.create("me", conversation.id, "1 day")
    store.save("me", conversation.cut(1).add(Message("assistant", "A cat.")))
    assert texts(shares, token) == ["What is it?", "A dog."]


def test_the_token_of_a_link_is_not_in_the_database(store, shares, conversation):
    token = shares.create("me", conversation.id, "1 day")
    assert len(token) == 43
    with store.database.transaction() as connection:
        rows = connection.execute(sql.text("SELECT * FROM shares")).all()
    assert len(rows) == 1
    assert not any(token in str(value) for value in rows[0])


def test_tokens_differ_and_a_digest_opens_no_share(shares, conversation):
    tokens = {shares.create("me", conversation.id, "1 day") for _ in range(10)}
    assert len(tokens) == 10
    digest = shares.open(tokens.pop()).digest
    with pytest.raises(NotFound):
        shares.open(digest)


@pytest.mark.parametrize("token", ["", "x", "A" * 43, "é" * 43, "../" * 20, "A" * 42 + "\n", "%" * 43])
def test_an_unknown_token_opens_no_share(shares, conversation, token):
    shares.create("me", conversation.id, "1 day")
    with pytest.raises(NotFound, match="no shared conversation"):
        shares.open(token)


def test_a_link_expires(shares, conversation, later):
    token = shares.create("me", conversation.id, "1 hour")
    later(timedelta(minutes=59))
    assert texts(shares, token)
    later(timedelta(minutes=2))
    with pytest.raises(ShareGone, match="expired"):
        shares.open(token)
    assert shares.active("me", conversation.id) == []


def test_only_the_owner_revokes_and_all_links_of_one_conversation(store, shares, conversation):
    other = store.save("me", conversation_of("Another?", "Yes."))
    tokens = [shares.create("me", conversation.id, "1 day") for _ in range(2)]
    stays = shares.create("me", other.id, "1 day")
    assert shares.revoke("someone else", conversation.id) == 0
    assert texts(shares, tokens[0])
    assert shares.revoke("me", conversation.id) == 2
    for token in tokens:
        with pytest.raises(ShareGone, match="stopped sharing"):
            shares.open(token)
    assert texts(shares, stays) == ["Another?", "Yes."]
    assert shares.revoke("me", conversation.id) == 0


def test_a_deleted_conversation_is_not_shared_until_it_is_restored(store, shares, conversation):
    token = shares.create("me", conversation.id, "1 day")
    store.delete("me", conversation.id)
    with pytest.raises(ShareGone, match="deleted"):
        shares.open(token)
    store.restore("me", conversation.id)
    assert texts(shares, token)


def test_an_owner_shares_only_their_own_conversations(shares, conversation):
    with pytest.raises(NotFound):
        shares.create("someone else", conversation.id, "1 day")


def test_an_unknown_lifetime_too_many_links_and_an_empty_conversation_are_refused(store, shares, conversation, monkeypatch):
    with pytest.raises(BadRequest, match=r"1 hour, 1 day, .*'for ever'"):
        shares.create("me", conversation.id, "for ever")
    monkeypatch.setattr(share_links, "MAX_SHARES", 2)
    for _ in range(2):
        shares.create("me", conversation.id, "1 day")
    with pytest.raises(BadRequest, match="stop sharing"):
        shares.create("me", conversation.id, "1 day")
    assert MAX_SHARES > 2
    emptied = store.save("me", conversation.cut(0))
    with pytest.raises(BadRequest, match="nothing to share yet"):
        shares.create("me", emptied.id, "1 day")


def test_valid_links_are_listed_by_their_expiry_the_last_first(shares, conversation):
    for lifetime in ("1 hour", "1 week", "1 day"):
        shares.create("me", conversation.id, lifetime)
    ends = shares.active("me", conversation.id)
    assert ends == sorted(ends, reverse=True)
    assert len(ends) == 3
    assert shares.active("someone else", conversation.id) == []


def test_erasing_an_owner_deletes_only_their_links(store, shares, conversation):
    token = shares.create("me", conversation.id, "1 day")
    theirs = store.save("her", conversation_of("And that?", "A cat."))
    other = shares.create("her", theirs.id, "1 day")
    shares.erase("me")
    with pytest.raises(NotFound):
        shares.open(token)
    assert texts(shares, other) == ["And that?", "A cat."]
