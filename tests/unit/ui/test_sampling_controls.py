# pyright: reportArgumentType=false
"""The sampling controls follow what the backend supports now; a control without effect shows the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BadRequest
from mllama_demo.generation.service import GenerationService
from mllama_demo.sampling import BOUNDS, SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_page import ChatPage
from mllama_demo.ui.sampling_controls import sampling_from
from tests.support.chat_setup import new_service
from tests.support.code_points import CodePoints
from tests.support.manual_backend import ManualBackend

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def backend() -> ManualBackend:
    return ManualBackend()


@pytest.fixture
def page(backend) -> Iterator[ChatPage]:
    store, settings = ConversationStore(Database("sqlite://")), Settings()
    answerer = GenerationService(backend, CodePoints(), store, settings)
    room = new_service(answerer, store)
    yield ChatPage(settings, room, Stores.of(store), load_brand(settings))
    room.close()
    store.database.close()


def test_every_control_is_enabled_where_the_backend_ignores_nothing(page):
    top_k, max_tokens, seed, ignore_eos = page.sampling_controls.adapt_to_backend(256)
    assert [knob["interactive"] for knob in (top_k, seed, ignore_eos)] == [True] * 3
    assert (top_k["info"], seed["info"]) == (BOUNDS["top_k"].hint, BOUNDS["seed"].hint)
    assert "value" not in max_tokens, "the visitor may have changed it since the page asked"


@pytest.mark.parametrize(("name", "place"), [("top_k", 0), ("seed", 2), ("ignore_eos", 3)])
def test_a_control_without_effect_is_disabled_and_shows_the_reason(page, backend, name, place):
    backend.info = replace(backend.info, ignored={name: "This server has none."})
    knobs: list[Any] = page.sampling_controls.adapt_to_backend(256)
    assert (knobs[place]["interactive"], knobs[place]["info"]) == (False, "This server has none.")
    assert [knobs[other]["interactive"] for other in {0, 2, 3} - {place}] == [True] * 2


def test_leaving_greedy_does_not_enable_a_control_without_effect(page, backend):
    backend.info = replace(backend.info, ignored={"top_k": "This server has none."})
    assert [knob["interactive"] for knob in page.sampling_controls.grey_out(False)] == [True, True, False]
    assert [knob["interactive"] for knob in page.sampling_controls.grey_out(True)] == [False, False, False]


def test_max_tokens_follows_a_server_with_a_shorter_context(page, backend):
    backend.info = replace(backend.info, context_length=128)
    _, max_tokens, *_ = page.sampling_controls.adapt_to_backend(256)
    assert (max_tokens["maximum"], max_tokens["value"]) == (128, 128)


VALUES = {"temperature": 0.6, "top_p": 0.9, "top_k": 0.0, "max_tokens": 256.0, "seed": " 7 "}


def test_the_values_of_the_controls_become_sampling_parameters():
    assert sampling_from(False, **VALUES) == SamplingParams(0.6, 0.9, 0, 256, 7)
    assert sampling_from(True, **{**VALUES, "seed": ""}) == SamplingParams(0.0, 0.9, 0, 256, None)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"temperature": 9}, "Temperature must be a number from 0 to 2, got 9."),
        ({"top_p": 0}, "Top-p must be a number from 0.01 to 1, got 0."),
        ({"top_k": 1.5}, "Top-k must be a whole number from 0 to 200, got 1.5."),
        ({"top_k": None}, "Top-k must be a whole number from 0 to 200, got None."),
        ({"max_tokens": 0}, "Max tokens must be a whole number from 1 to 4096, got 0."),
        ({"seed": "lucky"}, "Seed must be a whole number from 0 to 4294967295, got 'lucky'."),
        ({"seed": "4294967296"}, "Seed must be a whole number from 0 to 4294967295, got 4294967296."),
        ({"seed": "9" * 5000}, "Seed must be a whole number from 0 to 4294967295, got '9999"),
    ],
)
def test_a_wrong_value_is_called_by_the_label_of_its_control(wrong, sentence):
    with pytest.raises(BadRequest) as refused:
        sampling_from(False, **{**VALUES, **wrong})
    assert str(refused.value).startswith(sentence)
