"""The body of a chat-completions request: accepted, ignored and refused fields, and the error messages."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from pydantic import ValidationError

from mllama_demo.openai_api.schema import MAX_CHOICES, MAX_MESSAGES, MAX_TOP_LOGPROBS, ChatRequest
from mllama_demo.openai_api.unknown_fields import HARMLESS, NEUTRAL
from mllama_demo.web.errors import ApiError
from tests.support.paths import ROOT

HELLO = {"role": "user", "content": "Hello?"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
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


def test_fields_without_effect_are_ignored_and_named() -> None:
    ignored = {
        "user": "me",
        "store": True,
        "metadata": {"image": "b"},
        "prediction": {"type": "content", "content": "a"},
        "x": [1],
    }
    about_content = {"prompt_cache_key": "k", "query_id": "1", "image_detail": "high", "system_fingerprint": "fp"}
    found = parse(**ignored, **about_content, top_k=5, presence_penalty=0, seed=None, service_tier=None)
    assert found.messages == parse().messages
    assert found.ignored == [*ignored, *about_content]
    assert parse(tools=[TOOL], response_format={"type": "json_object"}, user="a").ignored == ["tools", "response_format", "user"]
    assert parse(tools=[TOOL], tool_choice="none", response_format={"type": "text"}).ignored == []


def test_every_field_of_the_openai_package_is_read_refused_or_known_to_be_harmless() -> None:
    """A new version of the package brings new fields. Somebody must decide about each: ignoring it may change the answer."""
    known = {*ChatRequest.model_fields, *NEUTRAL, *HARMLESS}
    of_openai = set(get_type_hints(CompletionCreateParamsStreaming))
    assert len(of_openai) > 30
    assert of_openai <= known
    assert not HARMLESS & {*ChatRequest.model_fields, *NEUTRAL}
    assert sorted(parse(**dict.fromkeys(HARMLESS, "a prompt")).ignored) == sorted(HARMLESS)


@pytest.mark.parametrize(
    ("fields", "uncalled"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools"),
        ({"tools": [TOOL], "tool_choice": "none"}, None),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": []}, None),
        ({"tools": None, "tool_choice": None}, None),
        ({}, None),
    ],
)
def test_tools_that_may_be_called_are_accepted_and_known(fields: dict[str, Any], uncalled: str | None) -> None:
    assert parse(**fields).uncalled == uncalled


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
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tools"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, "functions"),
        ({"tools": "all"}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format"),
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


DATA = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": [HELLO | {"images": ["iVBORw0KGgo="]}]}, "messages[0].images", "an image is a part of content"),
        ({"messages": [HELLO, HELLO | {"image_url": {"url": DATA}}]}, "messages[1].image_url", '"type": "image_url"'),
        ({"messages": [HELLO | {"inputImage": DATA}]}, "messages[0].inputImage", "an image is a part of content"),
        ({"messages": [HELLO | {"anything": [{"x": {"y": DATA}}]}]}, "messages[0].anything", "an image is a part of content"),
        ({"messages": [HELLO | {"attachments": [{"id": 1}]}]}, "messages[0].attachments", "an image is a part of content"),
        ({"messages": [HELLO | {"files": ["a.pdf"]}]}, "messages[0].files", "text and images only"),
        ({"messages": [HELLO | {"parts": [{"text": "What?"}]}]}, "messages[0].parts", "text belongs into the content"),
        (
            {"messages": [{"role": "user", "content": [{**IMAGE, "text": "a caption"}]}]},
            "messages[0].content[0].text",
            "text belongs into the content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?", "image": DATA}]}]},
            "messages[0].content[0].image",
            "an image is a part of content",
        ),
        ({"messages": [HELLO], "images": [DATA]}, "images", "an image is a part of content"),
        ({"messages": [HELLO], "system": "Be brief."}, "system", 'a message of the role "system"'),
        ({"messages": [HELLO], "prompt": "What?"}, "prompt", "text belongs into the content"),
        ({"messages": [HELLO], "options": {"temperature": 0}}, "options", "beside messages"),
        ({"messages": [HELLO], "extra_body": {"top_k": 1}}, "extra_body", "beside messages"),
        ({"messages": [HELLO], "systemInstruction": {"parts": []}}, "systemInstruction", 'a message of the role "system"'),
        ({"messages": [HELLO], "max_new_tokens": 5}, "max_new_tokens", "its name for it is max_tokens"),
        ({"messages": [HELLO], "maxOutputTokens": 5}, "maxOutputTokens", "its name for it is max_tokens"),
        ({"messages": [HELLO], "topP": 0.5}, "topP", "its name for it is top_p"),
        ({"messages": [HELLO], "stop_sequences": ["a"]}, "stop_sequences", "its name for it is stop"),
    ],
)
def test_a_field_that_carries_content_and_is_not_read_is_refused(fields: dict[str, Any], param: str, words: str) -> None:
    error = error_of(fields)
    assert (error.status, error.param, error.code) == (400, param, "unsupported")
    assert "does not read this field" in error.message
    assert words in error.message


def test_fields_that_describe_a_message_are_ignored() -> None:
    beside = {"name": "me", "id": "message-1", "timestamp": 5, "images": [], "files": None, "metadata": {"a": "b"}}
    answer = {"role": "assistant", "content": "Hi", "reasoning_content": "Thinking", "refusal": None, "annotations": [{}]}
    assert [message.text for message in parse(messages=[HELLO | beside, answer]).messages] == ["Hello?", "Hi"]


@pytest.mark.parametrize("url", ["iVBORw0KGgo" + "A" * 200, "/9j/4AAQ" + "b" * 80, "QUJD" * 4 + "QQ=="])
def test_bare_base64_is_named_for_what_it_is(url: str) -> None:
    error = error_of({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]})
    assert error.param == "messages[0].content[0].image_url.url"
    assert "the base64 text of an image needs its head, data:image/png;base64," in error.message
    assert url[:30] not in error.message


_LONG = "".join(chr(65 + i * 7 % 26) for i in range(3000))


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": _LONG, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": _LONG}]}]},
        {"messages": [HELLO | {_LONG: DATA}]},
        {"messages": [HELLO], _LONG: DATA},
        {"messages": [HELLO], _LONG: {_LONG: "\ud800"}},
        {"messages": [HELLO], "stream": _LONG},
        {"messages": [HELLO], "response_format": {"type": _LONG}},
        {"messages": _LONG},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": _LONG}]}]},
    ],
)
def test_an_error_repeats_less_than_a_hundred_characters_of_what_was_sent(body: dict[str, Any]) -> None:
    said = json.dumps(error_of(body).body())
    assert not any(_LONG[at : at + 100] in said for at in range(len(_LONG) - 100))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a\udfff"}]}]}, "messages[0].content[0].text"),
        ({"messages": [HELLO], "stop": ["a", "\ud800"]}, "stop[1]"),
        ({"messages": [HELLO], "model": "\ud800"}, "model"),
        ({"messages": [{"role": "user", "content": [{"type": "\ud800"}]}]}, "messages[0].content[0].type"),
        ({"messages": [HELLO], "temperature": "\ud800"}, "temperature"),
        ({"messages": [HELLO | {"image\ud800": "x"}]}, "messages[0].image\\ud800"),
        ({"messages": [HELLO | {"\ud800": DATA}]}, "messages[0].\\ud800"),
        ({"messages": [HELLO], "\ud800": 1}, "\\ud800"),
        ({"messages": [HELLO], "metadata": {"a": [{"b": "\ud800"}]}}, "metadata.a[0].b"),
        ({"messages": "\ud800"}, "messages"),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    error = error_of(fields)
    assert (error.response().status_code, error.param) == (400, param)
    assert "half a surrogate pair" in error.message


def test_a_long_value_is_shortened_in_the_error() -> None:
    error = error_of({"messages": [HELLO], "temperature": "x" * 10**6})
    assert len(error.message) < 300


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "url", "role", "x"]), inner),
    max_leaves=8,
)


@pytest.mark.slow
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
    assert [
        name for name in (*ChatRequest.model_fields, *NEUTRAL, *HARMLESS) if f"`{name}" not in text and f".{name}`" not in text
    ] == []
