"""Grids: order of the cells, error messages, estimates, and grid files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama_demo.config.settings import Settings
from mllama_demo.errors import BadRequest, ConfigError, ImageError
from mllama_demo.explore.grid import MAX_CELLS, MAX_TOKENS, BackendSpeed, estimate, make_grid, measured_speed
from mllama_demo.explore.spec import load_spec_image, read_spec
from mllama_demo.sampling import SamplingParams
from tests.support.paths import ROOT

SETTINGS = Settings(temperature=0.4, top_p=0.7, top_k=9)


def grid(**values):
    return make_grid({"prompt": "What is it?", **values})


# --- cells ---------------------------------------------------------------------------------------------------------------


def test_cells_are_the_product_of_the_axes_with_seeds_fastest() -> None:
    cells = grid(temperature=[0.5, 1.0], top_k=[0, 5], seed=[3, 4], max_tokens=8, stop="END").cells()
    assert [(c.temperature, c.top_k, c.seed) for c in cells] == [
        *((0.5, 0, 3), (0.5, 0, 4), (0.5, 5, 3), (0.5, 5, 4)),
        *((1.0, 0, 3), (1.0, 0, 4), (1.0, 5, 3), (1.0, 5, 4)),
    ]
    assert {(c.max_tokens, c.stop) for c in cells} == {(8, ("END",))}


def test_a_single_number_is_a_list_of_one_and_missing_values_have_defaults() -> None:
    only = grid(temperature=1.2, seed=7)
    assert only.cells() == (SamplingParams(temperature=1.2, max_tokens=64, seed=7),)
    assert only.varied_axes() == ()
    assert grid(top_p=[0.5, 0.9]).varied_axes() == ("top_p",)


def test_a_note_points_out_equal_greedy_cells() -> None:
    (note,) = grid(temperature=[0, 1], top_p=[0.5, 0.9], seed=[1, 2, 3, 4]).notes()
    assert "8 cells are greedy" in note
    assert grid(temperature=[0.0, 1.0]).notes() == ()


# --- invalid grids -------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"temperature": [0.5, 2.5]}, ["temperature", "2.5", "from 0 to 2"]),
    ({"temperature": "warm"}, ["temperature", "'warm'"]),
    ({"temperature": []}, ["temperature", "at least one"]),
    ({"temperature": [0.5, 0.5]}, ["temperature", "0.5 twice"]),
    ({"temperature": {"from": 0}}, ["temperature"]),
    ({"temperature": [True]}, ["temperature", "True"]),
    ({"top_p": 0}, ["top_p", "0.01 to 1"]),
    ({"top_k": [1.5]}, ["top_k", "whole number"]),
    ({"seed": [-1]}, ["seed", "-1"]),
    ({"seed": [None]}, ["seed", "None"]),
    ({"max_tokens": 0}, ["max_tokens", "1 to 4096"]),
    ({"max_tokens": "many"}, ["max_tokens", "'many'"]),
    ({"stop": [1]}, ["stop", "strings"]),
    ({"stop": {"a": 1}}, ["stop", "list of strings"]),
    ({"stop": ["x"] * 5}, ["stop", "up to 4"]),
    ({"prompt": 5}, ["prompt", "string"]),
    ({"prompt": "x" * 30_000}, ["prompt", "20000"]),
    ({"title": "x" * 200}, ["title", "120"]),
    ({"temprature": 1}, ["'temprature'", "did you mean temperature?"]),
    ({"seeds": [1]}, ["'seeds'", "did you mean seed?"]),
    ({"colour": 1}, ["'colour'", "top_k"]),
    ({"seed": list(range(MAX_CELLS + 1))}, [f"{MAX_CELLS + 1} cells", f"at most {MAX_CELLS}", f"{MAX_CELLS + 1} seed"]),
    ({"seed": list(range(20)), "max_tokens": 4000}, ["80,000", f"{MAX_TOKENS:,}", f"max_tokens {MAX_TOKENS // 20}"]),
]


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=lambda value: str(value)[:40])
def test_an_invalid_grid_is_refused_and_the_message_names_the_value(values: dict, named: list[str]) -> None:
    with pytest.raises(BadRequest) as refused:
        grid(**values)
    for part in named:
        assert part in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_grid_without_a_prompt_is_refused() -> None:
    with pytest.raises(BadRequest, match="prompt: Field required"):
        make_grid({"temperature": 1})


# --- estimate ------------------------------------------------------------------------------------------------------------


def test_estimate_counts_waves_of_slots_and_one_prefill_for_a_shared_prompt() -> None:
    nine, speed = grid(temperature=[0.1, 0.5, 1.0], seed=[1, 2, 3], max_tokens=10), BackendSpeed(prefill_s=2.0, step_s=0.1)
    shared, separate = (estimate(nine, 4, fork=fork, speed=speed, wait_s=1.0) for fork in (True, False))
    assert (shared.cells, shared.tokens, shared.prefills) == (9, 90, 1)
    assert shared.seconds == pytest.approx(1.0 + 2.0 + 3 * 10 * 0.1)
    assert separate.prefills == 9
    assert separate.seconds == pytest.approx(1.0 + 9 * 2.0 + 3 * 10 * 0.1)


@pytest.mark.parametrize(("speed", "wait"), [(None, 0.0), (BackendSpeed(1, 1), None)])
def test_estimate_has_no_seconds_without_a_measured_speed_or_wait(speed, wait) -> None:
    assert estimate(grid(), 4, fork=True, speed=speed, wait_s=wait).seconds is None


def test_speed_is_measured_from_finished_cells() -> None:
    speed = measured_speed([(1.0, 2.0, 1.5, 11), (4.0, 4.0, 4.01, 11), (0.0, 0.0, None, 0)])
    assert speed is not None
    assert (speed.prefill_s, speed.step_s) == (pytest.approx(0.5), pytest.approx(0.3))
    assert measured_speed([(0.0, 0.0, 0.2, 1)]) is None


# --- files ---------------------------------------------------------------------------------------------------------------


def test_the_tutorial_file_is_a_grid_with_an_image() -> None:
    spec = read_spec(ROOT / "configs" / "explore" / "tutorial.yaml", SETTINGS)
    image = load_spec_image(spec, SETTINGS)
    assert spec.grid.cell_count == 27
    assert image is not None
    assert image.name == "dog.png"


def test_values_missing_in_a_file_come_from_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("prompt: Hello\nseed: [1, 2]\ntop_k:\n", encoding="utf-8")
    spec = read_spec(file, SETTINGS)
    assert (spec.grid.temperature, spec.grid.top_p, spec.grid.top_k, spec.grid.seed) == ((0.4,), (0.7,), (9,), (1, 2))
    assert load_spec_image(spec, SETTINGS) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prompt: [", "line 1"),
        ("- prompt", "mapping"),
        ("prompt: x\ntemperature: 9\n", "temperature must be"),
        ("prompt: x\nimage: [1]\n", "image must be"),
        ("prompt: x\ntitel: y\n", r"did you mean title\?"),
        ("prompt: x\ntop_k: 3\ntop_k: 4\n", "line 3.*top_k is there twice"),
        ("", "mapping"),
    ],
)
def test_an_invalid_grid_file_is_refused_and_the_message_names_the_file(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=named) as refused:
        read_spec(file, SETTINGS)
    assert "grid.yaml" in str(refused.value)


def test_an_unreadable_grid_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        read_spec(tmp_path / "none.yaml", SETTINGS)
    (tmp_path / "grid.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_spec(tmp_path / "grid.yaml", SETTINGS)


@pytest.mark.parametrize("image", ["missing.png", "grid.yaml", "ftp://example.com/a.png", "data:text/plain,x"])
def test_an_unusable_image_of_a_grid_file_is_refused(tmp_path: Path, image: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(f"prompt: x\nimage: '{image}'\n", encoding="utf-8")
    with pytest.raises(ImageError):
        load_spec_image(read_spec(file, SETTINGS), SETTINGS)
