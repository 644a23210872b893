"""An answer that was cut off goes on where it ended, on NxDI's real code: sampled on the host, and on the device."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.config.neuron import OnDeviceSampling
from mllama_demo.generation.service import Answer, GenerationService
from mllama_demo.sampling import SamplingParams
from tests.contract.engine.nxdi.cases import Case, ask, assert_as_meta, finish, picture, running_backend, start

CUT = 7  # tokens of an answer before it is cut off


class NoImages:
    """An ImageSource for conversations without images."""

    def image_bytes(self, digest: str) -> bytes:
        raise AssertionError(digest)


def continued(case: Case) -> Case:
    """The case from its token CUT on, as a request of its own."""
    request = case.request
    request = replace(request, prompt_ids=(*request.prompt_ids, *case.tokens[:CUT]), answered=CUT, id=f"{request.id}-continued")
    return Case(request, case.count - CUT)


async def answer(service: GenerationService, tokens: int, beginning: str = "") -> Answer:
    """The greedy answer to one question. tokens: its max_tokens, beside those of the beginning."""
    story = Conversation((Message("user", "Tell me a story."),))
    sampling = SamplingParams(temperature=0.0, max_tokens=tokens)
    async with aclosing(service.answer(story, sampling, f"request-{tokens}{beginning}", beginning=beginning)) as answers:
        [*_, last] = [state async for state in answers]
    assert last.finish is not None
    assert last.finish.error is None
    return last


@pytest.mark.parametrize("with_image", [False, True], ids=["text", "image"])
def test_a_continued_answer_has_the_tokens_of_one_that_was_not_cut_off(tokenizer, reference, runner, with_image):
    """In another slot than before, beside a neighbour."""
    tile = reference.eyes["image_size"]
    whole = Case(ask(tokenizer, "Tell me a story.", image=picture(2 * tile, tile, 90) if with_image else None), 20)
    start(runner, 0, whole)
    finish(runner, {0: whole})
    runner.release(0)
    rest, neighbour = continued(whole), Case(ask(tokenizer, "What is it?", image=picture(tile, tile, 91)), 13)
    start(runner, 0, neighbour)
    start(runner, 3, rest)
    finish(runner, {0: neighbour, 3: rest})
    assert rest.tokens == whole.tokens[CUT:]
    for case in (whole, rest, neighbour):
        assert_as_meta(reference, case)


def test_a_continued_draw_takes_the_next_random_numbers_of_its_seed(tokenizer, runner):
    whole = Case(replace(ask(tokenizer, "Tell me a story."), sampling=SamplingParams(temperature=1.2, top_p=0.95, seed=5)), 20)
    start(runner, 0, whole)
    finish(runner, {0: whole})
    rest = continued(whole)
    start(runner, 1, rest)
    finish(runner, {1: rest})
    assert rest.tokens == whole.tokens[CUT:]


@pytest.mark.parametrize("sampling", [None, OnDeviceSampling()], ids=["host", "device"])
async def test_the_chat_continues_an_answer_that_stopped_at_max_tokens(settings, sampling):
    settings = settings.model_copy(update={"on_device_sampling_config": sampling})
    async with running_backend(settings) as (backend, tokenizer):
        service = GenerationService(backend, tokenizer, NoImages(), settings)
        assert service.can_continue
        whole, cut = await answer(service, 24), await answer(service, CUT)
        assert cut.finish is not None
        assert cut.finish.reason == "max_tokens"
        assert whole.text.startswith(cut.text)
        rest = await answer(service, 24 - CUT, cut.text)
        assert len(rest.text) > len(cut.text)
        assert rest.text == whole.text
