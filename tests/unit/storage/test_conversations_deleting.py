"""Images, deleted conversations, versions and search: nothing is lost too early, and nothing is left behind."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import pytest

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage.conversations import DELETED_LIFETIME, UNUSED_IMAGE_LIFETIME, ConversationStore
from mllama_demo.storage.database import Database
from tests.support.stored_conversations import conversation_of, image

# --- images and deletion -------------------------------------------------------------------------------------------------


class TestImages:
    def with_image(self, store, owner, color):
        conversation = Conversation((Message("user", "What is it?", store.put_image(image(color))),))
        store.save(owner, conversation)
        return conversation

    def test_an_image_put_twice_is_stored_once_under_both_names(self, store):
        first, second = store.put_image(image("red", "a.png")), store.put_image(image("red", "b.png"))
        assert first == ImageRef(image("red").digest, "a.png", 6, 4)
        assert second == ImageRef(image("red").digest, "b.png", 6, 4)
        assert store.image_bytes(first.digest) == image("red").data

    def test_an_unknown_image_is_not_found(self, store):
        with pytest.raises(NotFound):
            store.image_bytes("0" * 64)

    def test_purging_a_conversation_removes_its_messages_and_images(self, store, later):
        conversation = self.with_image(store, "ann", "red")
        store.delete("ann", conversation.id)
        later(DELETED_LIFETIME)
        store.purge()
        with pytest.raises(NotFound):
            store.image_bytes(image("red").digest)
        store.save("bob", Conversation((Message("user", "My own"),), conversation.id))
        assert [m.text for m in store.load("bob", conversation.id).messages] == ["My own"], "nothing of it is left"

    def test_an_image_that_another_conversation_shows_stays(self, store, later):
        mine, theirs = self.with_image(store, "ann", "red"), self.with_image(store, "bob", "red")
        store.delete("ann", mine.id)
        later(DELETED_LIFETIME)
        store.purge()
        assert store.image_bytes(image("red").digest) == image("red").data
        store.delete("bob", theirs.id)
        later(DELETED_LIFETIME)
        store.purge()
        with pytest.raises(NotFound):
            store.image_bytes(image("red").digest)

    def test_an_image_of_another_version_stays(self, store, later):
        conversation = self.with_image(store, "ann", "red")
        store.save("ann", conversation.cut(0).add(Message("user", "Something else")))
        later(2 * UNUSED_IMAGE_LIFETIME)
        store.purge()
        assert store.image_bytes(image("red").digest)

    def test_a_new_image_that_is_not_sent_yet_stays(self, store):
        waiting = store.put_image(image("blue"))
        store.purge()
        assert store.image_bytes(waiting.digest)

    def test_an_image_that_was_never_sent_is_removed_in_time(self, store, later):
        forgotten = store.put_image(image("blue"))
        later(UNUSED_IMAGE_LIFETIME + timedelta(seconds=1))
        store.purge()
        with pytest.raises(NotFound):
            store.image_bytes(forgotten.digest)


# --- deleting and bringing back ------------------------------------------------------------------------------------------


class TestDeleting:
    @pytest.fixture
    def deleted(self, store):
        conversation = conversation_of("one", "two", title="Counting")
        store.save("ann", conversation)
        store.delete("ann", conversation.id)
        return conversation

    def test_a_deleted_conversation_is_hidden_from_every_method(self, store, deleted):
        assert store.list("ann") == store.list("ann", search="one") == []
        for attempt in (
            lambda: store.load("ann", deleted.id),
            lambda: store.save("ann", deleted),
            lambda: store.rename("ann", deleted.id, "x"),
            lambda: store.select_version("ann", deleted.id, 0),
            lambda: store.delete("ann", deleted.id),
        ):
            with pytest.raises(NotFound):
                attempt()

    def test_a_deleted_conversation_can_be_restored_unchanged(self, store, deleted):
        store.purge()
        store.restore("ann", deleted.id)
        assert store.load("ann", deleted.id) == deleted
        assert [summary.title for summary in store.list("ann")] == ["Counting"]

    def test_another_owner_cannot_restore_a_conversation(self, store, deleted):
        with pytest.raises(NotFound, match="gone for good"):
            store.restore("bob", deleted.id)

    def test_after_ten_minutes_a_deleted_conversation_is_removed(self, store, deleted, later):
        later(DELETED_LIFETIME)
        store.purge()
        with pytest.raises(NotFound, match="gone for good"):
            store.restore("ann", deleted.id)

    def test_opening_the_store_purges_deleted_conversations(self, url, later):
        conversation = conversation_of("a secret that was deleted")
        with closing(Database(url)) as database:
            store = ConversationStore(database)
            store.save("ann", conversation)
            store.delete("ann", conversation.id)
        later(DELETED_LIFETIME)
        with closing(Database(url)) as database, pytest.raises(NotFound):
            ConversationStore(database).restore("ann", conversation.id)


# --- versions ------------------------------------------------------------------------------------------------------------


class TestVersions:
    def test_a_version_that_an_edit_replaced_can_be_selected(self, store):
        first = conversation_of("one", "two", "three", "four")
        second = first.cut(2).add(Message("user", "other")).add(Message("assistant", "answer"))
        store.save("ann", first)
        store.save("ann", second)
        [_, _, question, _] = store.tree("ann", first.id).siblings(second.messages)
        assert question.index == 1
        assert store.select_version("ann", first.id, question.numbers[0]).conversation() == first == store.load("ann", first.id)
        store.select_version("ann", first.id, question.numbers[1])
        assert store.load("ann", first.id) == second

    def test_selecting_a_version_keeps_the_place_in_the_list(self, store):
        old, new = conversation_of("one", "two"), conversation_of("new")
        store.save("ann", old)
        store.save("ann", new)
        store.select_version("ann", old.id, 0)
        assert [summary.id for summary in store.list("ann")] == [new.id, old.id]

    def test_an_unknown_version_is_not_found(self, store):
        conversation = conversation_of("one")
        store.save("ann", conversation)
        with pytest.raises(NotFound, match="no version 7"):
            store.select_version("ann", conversation.id, 7)

    def test_a_tree_is_stored_with_all_its_versions(self, store):
        tree = (
            MessageTree(title="Both")
            .with_messages(conversation_of("one", "two").messages)
            .with_messages(conversation_of("one", "other").messages)
        )
        store.add_tree("ann", tree)
        assert store.tree("ann", tree.id) == tree


# --- search --------------------------------------------------------------------------------------------------------------


class TestSearch:
    @pytest.fixture
    def found(self, store):
        store.save("ann", conversation_of("What is a fjord?", "A long, narrow inlet: 100% sea_water", title="Norway"))
        store.save("ann", conversation_of("ÆRLIG talt, hva er klokka?", "Tolv.", title="Klokka"))
        store.save("bob", conversation_of("What is a fjord?", title="Norway"))
        return lambda words: [summary.title for summary in store.list("ann", search=words)]

    @pytest.mark.parametrize(
        ("words", "titles"),
        [
            ("", ["Klokka", "Norway"]),
            ("fjord", ["Norway"]),
            ("FJORD norw", ["Norway"]),
            ("ærlig", ["Klokka"]),
            ("klokka", ["Klokka"]),
            ("fjord tolv", []),
            ("100%", ["Norway"]),
            ("1%0", []),
            ("sea_w", ["Norway"]),
            ("sea.w", []),
            ("' OR 1=1 --", []),
        ],
    )
    def test_a_search_finds_words_in_titles_and_texts_of_the_owner(self, found, words, titles):
        assert found(words) == titles

    def test_other_versions_are_searched_too(self, store):
        conversation = conversation_of("before the edit", title="Edited")
        store.save("ann", conversation)
        store.save("ann", conversation.cut(0).add(Message("user", "after it")))
        assert [summary.title for summary in store.list("ann", search="before")] == ["Edited"]

    def test_a_search_that_is_too_long_is_refused(self, store):
        with pytest.raises(BadRequest, match="at most 200 characters, this one has 201"):
            store.list("ann", search="x" * 201)
