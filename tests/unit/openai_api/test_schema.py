"""The body of a chat-completions request: accepted, ignored and refused fields, and the error messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mllama_demo.openai_api.schema import MAX_CHOICES, MAX_MESSAGES, MAX_TOP_LOGPROBS, NEUTRAL, ChatRequest
from mllama_demo.web.errors import ApiError
from tests.support.paths import ROOT

HELLO = {"role": "user", "content": "Hello?"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def parse(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [HELLO], **fields})


def error_of(body: Any) -> ApiError:
    """As FastAPI reports what pydantic finds."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(body)
    return ApiError.from_validation([{**problem, "loc": ("body", *problem["loc"])} for problem in caught.value.errors()])


# --- taken ---------------------------------------------------------------------------------------------------------------


def test_content_is_a_string_or_parts_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "One"}, IMAGE, {"type": "text", "text": "two"}]
    plain, mixed = parse(messages=[HELLO, {"role": "user", "content": parts}]).messages
    assert (plain.text, plain.images) == ("Hello?", [])
    assert (mixed.text, mixed.images) == ("One\ntwo", ["https://example.com/a.png"])


def test_an_image_may_have_a_detail_or_be_a_plain_url() -> None:
    for image_url in ({"url": "data:x", "detail": "high"}, "data:x"):
        (message,) = parse(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": image_url}]}]).messages
        assert message.images == ["data:x"]


def test_an_assistant_message_may_have_no_content() -> None:
    assert parse(messages=[HELLO, {"role": "assistant", "content": None}]).messages[1].text == ""


def test_a_single_stop_string_is_accepted() -> None:
    assert parse(stop="###").stop_strings == parse(stop=["###"]).stop_strings == ("###",)
    assert parse().stop_strings == parse(stop=None).stop_strings == parse(stop=[]).stop_strings == ()


def test_null_in_any_field_counts_as_missing() -> None:
    fields = set(ChatRequest.model_fields) - {"messages"} | set(NEUTRAL)
    nothing = parse(**dict.fromkeys(fields))
    assert nothing.model_dump(include=set(ChatRequest.model_fields)) == parse().model_dump()


def test_unknown_fields_without_effect_are_ignored() -> None:
    ignored = {"user": "me", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True, "x": [1]}
    assert parse(**ignored).messages == parse().messages


# --- refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEUTRAL)
def test_an_unsupported_field_is_refused_unless_its_value_has_no_effect(name: str) -> None:
    for value in (None, *NEUTRAL[name]):
        parse(**{name: value})
    error = error_of({"messages": [HELLO], name: "something"})
    assert (error.status, error.param, error.code) == (400, name, "unsupported")
    assert all(json.dumps(value) in error.message for value in NEUTRAL[name])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"logit_bias": {"5": -100}}, "logit_bias"),
        ({"min_p": 0.05}, "min_p"),
        ({"min_tokens": True}, "min_tokens"),
    ],
)
def test_unsupported_fields_of_real_clients_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert error_of({"messages": [HELLO], **fields}).param == param


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "messages", "is missing"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [HELLO] * (MAX_MESSAGES + 1)}, "messages", f"at most {MAX_MESSAGES}"),
        ({"messages": "Hello?"}, "messages", "a list is allowed, got 'Hello?'"),
        ({"messages": ["Hello?"]}, "messages[0]", "an object is allowed, got 'Hello?'"),
        ({"messages": [HELLO, {"role": "tool", "content": "x"}]}, "messages[1].role", "'user' or 'assistant', got 'tool'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "a text or a list of parts"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a string is allowed, got 5"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0]", "needs its type"),
        (
            {"messages": [{"role": "user", "content": [IMAGE, {"type": "input_audio"}]}]},
            "messages[0].content[1]",
            "text or image_url is allowed, got an object of the type 'input_audio'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
            "messages[0].content[0].text",
            "a string is allowed, got null",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].image_url.url",
            "is missing",
        ),
        ({"messages": [{"role": "user", "content": [IMAGE, IMAGE]}]}, "messages[0].content", "at most 1 image"),
        ({"messages": [{"role": "system", "content": [IMAGE]}]}, "messages[0].content", "user messages only"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0]", "no tools"),
        ({"messages": [HELLO], "temperature": "0.5"}, "temperature", "a number is allowed, got '0.5'"),
        ({"messages": [HELLO], "temperature": True}, "temperature", "a number is allowed, got true"),
        ({"messages": [HELLO], "temperature": 10**400}, "temperature", "a number is allowed"),
        ({"messages": [HELLO], "max_tokens": 5.5}, "max_tokens", "a whole number is allowed, got 5.5"),
        ({"messages": [HELLO], "stream": "yes"}, "stream", "true or false is allowed, got 'yes'"),
        ({"messages": [HELLO], "n": 0}, "n", "greater than or equal to 1"),
        ({"messages": [HELLO], "n": MAX_CHOICES + 1}, "n", f"{MAX_CHOICES}"),
        ({"messages": [HELLO], "seed": 2**63}, "seed", "less than"),
        ({"messages": [HELLO], "stop": ["a", 1]}, "stop", "a string or a list of strings"),
        ({"messages": [HELLO], "top_logprobs": 3}, "top_logprobs", "together with logprobs"),
        ({"messages": [HELLO], "logprobs": True, "top_logprobs": MAX_TOP_LOGPROBS + 1}, "top_logprobs", "20"),
        ({"messages": [HELLO], "stream_options": {"include_usage": True}}, "stream_options", "together with stream"),
    ],
)
def test_an_invalid_field_is_reported_with_its_path_and_what_is_allowed(body: Any, param: str, words: str) -> None:
    error = error_of(body)
    assert (error.status, error.param) == (400, param)
    assert words in error.message
    assert "pydantic" not in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a\udfff"}]}]},
        {"messages": [HELLO], "stop": ["a", "\ud800"]},
        {"messages": [HELLO], "model": "\ud800"},
        {"messages": [{"role": "user", "content": [{"type": "\ud800"}]}]},
        {"messages": [HELLO], "temperature": "\ud800"},
    ],
)
def test_half_a_surrogate_pair_is_refused_with_an_encodable_message(fields: dict[str, Any]) -> None:
    assert error_of(fields).response().status_code == 400


def test_a_long_value_is_shortened_in_the_error() -> None:
    error = error_of({"messages": [HELLO], "temperature": "x" * 10**6})
    assert len(error.message) < 300


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "url", "role", "x"]), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(ChatRequest.model_fields, _anything)))
def test_any_body_is_accepted_or_refused_with_status_400(body: dict[str, Any]) -> None:
    try:
        ChatRequest.model_validate(body)
    except ValidationError as error:
        found = ApiError.from_validation([{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()])
        assert found.response().status_code == 400
        assert found.param


def test_the_documentation_names_every_accepted_or_refused_field() -> None:
    text = (ROOT / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
    assert [name for name in (*ChatRequest.model_fields, *NEUTRAL) if f"`{name}" not in text and f".{name}`" not in text] == []
