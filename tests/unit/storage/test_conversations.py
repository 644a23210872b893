"""Conversations come back as they were saved, to their owner alone, in every order of threads and after every restart."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage.conversations import MAX_TITLE_LENGTH, ConversationStore
from mllama_demo.storage.database import Database
from tests.support.stored_conversations import conversation_of, image, texts

# --- round trip ----------------------------------------------------------------------------------------------------------


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
facts = st.dictionaries(texts, st.none() | st.booleans() | numbers | texts | st.lists(numbers, max_size=3), max_size=3)
COLORS = ("red", "green", "blue")


@st.composite
def messages(draw):
    ref = draw(st.none() | st.sampled_from(COLORS))
    shown = (
        None if ref is None else ImageRef(image(ref).digest, draw(texts), draw(st.integers(1, 9999)), draw(st.integers(1, 9999)))
    )
    return Message(draw(st.sampled_from(["system", "user", "assistant"])), draw(texts), shown, draw(facts))


conversations = st.builds(Conversation, st.lists(messages(), max_size=6).map(tuple), title=texts)


@pytest.fixture
def store_with_images(store):
    for color in COLORS:
        store.put_image(image(color))
    return store


class TestRoundTrip:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(conversation=conversations)
    def test_what_is_loaded_equals_what_was_saved(self, store_with_images, conversation):
        store_with_images.save("ann", conversation)
        assert store_with_images.load("ann", conversation.id) == conversation

    @pytest.mark.slow
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(first=conversations, second=conversations, kept=st.integers(0, 6))
    def test_a_later_save_is_what_is_loaded(self, store_with_images, first, second, kept):
        later = Conversation(first.messages[:kept] + second.messages, first.id, second.title)
        store_with_images.save("ann", first)
        store_with_images.save("ann", later)
        assert store_with_images.load("ann", first.id) == later

    def test_a_conversation_survives_closing_and_opening_the_database(self, url):
        conversation = conversation_of("Hello", "Hi", title="Greetings")
        with closing(Database(url)) as database:
            store = ConversationStore(database)
            ref = store.put_image(image("red"))
            conversation = conversation.add(Message("user", "And this?", ref, {"tiles": 4}))
            store.save("ann", conversation)
        with closing(Database(url)) as database:
            store = ConversationStore(database)
            assert store.load("ann", conversation.id) == conversation
            assert store.image_bytes(ref.digest) == image("red").data

    def test_an_unchanged_beginning_is_not_written_again(self, store):
        conversation = conversation_of("one", "two", "three")
        store.save("ann", conversation)
        before = self.rows(store)
        store.save("ann", conversation.cut(2).add(Message("user", "else")).add(Message("assistant", "four")))
        after = self.rows(store)
        assert after[:3] == before
        assert len(after) == 5

    def rows(self, store):
        with store.database.transaction() as connection:
            return connection.exec_driver_sql("SELECT rowid, position FROM messages ORDER BY position").all()

    def test_a_save_that_fails_changes_nothing(self, store):
        conversation = conversation_of("one", "two")
        store.save("ann", conversation)
        with pytest.raises(NotFound, match="not stored"):
            store.save("ann", conversation.cut(1).add(Message("user", "look", ImageRef("0" * 64, "a.png", 1, 1))))
        assert store.load("ann", conversation.id) == conversation

    def test_a_lone_surrogate_is_refused(self, store):
        with pytest.raises(BadRequest, match="surrogate"):
            store.save("ann", conversation_of("\ud800"))


# --- owners --------------------------------------------------------------------------------------------------------------


class TestOwnership:
    @pytest.fixture
    def anns(self, store):
        conversation = conversation_of("a secret", title="Ann's")
        store.save("ann", conversation)
        return conversation

    @pytest.mark.parametrize(
        "attempt",
        [
            lambda store, c: store.load("bob", c.id),
            lambda store, c: store.rename("bob", c.id, "mine"),
            lambda store, c: store.delete("bob", c.id),
            lambda store, c: store.save("bob", Conversation((), c.id, "mine")),
            lambda store, c: store.tree("bob", c.id),
            lambda store, c: store.select_version("bob", c.id, 0),
        ],
        ids=["load", "rename", "delete", "save", "tree", "choose"],
    )
    def test_another_owner_finds_nothing_and_changes_nothing(self, store, anns, attempt):
        with pytest.raises(NotFound) as refused:
            attempt(store, anns)
        with pytest.raises(NotFound) as unknown:
            store.load("bob", "0" * 32)
        assert str(refused.value) == str(unknown.value).replace("0" * 32, anns.id)
        assert store.load("ann", anns.id) == anns

    def test_a_list_shows_only_the_owners_conversations(self, store, anns):
        store.save("bob", conversation_of("something else"))
        assert [summary.id for summary in store.list("ann")] == [anns.id]
        assert store.list("eve") == []


# --- list and rename -----------------------------------------------------------------------------------------------------


class TestListing:
    def test_the_last_changed_conversation_comes_first(self, store):
        old, new = conversation_of("old"), conversation_of("new")
        store.save("ann", old)
        store.save("ann", new)
        assert [s.id for s in store.list("ann")] == [new.id, old.id]
        store.save("ann", old.add(Message("assistant", "changed")))
        assert [s.id for s in store.list("ann")] == [old.id, new.id]

    def test_saving_without_a_change_keeps_the_place_in_the_list(self, store):
        old, new = conversation_of("old"), conversation_of("new")
        for conversation in (old, new, old):
            store.save("ann", conversation)
        assert [s.id for s in store.list("ann")] == [new.id, old.id]

    def test_saving_only_another_title_keeps_the_place_in_the_list(self, store):
        old, new = conversation_of("old", title="before"), conversation_of("new")
        for conversation in (old, new, replace(old, title="after")):
            store.save("ann", conversation)
        assert [s.title for s in store.list("ann")] == ["", "after"]

    def test_a_summary_has_the_title_and_the_time(self, store):
        before = datetime.now(timezone.utc)
        store.save("ann", conversation_of("one", "two", "three", title="Counting"))
        (summary,) = store.list("ann")
        assert summary.title == "Counting"
        assert before <= summary.updated <= datetime.now(timezone.utc)

    def test_a_list_stops_at_its_limit(self, store):
        for i in range(5):
            store.save("ann", conversation_of(str(i)))
        assert len(store.list("ann", limit=3)) == 3

    def test_a_new_title_is_trimmed_and_keeps_place_and_messages(self, store):
        old, new = conversation_of("old", title="before"), conversation_of("new")
        store.save("ann", old)
        store.save("ann", new)
        store.rename("ann", old.id, "  after \n")
        assert store.load("ann", old.id) == Conversation(old.messages, old.id, "after")
        assert [s.title for s in store.list("ann")] == ["", "after"]

    @pytest.mark.parametrize("title", ["", "   ", "x" * (MAX_TITLE_LENGTH + 1)])
    def test_a_title_of_the_wrong_length_is_refused(self, store, title):
        conversation = conversation_of("hello", title="kept")
        store.save("ann", conversation)
        with pytest.raises(BadRequest, match=f"1 to {MAX_TITLE_LENGTH} characters"):
            store.rename("ann", conversation.id, title)
        assert store.load("ann", conversation.id).title == "kept"

    def test_the_longest_title_is_accepted(self, store):
        conversation = conversation_of("hello")
        store.save("ann", conversation)
        store.rename("ann", conversation.id, "x" * MAX_TITLE_LENGTH)
        assert store.load("ann", conversation.id).title == "x" * MAX_TITLE_LENGTH


# --- threads -------------------------------------------------------------------------------------------------------------


class TestThreads:
    def test_threads_may_save_and_load_at_the_same_time(self, store):
        start = threading.Barrier(8)

        def worker(number: int) -> Conversation:
            start.wait()
            conversation = Conversation(title=str(number))
            for turn in range(6):
                ref = store.put_image(image(COLORS[turn % 3]))
                conversation = conversation.add(Message("user", f"{number}.{turn}", ref))
                store.save(f"owner {number % 2}", conversation)
                assert store.load(f"owner {number % 2}", conversation.id) == conversation
            return conversation

        with ThreadPoolExecutor(8) as pool:
            saved = list(pool.map(worker, range(8)))
        for number, conversation in enumerate(saved):
            assert store.load(f"owner {number % 2}", conversation.id) == conversation
        assert len(store.list("owner 0")) == len(store.list("owner 1")) == 4

    def test_of_two_saves_of_one_conversation_one_wins_whole(self, store):
        first = conversation_of("question")
        store.save("ann", first)
        versions = [Conversation(tuple(Message("user", f"{n}.{i}") for i in range(5)), first.id) for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda version: store.save("ann", version), versions))
        assert store.load("ann", first.id) in versions


# --- erasing -------------------------------------------------------------------------------------------------------------


def test_an_owner_is_erased_at_once_with_images_that_nobody_else_shows(store):
    mine, shared, unsent, pending = (store.put_image(image(color)) for color in ("red", "green", "blue", "white"))
    first = store.save("kiosk-1", Conversation((Message("user", "a", mine), Message("user", "b", shared))))
    store.save("kiosk-1", Conversation((Message("user", "c"),)))
    store.delete("kiosk-1", first.id)  # what could be brought back goes too
    theirs = store.save("anna", Conversation((Message("user", "d", shared),))).conversation()
    assert store.owners("kiosk-") == {"kiosk-1"}
    assert store.erase("kiosk-1", {unsent.digest, shared.digest}) == {mine.digest, unsent.digest}
    assert store.owners("") == {"anna"}
    with pytest.raises(NotFound, match="gone for good"):
        store.restore("kiosk-1", first.id)
    for gone in (mine, unsent):
        with pytest.raises(NotFound):
            store.image_bytes(gone.digest)
    assert store.image_bytes(pending.digest), "another visitor is about to send it"
    assert store.load("anna", theirs.id) == theirs
    assert store.image_bytes(shared.digest)


def test_a_prefix_of_owners_is_no_pattern(store):
    for owner in ("kiosk-1", "kiosk_2", "kioskx"):
        store.save(owner, Conversation((Message("user", "a"),)))
    assert store.owners("kiosk_") == {"kiosk_2"}
