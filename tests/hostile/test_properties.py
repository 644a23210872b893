"""Random input at the doors of the code: whatever comes, it is read, or refused with one of our errors."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.export import from_json as conversation_from_json
from mllama_demo.chat.export import to_json as conversation_to_json
from mllama_demo.chat.message_tree import MessageTree, Node
from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import SCENARIOS, Settings
from mllama_demo.config.yaml_file import parse_mapping
from mllama_demo.errors import BadRequest, ConfigError, DemoError, ImageError
from mllama_demo.explore.import_export import from_json as run_from_json
from mllama_demo.images.loading import LoadedImage, from_data_url, load_image
from mllama_demo.images.metadata import without_metadata
from mllama_demo.present.spec import read_scenario
from tests.hostile.image_corpus import MAIN, WHOLE

pytestmark = pytest.mark.timeout(300)
quick = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@quick
@given(st.sampled_from(MAIN), st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)), max_size=6))
def test_a_file_with_any_bytes_overwritten_is_an_image_or_refused(name: str, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(WHOLE[name]())
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    with contextlib.suppress(ImageError):
        assert load_image(bytes(data)).pixels.mode == "RGB"


@quick
@given(st.sampled_from(MAIN), st.binary(max_size=300))
def test_metadata_is_left_out_of_any_bytes(name: str, rest: bytes) -> None:
    for start in (2, 13, 33, 60):
        assert len(without_metadata(WHOLE[name]()[:start] + rest)) <= start + len(rest) + 64


@quick
@given(st.text(max_size=60), st.text(max_size=60) | st.binary(max_size=60).map(lambda data: base64.b64encode(data).decode()))
def test_any_data_url_is_an_image_or_refused(head: str, body: str) -> None:
    for url in (f"data:{head},{body}", f"data:image/png;base64,{body}", head):
        with contextlib.suppress(ImageError):
            from_data_url(url)


# --- imported files ------------------------------------------------------------------------------------------------------


def exported() -> dict[str, Any]:
    """A conversation with an image, as the page exports it."""
    image = load_image(WHOLE["png"](), "a.png")
    nodes = (Node(0, None, Message("user", "What is it?", ImageRef.of(image))), Node(1, 0, Message("assistant", "A dog.")))
    tree = MessageTree(nodes, title="A dog")
    return json.loads(conversation_to_json(tree, lambda _: image))


def run_file() -> dict[str, Any]:
    return {
        "format": "mllama-demo exploration", "version": 3, "id": "a" * 32, "created": "2026-01-01T00:00:00Z", "image": None,
        "grid": {"prompt": "Hi", "temperature": [0.5], "top_p": [1.0], "top_k": [0], "seed": [1], "max_tokens": 1},
        "cells": [{"temperature": 0.5, "top_p": 1.0, "top_k": 0, "seed": 1}], "model": "m", "backend": "b", "device": "d",
    }  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within a JSON value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, inner in items for place in places(inner, (*path, key))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = new
    return copy


@quick
@given(st.data(), json_values)
def test_a_conversation_with_any_value_replaced_is_imported_or_refused(data: st.DataObject, new: Any) -> None:
    whole = exported()
    file = json.dumps(replaced(whole, data.draw(st.sampled_from(places(whole))), new)).encode()
    stored: list[LoadedImage] = []

    def put(image: LoadedImage) -> ImageRef:
        stored.append(image)
        return ImageRef.of(image)

    with contextlib.suppress(BadRequest):
        assert conversation_from_json(file, put).conversation().messages
        assert len(stored) == 1


@quick
@given(st.data(), json_values)
def test_a_run_with_any_value_replaced_is_imported_or_refused(data: st.DataObject, new: Any) -> None:
    whole = run_file()
    with contextlib.suppress(BadRequest):
        assert run_from_json(json.dumps(replaced(whole, data.draw(st.sampled_from(places(whole))), new))).cells


def test_the_files_that_are_changed_above_are_right():
    assert run_from_json(json.dumps(run_file())).cells
    assert conversation_from_json(json.dumps(exported()).encode(), ImageRef.of).conversation().messages


# --- YAML ----------------------------------------------------------------------------------------------------------------


@quick
@given(st.text(max_size=200) | st.binary(max_size=200) | json_values.map(json.dumps))
def test_any_text_is_a_mapping_or_no_yaml(text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_mapping(data, "The file", "options"), dict)


@quick
@given(st.sampled_from(sorted(Settings.model_fields)), json_values)
def test_any_value_of_an_option_is_taken_or_refused(tmp_path: Path, name: str, value: Any) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(json.dumps({name: value}), encoding="utf-8")
    with contextlib.suppress(ConfigError):
        load_settings(["--config", str(file)], {})


@quick
@given(st.data(), json_values)
def test_any_value_in_a_scenario_is_taken_or_refused(tmp_path: Path, data: st.DataObject, value: Any) -> None:
    whole = parse_mapping(next(SCENARIOS.glob("*.yaml")).read_bytes(), "The scenario", "steps")
    place = data.draw(st.sampled_from(places(whole)))
    file = tmp_path / "scenario.yaml"
    file.write_text(json.dumps(replaced(whole, place, value)), encoding="utf-8")
    with contextlib.suppress(DemoError):
        assert read_scenario(file, Settings()).steps
