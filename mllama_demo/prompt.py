"""Conversation to prompt token ids, in Llama 3.2's chat format. Pure: a tokenizer and values in, values out.

The format is Meta's (github.com/meta-llama/llama-models, llama3_2/vision_prompt_format.md): each turn is a header with the
role, two line breaks, the text and an end-of-turn token; `<|image|>` stands at the start of the turn the image came with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mllama_demo.conversation import Conversation, Fitted, ImageRef, Message, fit
from mllama_demo.errors import PromptTooLong
from mllama_demo.tokenizer import Tokenizer

IMAGE_TOKEN = "<|image|>"
# Room that a prompt must leave for its answer, when the answer may be longer than that.
MINIMUM_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Prompt:
    """What the model reads. image: what `<|image|>` stands for. dropped: oldest messages that did not fit."""

    token_ids: tuple[int, ...]
    image: ImageRef | None
    dropped: int


@dataclass(frozen=True)
class _Special:
    """A special token, told apart from text by its type so that user text can never become one."""

    name: str


def build_prompt(
    conversation: Conversation,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    max_tokens: int,
    system_prompt: str = "",
    max_prompt: int | None = None,
    may_drop: bool = True,
) -> Prompt:
    """The prompt for the next answer. Drops the oldest text turns that do not fit beside the answer, or into max_prompt tokens.

    may_drop: False to refuse instead. Raises PromptTooLong, naming both sizes, when even the last question and the image turn
    do not fit.
    """
    messages = conversation.messages
    if system_prompt and not (messages and messages[0].role == "system"):
        messages = (Message("system", system_prompt), *messages)
    # An answer never needs more than it may have, and a short context still leaves three quarters to the prompt.
    reserve = min(max_tokens, max(1, min(MINIMUM_ANSWER_TOKENS, context_length // 4)))
    budget = context_length - reserve
    longest = budget if max_prompt is None else min(budget, max_prompt)

    def count(candidate: tuple[Message, ...]) -> int:
        return len(encode_chat(candidate, tokenizer))

    fitted: Fitted = fit(messages, longest, count) if may_drop else Fitted(messages, 0)
    token_ids = encode_chat(fitted.messages, tokenizer)
    if len(token_ids) > longest:
        limit = (
            f"model's context has room for {budget} beside an answer" if longest == budget else f"model reads {longest} at most"
        )
        raise PromptTooLong(f"This question needs {len(token_ids)} tokens; the {limit}. Shorten the text.")
    turn = Conversation(fitted.messages).image_turn()
    return Prompt(tuple(token_ids), None if turn is None else fitted.messages[turn].image, fitted.dropped)


def encode_chat(messages: tuple[Message, ...], tokenizer: Tokenizer) -> list[int]:
    """Token ids of the conversation, ready for the assistant's next turn."""
    ids: list[int] = []
    for part in _chat_parts(messages):
        if isinstance(part, _Special):
            ids.append(tokenizer.special_id(part.name))
        else:
            ids.extend(tokenizer.encode(part))
    return ids


def render_chat(messages: tuple[Message, ...]) -> str:
    """The same prompt as text, for people to read."""
    return "".join(part.name if isinstance(part, _Special) else part for part in _chat_parts(messages))


def _chat_parts(messages: tuple[Message, ...]) -> Iterable[_Special | str]:
    image_turn = Conversation(messages).image_turn()
    turns = list(enumerate(messages))
    if image_turn is not None:
        turns = _fold_system(turns)
    yield _Special("<|begin_of_text|>")
    for index, message in turns:
        yield from _header(message.role)
        # Runs of text between special tokens are encoded in one piece: a split inside would give other tokens.
        text = message.text.strip()
        if index == image_turn:
            yield "\n\n"
            yield _Special(IMAGE_TOKEN)
            if text:
                yield text
        else:
            yield "\n\n" + text
        yield _Special("<|eot_id|>")
    yield from _header("assistant")
    yield "\n\n"


def _header(role: str) -> Iterable[_Special | str]:
    yield _Special("<|start_header_id|>")
    yield role
    yield _Special("<|end_header_id|>")


def _fold_system(turns: list[tuple[int, Message]]) -> list[tuple[int, Message]]:
    """Puts system text at the head of the first user turn: the model's own template refuses a system turn with an image."""
    system = "\n\n".join(m.text.strip() for _, m in turns if m.role == "system" and m.text.strip())
    turns = [(i, m) for i, m in turns if m.role != "system"]
    if not system:
        return turns
    at = next(position for position, (_, m) in enumerate(turns) if m.role == "user")
    index, message = turns[at]
    turns[at] = (index, replace(message, text=f"{system}\n\n{message.text.strip()}"))
    return turns
