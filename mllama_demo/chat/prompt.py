"""Builds the prompt of a conversation: its turns and their token ids in Llama 3.2's chat format. Pure.

The format is Meta's (github.com/meta-llama/llama-models, llama3_2/vision_prompt_format.md): each turn is a header with the
role, two line breaks, the text and an end-of-turn token. `<|image|>` is at the start of the turn that has the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

from mllama_demo.chat.conversation import Conversation, Fitted, ImageRef, Message, fit
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.errors import BadRequest, PromptTooLong
from mllama_demo.runtime.json_input import half_surrogate

IMAGE_TOKEN = "<|image|>"
END_OF_TURN = "<|eot_id|>"
MINIMUM_ANSWER_TOKENS = 64  # a prompt leaves at least this much of the context to its answer, if max_tokens is not lower


@dataclass(frozen=True)
class Prompt:
    """What the model reads.

    Attributes:
        messages: see chat_turns.
        token_ids: empty when a server has the tokenizer.
        image: the image that `<|image|>` stands for.
        dropped: how many of the oldest messages did not fit.
        answered: how many of the last token_ids belong to the answer.
    """

    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]
    image: ImageRef | None
    dropped: int
    answered: int = 0


@dataclass(frozen=True)
class _Special:
    """A special token. It has a type of its own, so that a user's text can never become one."""

    name: str


def build_prompt(
    conversation: Conversation,
    tokenizer: Tokenizer | TokenEstimate,
    *,
    context_length: int,
    max_tokens: int,
    system_prompt: str = "",
    max_prompt: int | None = None,
    may_drop: bool = True,
    beginning: str = "",
) -> Prompt:
    """The prompt for the next answer, without the oldest turns when they do not fit.

    Args:
        tokenizer: the model's, or an estimate when a server has the tokenizer.
        context_length: tokens of the prompt and the answer together.
        max_tokens: of the answer.
        max_prompt: a lower limit on the tokens of the prompt, if any.
        may_drop: False to raise PromptTooLong instead of dropping turns.
        beginning: the text with which the answer begins already. The model goes on after it.
    Raises:
        PromptTooLong: the prompt does not fit even with all droppable turns dropped.
        BadRequest: there is no message, a text holds half a surrogate pair, or there is a beginning while a server has the
            tokenizer.
    """
    messages = conversation.messages
    if system_prompt and not (messages and messages[0].role == "system"):
        messages = (Message("system", system_prompt), *messages)
    if beginning and isinstance(tokenizer, TokenEstimate):
        raise BadRequest("This backend cannot go on with an answer.")
    begun = () if isinstance(tokenizer, TokenEstimate) else tuple(tokenizer.encode(beginning))
    if half_surrogate([message.text for message in messages]):
        raise BadRequest("The text holds half a character (a lone surrogate), which no model reads.")
    # The reserve is no more than max_tokens, and no more than a quarter of a short context.
    reserve = min(max_tokens, max(1, min(MINIMUM_ANSWER_TOKENS, context_length // 4)))
    budget = context_length - reserve
    longest = budget if max_prompt is None else min(budget, max_prompt)

    encode = None if isinstance(tokenizer, TokenEstimate) else cache(tokenizer.encode)  # each text once

    def token_ids_of(candidate: tuple[Message, ...]) -> tuple[int, ...]:
        return () if isinstance(tokenizer, TokenEstimate) else (*encode_chat(candidate, tokenizer, encode), *begun)

    def count(candidate: tuple[Message, ...]) -> int:
        return tokenizer.count(candidate) if isinstance(tokenizer, TokenEstimate) else len(token_ids_of(candidate))

    fitted: Fitted = fit(messages, longest, count) if may_drop else Fitted(messages, 0)
    length = count(fitted.messages)
    if length > longest:
        limit = (
            f"model's context has room for {budget} beside an answer" if longest == budget else f"model reads {longest} at most"
        )
        about = "about " if isinstance(tokenizer, TokenEstimate) else ""
        if beginning:
            raise PromptTooLong(f"The question and the answer so far need {length} tokens; the {limit}. The answer cannot go on.")
        raise PromptTooLong(f"This question needs {about}{length} tokens; the {limit}. Shorten the text.")
    turn = Conversation(fitted.messages).image_turn()
    image = None if turn is None else fitted.messages[turn].image
    return Prompt(chat_turns(fitted.messages), token_ids_of(fitted.messages), image, fitted.dropped, len(begun))


def chat_turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns as the model's chat template takes them.

    Only the image that the model sees is kept. With an image, the system text moves to the start of the first user turn,
    because the template refuses a system turn together with an image.
    """
    image_turn = Conversation(messages).image_turn()
    turns = [m if m.image is None or i == image_turn else replace(m, image=None) for i, m in enumerate(messages)]
    return tuple(turns if image_turn is None else _fold_system(turns))


def encode_chat(
    messages: tuple[Message, ...], tokenizer: Tokenizer, encode: Callable[[str], list[int]] | None = None
) -> list[int]:
    """Token ids of the conversation, up to and including the header of the assistant's next turn.

    encode: in the place of tokenizer.encode, to remember what was encoded before.
    """
    encode = encode or tokenizer.encode
    ids: list[int] = []
    for part in _chat_parts(messages):
        if isinstance(part, _Special):
            ids.append(tokenizer.special_id(part.name))
        else:
            ids.extend(encode(part))
    return ids


def answer_ends(tokenizer: Tokenizer, eos_token_ids: Iterable[int]) -> frozenset[int]:
    """The tokens that end an answer: those of the checkpoint, and the end of a turn in this format, which some leave out."""
    return frozenset(eos_token_ids) | {tokenizer.special_id(END_OF_TURN)}


def render_chat(messages: tuple[Message, ...]) -> str:
    """The same prompt as text."""
    return "".join(part.name if isinstance(part, _Special) else part for part in _chat_parts(messages))


def _chat_parts(messages: tuple[Message, ...]) -> Iterable[_Special | str]:
    yield _Special("<|begin_of_text|>")
    for message in chat_turns(messages):
        yield from _header(message.role)
        # Text between two special tokens must be one part: encoded in pieces, it would become other tokens.
        text = message.text.strip()
        if message.image is not None:
            yield "\n\n"
            yield _Special(IMAGE_TOKEN)
            if text:
                yield text
        else:
            yield "\n\n" + text
        yield _Special(END_OF_TURN)
    yield from _header("assistant")
    yield "\n\n"


def _header(role: str) -> Iterable[_Special | str]:
    yield _Special("<|start_header_id|>")
    yield role
    yield _Special("<|end_header_id|>")


def _fold_system(turns: list[Message]) -> list[Message]:
    system = "\n\n".join(m.text.strip() for m in turns if m.role == "system" and m.text.strip())
    turns = [m for m in turns if m.role != "system"]
    if not system:
        return turns
    at = next(position for position, m in enumerate(turns) if m.role == "user")
    turns[at] = replace(turns[at], text=f"{system}\n\n{turns[at].text.strip()}")
    return turns
