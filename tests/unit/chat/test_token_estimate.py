"""Counting without a tokenizer: close enough to the real one to plan with, and closer after each answer."""

from __future__ import annotations

import pytest

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.prompt import build_prompt, encode_chat
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.errors import BadRequest, PromptTooLong

ENGLISH = "The quick brown fox jumps over the lazy dog, and nobody in the village has ever seen such a thing before. "
CHINESE = "敏捷的棕色狐狸跳过了那只懒惰的狗，村子里的人从来没有见过这样的事情。"


def conversation_of(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if index % 2 else "user", text) for index, text in enumerate(texts))


def test_the_first_estimate_for_english_is_high_but_below_twice_the_count(tokenizer):
    messages = conversation_of(ENGLISH * 5, ENGLISH, ENGLISH * 3)
    true = len(encode_chat(messages, tokenizer))
    assert true * 0.5 < TokenEstimate().count(messages) < true * 2


def test_the_estimate_rises_at_once_and_falls_slowly():
    estimate, messages = TokenEstimate(), conversation_of(CHINESE * 5)
    first = estimate.count(messages)
    estimate.learn(messages, 2 * first)
    assert estimate.count(messages) >= 2 * first, "too low a guess loses an answer"
    high = estimate.count(messages)
    estimate.learn(messages, first)
    assert first < estimate.count(messages) < high
    for _ in range(50):
        estimate.learn(messages, first)
    assert estimate.count(messages) == pytest.approx(first, abs=40)


def test_short_texts_and_images_do_not_change_the_estimate():
    estimate, picture = TokenEstimate(), ImageRef("digest", "a.png", 8, 8)
    messages = conversation_of(ENGLISH * 5)
    before = estimate.count(messages)
    estimate.learn(conversation_of("Hi"), 4000)
    estimate.learn((Message("user", ENGLISH * 5, picture),), 9000)
    assert estimate.count(messages) == before


def test_half_a_surrogate_pair_is_refused_with_and_without_a_tokenizer(tokenizer):
    for counter in (tokenizer, TokenEstimate()):
        with pytest.raises(BadRequest, match="half a character"):
            build_prompt(Conversation(conversation_of("x\ud800")), counter, context_length=300, max_tokens=64)


def test_a_prompt_is_cut_by_the_estimate_and_has_messages_alone():
    messages = conversation_of(*[ENGLISH] * 9)
    prompt = build_prompt(Conversation(messages), TokenEstimate(), context_length=300, max_tokens=64)
    assert prompt.token_ids == ()
    assert 0 < prompt.dropped < 9
    assert prompt.messages == messages[prompt.dropped :]
    with pytest.raises(PromptTooLong, match="needs about"):
        build_prompt(Conversation(conversation_of(ENGLISH * 20)), TokenEstimate(), context_length=300, max_tokens=64)


def test_the_turns_for_a_server_hold_one_image_and_no_system_turn_beside_it():
    """Its template refuses both."""
    old, new = ImageRef("1", "old.png", 8, 8), ImageRef("2", "new.png", 8, 8)
    messages = (Message("user", "First", old), Message("assistant", "Yes."), Message("user", "Second", new))
    prompt = build_prompt(Conversation(messages), TokenEstimate(), context_length=300, max_tokens=64, system_prompt="Be brief.")
    assert [(m.role, m.text, m.image) for m in prompt.messages] == [
        ("user", "Be brief.\n\nFirst", None),
        ("assistant", "Yes.", None),
        ("user", "Second", new),
    ]
    alone = build_prompt(
        Conversation(conversation_of("Hi")), TokenEstimate(), context_length=300, max_tokens=64, system_prompt="Be brief."
    )
    assert [m.role for m in alone.messages] == ["system", "user"]
