"""Files of prompts: what a line may have, and that an invalid line does not affect the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.errors import ConfigError
from mllama_demo.offline.batch import Batch, InvalidLine, Question, check_concurrency, read_batch
from mllama_demo.sampling import SamplingParams
from tests.support.paths import CONFIGS

DEFAULTS = SamplingParams(temperature=0.25, top_p=0.75, top_k=5, max_tokens=32)
TUTORIAL = CONFIGS / "offline" / "tutorial.yaml"


def batch(tmp_path: Path, content: str | bytes, name: str = "batch.jsonl") -> Batch:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_batch(path, DEFAULTS)


def question(tmp_path: Path, **entry: Any) -> Question:
    line = batch(tmp_path, json.dumps(entry)).lines[0]
    assert isinstance(line, Question), line
    return line


def problem(tmp_path: Path, line: str, name: str = "batch.jsonl") -> str:
    bad = batch(tmp_path, line, name).lines[0]
    assert isinstance(bad, InvalidLine)
    return bad.problem


def test_a_prompt_alone_gets_the_deployments_values_and_no_seed(tmp_path) -> None:
    assert question(tmp_path, prompt="Hello?") == Question(1, "Hello?", None, DEFAULTS)


def test_a_line_has_its_own_sampling_values(tmp_path) -> None:
    found = question(
        tmp_path, prompt="A", image="a.png", temperature=1, top_p=0.5, top_k=0, max_tokens=7, seed=0, stop=["x", "y"]
    )
    assert found.image == "a.png"
    assert found.sampling == SamplingParams(1, 0.5, 0, 7, 0, ("x", "y"))
    assert question(tmp_path, prompt="A", stop="x", top_k=None).sampling == SamplingParams(0.25, 0.75, 5, 32, None, ("x",))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "It is not valid JSON: Expecting property name enclosed in double quotes at character 2"),
        ("5", "must be a mapping with a prompt, got 5"),
        ("[1, 2]", "must be a mapping with a prompt, got [1, 2]"),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' is there twice"),
        ('{"image": null}', "prompt must be text, got ''"),
        ('{"prompt": 3}', "prompt must be text, got 3"),
        ('{"prompt": "  "}', "prompt must be text"),
        ('{"prompt": "a", "image": 3}', "image must be a path, an http, https or data URL, or left out, got 3"),
        ('{"prompt": "a", "topk": 3}', "unknown key 'topk': did you mean top_k?"),
        ('{"prompt": "a", "xyz": 3}', "there are prompt, image, temperature, top_p"),
        ('{"prompt": "a", "temperature": 3}', "temperature must be a number from 0 to 2, got 3"),
        ('{"prompt": "a", "temperature": NaN}', "temperature must be a number from 0 to 2, got nan"),
        ('{"prompt": "a", "top_k": true}', "top_k must be a whole number from 0 to 200, got True"),
        ('{"prompt": "a", "seed": "7"}', "seed must be a whole number"),
        ('{"prompt": "a", "max_tokens": 200000}', "max_tokens must be a whole number from 1 to 131072"),
        ('{"prompt": "a", "stop": 3}', "stop must be a list of strings, got 3"),
        ('{"prompt": "a", "stop": [3]}', "stop must be a list of strings"),
        ('{"prompt": "a", "top_k": ' + "9" * 5000 + "}", "It has a number with more than 4300 digits"),
        ("[" * 100_000, "It is nested too deeply"),
        ('{"prompt": "x\\ud800y"}', "prompt: whole Unicode characters are allowed, at 1 there is half a surrogate pair."),
        ('{"prompt": "a", "stop": ["x", "\\udfff"]}', "stop[1]: whole Unicode characters are allowed, at 0"),
        ('{"prompt": "a", "b\\ud800": 1}', "b\\ud800: the name of this field has half a surrogate pair at 1."),
        ('"\\ud800"', "whole Unicode characters are allowed, at 0"),
    ],
)
def test_an_invalid_line_reports_the_mistake_and_what_is_allowed(line: str, said: str, tmp_path) -> None:
    assert said in problem(tmp_path, line)


def test_an_invalid_line_does_not_affect_the_others(tmp_path) -> None:
    content = b'\xef\xbb\xbf{"prompt": "a"}\r\n\n{broken\n\xff\xfe\n{"prompt": "\xc3\xa9"}'
    lines = batch(tmp_path, content).lines
    assert [(line.line, type(line)) for line in lines] == [(1, Question), (3, InvalidLine), (4, InvalidLine), (5, Question)]
    assert isinstance(lines[2], InvalidLine)
    assert "UTF-8" in lines[2].problem
    assert isinstance(lines[3], Question)
    assert lines[3].prompt == "é"


def test_yaml_is_a_list_or_a_mapping_with_prompts(tmp_path) -> None:
    entries = "- prompt: a\n- prompt: b\n  top_k: 7\n- just text\n- {prompt: a, prompt: b}\n- prompt: 2026-13-45\n"
    lines = batch(tmp_path, entries, "b.yaml").lines
    assert [(line.line, isinstance(line, Question)) for line in lines] == [
        (1, True),
        (2, True),
        (4, False),
        (5, False),
        (6, False),
    ]
    for key in ("concurrency", "at_once"):  # at_once is the former name
        both = batch(tmp_path, f"{key}: [1, 4]\nprompts:\n{entries}", "b.yml")
        assert [line.line for line in both.lines] == [3, 4, 6, 7, 8]
        assert both.concurrency == (1, 4)
    assert "there twice" in problem(tmp_path, "- {prompt: a, prompt: b}", "b.yaml")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.txt", "a", "must be a .jsonl, .yaml or .yml file"),
        ("b.jsonl", "\n\n", "has no prompts"),
        ("b.yaml", "prompts: []", "has no prompts"),
        ("b.yaml", "", "must be a list of prompts"),
        ("b.yaml", "hello", "must be a list of prompts"),
        ("b.yaml", "prompt: hello", "takes the keys prompts and concurrency, once each, not 'prompt'"),
        ("b.yaml", "prompts: []\nprompts: []", "once each"),
        ("b.yaml", "? [a]\n: b", "once each"),
        ("b.yaml", "at_once: 1\nconcurrency: 1\nprompts: []", "once each"),
        ("b.yaml", "- [", "not valid YAML (line 1, column 4)"),
        ("b.yaml", "- a\n--- \n- b", "not valid YAML"),
        ("b.yaml", b"\xff\xff\xff", "not valid YAML"),
        ("b.yaml", "concurrency: 0\nprompts: []", "concurrency must be one or more whole numbers from 1 to 1000, got 0"),
        ("b.yaml", "at_once: [1, x]\nprompts: []", "concurrency must be"),
    ],
)
def test_an_unreadable_file_is_refused(name: str, content: str | bytes, said: str, tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        batch(tmp_path, content, name)
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml cannot be read: No such file"):
        read_batch(tmp_path / "missing.yaml", DEFAULTS)


def test_a_single_concurrency_is_one_round() -> None:
    assert check_concurrency(3, "here") == (3,)
    with pytest.raises(ConfigError, match=r"got True \(here\)"):
        check_concurrency(True, "here")


def test_the_shipped_batch_has_the_tutorials_prompts_and_parameters() -> None:
    shipped = read_batch(TUTORIAL, DEFAULTS)
    assert shipped.concurrency == (1, 4)
    questions = [line for line in shipped.lines if isinstance(line, Question)]
    asked = [(q.prompt, q.image is not None) for q in questions]
    assert asked == [
        ("What is in this image? Tell me a story", True),
        ("What is the recipe of mayonnaise in two sentences?", False),
        ("Describe this image", True),
        ("What is the capital of Italy famous for?", False),
    ]
    values = [(q.sampling.top_k, q.sampling.temperature, q.sampling.top_p, q.sampling.max_tokens) for q in questions]
    assert values == [(1, 1.0, 1.0, 256), (1, 0.9, 1.0, 256), (10, 0.9, 0.5, 512), (10, 0.75, 0.5, 1024)]
    assert all((TUTORIAL.parent / q.image).is_file() for q in questions if q.image)
