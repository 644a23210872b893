"""LogprobStream: log probabilities come with the text they belong to, without the tokens of a stop string."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mllama_demo.chat.tokenizer import IncrementalText, Tokenizer
from mllama_demo.engine.base import FinishEvent, TokenEvent, TokenLogprobs
from mllama_demo.engine.token_sampler import TokenTrace
from mllama_demo.openai_api.logprobs import LogprobStream, RemoteLogprobStream
from mllama_demo.openai_api.response_schema import TokenLogprob
from tests.support.manual_backend import finished


def trace(token_id: int, others: tuple[int, ...] = ()) -> TokenTrace:
    """A token of probability 1/2, and others after it of 1/4, 1/8, …"""
    ids = (token_id, *others)
    logits = tuple(-math.log(2) * (rank + 1) for rank in range(len(ids)))
    return TokenTrace(ids, logits, 0.0, token_id, logits[0], 0.5, len(ids), len(ids))


def stream(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = (), ended: bool = False, top: int = 0):
    """What is sent step by step, as the scheduler makes it of these tokens: texts and entries."""
    text, logprobs = IncrementalText(tokenizer, stop), LogprobStream(tokenizer, top)
    steps: list[tuple[str, list[TokenLogprob]]] = []
    for index, id in enumerate(ids):
        event = TokenEvent(index, id, text.push(id), trace(id, (ids[0], ids[0])))
        steps.append((event.text, logprobs.push(event)))
        if text.stopped:
            steps.append(("", logprobs.finish(replace(finished("stop_string"), stop_string=text.stopped))))
            return steps
    end = FinishEvent("max_tokens", text.finish(), 5, len(ids), finished().timings)
    if ended:
        id = tokenizer.special_id("<|eot_id|>")
        steps.append(("", logprobs.push(TokenEvent(len(ids), id, "", trace(id)))))
        end = replace(end, reason="end_of_turn")
    steps.append((end.text, logprobs.finish(end)))
    return steps


def bytes_of(steps: list[tuple[str, list[TokenLogprob]]]) -> bytes:
    return b"".join(bytes(entry.bytes or ()) for _, entries in steps for entry in entries)


@pytest.mark.parametrize("text", ["One, two.", "naïve 日本語 🎉🎉", "a\n\nb"])
@pytest.mark.parametrize("ended", [False, True])
def test_the_bytes_of_all_tokens_are_the_answer(tokenizer: Tokenizer, text: str, ended: bool) -> None:
    steps = stream(tokenizer, tokenizer.encode(text), ended=ended)
    assert "".join(part for part, _ in steps) == text
    assert bytes_of(steps).decode() == text


def test_the_tokens_of_one_character_come_together(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🎉")
    assert len(ids) > 1, "the test needs a character that is cut"
    steps = stream(tokenizer, ids)
    assert [len(entries) for _, entries in steps[: len(ids) - 1]] == [0] * (len(ids) - 1)
    assert next(entry.token for _, entries in steps for entry in entries) == "�"


def test_a_token_is_held_back_with_the_beginning_of_a_stop_string(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("Say"), *tokenizer.encode(" #"), *tokenizer.encode("#"), *tokenizer.encode(" on")]
    for text, entries in stream(tokenizer, ids, stop=("###",)):
        assert "".join(entry.token for entry in entries).startswith(text[:1])
    assert bytes_of(stream(tokenizer, ids, stop=("###",))) == b"Say ## on"


def test_no_token_of_a_stop_string_is_sent(tokenizer: Tokenizer) -> None:
    ids = [id for piece in ("One", " two", "#", "#", "#", " three") for id in tokenizer.encode(piece)]
    steps = stream(tokenizer, ids, stop=("###",))
    assert "".join(text for text, _ in steps) == "One two"
    assert bytes_of(steps) == b"One two"


def test_a_token_that_is_partly_a_stop_string_is_sent(tokenizer: Tokenizer) -> None:
    ids = [id for piece in ("One", " two") for id in tokenizer.encode(piece)]
    steps = stream(tokenizer, ids, stop=("wo",))
    assert "".join(text for text, _ in steps) == "One t"
    assert bytes_of(steps).startswith(b"One t")


def test_the_token_that_ends_the_turn_is_not_sent(tokenizer: Tokenizer) -> None:
    tokens = [entry.token for _, entries in stream(tokenizer, tokenizer.encode("Yes"), ended=True) for entry in entries]
    assert "".join(tokens) == "Yes"


def test_top_logprobs_have_logprobs_and_token_names(tokenizer: Tokenizer) -> None:
    yes, end = tokenizer.encode("Yes")[0], tokenizer.special_id("<|eot_id|>")
    logprobs = LogprobStream(tokenizer, 2)
    text = tokenizer.decode([yes])
    (entry,) = logprobs.push(TokenEvent(0, yes, text, trace(yes, (end, end))))
    assert entry.logprob == pytest.approx(math.log(1 / 2))
    assert [(top.token, top.bytes) for top in entry.top_logprobs] == [(text, list(text.encode())), ("<|eot_id|>", None)]
    assert entry.top_logprobs[1].logprob == pytest.approx(math.log(1 / 4))


def test_a_chosen_token_outside_the_recorded_candidates_has_its_logprob(tokenizer: Tokenizer) -> None:
    yes = tokenizer.encode("Yes")[0]
    rare = replace(trace(yes), token_ids=(7, 8), logits=(-0.1, -0.2), chosen_logit=-12.5)
    (entry,) = LogprobStream(tokenizer, 2).push(TokenEvent(0, yes, tokenizer.decode([yes]), rare))
    assert entry.logprob == -12.5


def test_what_a_remote_server_tells_is_passed_on_with_as_many_alternatives_as_are_asked_for() -> None:
    likeliest = (("Rome", -0.1), ("Pa", -2.5), ("\ufffd", -4.0))
    stream = RemoteLogprobStream(top=2)
    event = TokenEvent(0, -1, "Rome\ufffd", logprobs=(TokenLogprobs("Rome", -0.1, likeliest), TokenLogprobs("\ufffd", -1.0)))
    rome, part = stream.push(event)
    assert (rome.token, rome.logprob, rome.bytes) == ("Rome", -0.1, list(b"Rome"))
    assert [(one.token, one.logprob) for one in rome.top_logprobs] == [("Rome", -0.1), ("Pa", -2.5)]
    assert part.bytes is None, "nobody knows the bytes of a part of a character"
    assert stream.finish(finished()) == []
