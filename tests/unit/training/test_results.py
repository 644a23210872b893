"""What is made of the results: confidently false replies, the commonest mistakes, the curve, and which checkpoint is better."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.errors import CheckpointError
from training import checkin, evaluate
from training.card import card
from training.confusions import commonest, confidently_false, mistakes
from training.curve import svg
from training.evaluate import confident_share
from training.kinds import KINDS, TEXT
from training.results import CONFIDENT, comparison, is_better, mean_right, worse_rows
from training.scenes import Scene, Thing
from training.talk.exchange import Exchange

DOG = Thing("dog", None, (0.05, 0.4, 0.25, 0.6))
SIGN = Thing(TEXT, "blue", (0.3, 0.75, 0.7, 0.95), text="STOP")
PETS = Scene((DOG, Thing("cat", None, (0.75, 0.4, 0.95, 0.6))), "white", 300, 300, 0)
PHOTO = Scene((), "gray", 300, 300, 0, foreign="photo")
STRANGE = Scene((Thing("unknown animal", None, (0.3, 0.3, 0.7, 0.7)),), "white", 300, 300, 0)


@pytest.mark.parametrize(
    ("kind", "gold", "scene", "reply", "expected"),
    [
        ("what", (("dog", None, 1), ("cat", None, 1)), PETS, "A dog and a lion.", True),
        ("what", (("dog", None, 1), ("cat", None, 1)), PETS, "A dog.", False),
        ("what", (), PETS, "I do not know what this is.", False),
        ("count", 1, PETS, "Two.", True),
        ("count", 1, PETS, "I cannot tell.", False),
        ("yesno", True, PETS, "No.", True),
        ("foreign", (), PHOTO, "I see a dog.", True),
        ("foreign", (), PHOTO, "It is mostly green.", False),
        ("single", (("unknown animal", None, 1),), STRANGE, "This is a fox.", True),
        ("single", (("unknown animal", None, 1),), STRANGE, "This is a plant I do not know.", False),
        ("sum", "7", None, "It is 8.", True),
        ("out_of_scope", None, None, "Two red stars.", True),
        ("joke", None, None, "Two red stars.", False),
        ("what", (), PETS, " ", False),
    ],
)
def test_a_wrong_reply_is_confidently_false_if_it_states_what_is_not_so(kind, gold, scene, reply, expected):
    assert confidently_false(Exchange(kind, "", "", gold), scene, reply) is expected


@pytest.mark.parametrize(
    ("kind", "gold", "scene", "reply", "expected"),
    [
        ("what", (), PETS, "A dog and a lion.", ["name: cat → lion"]),
        ("what", (), PETS, "A dog.", ["name: cat → nothing"]),
        ("count", 4, PETS, "There are five.", ["count: 4 → 5"]),
        ("where", "at the top", PETS, "At the top left.", ["where: at the top → at the top left"]),
        ("colour", "red", PETS, "Orange.", ["colour: red → orange"]),
        ("yesno", True, PETS, "No.", ["yesno (dog): yes → no"]),
        ("read", "STOP", PETS, 'It says "STQP".', ["read: O → Q"]),
        ("read", "STOP", PETS, 'It says "STO".', ["read: 4 letters → 3"]),
        ("foreign", (), PHOTO, "A dog.", ["name: a strange picture → dog"]),
        ("bar chart: highest", "red", PETS, "The blue bar.", ["bar chart: highest: red → The blue bar."]),
        ("sum", "7", None, "8.", ["sum: 7 → 8."]),
    ],
)
def test_a_mistake_is_what_was_there_and_what_was_said(kind, gold, scene, reply, expected):
    assert mistakes(Exchange(kind, "", "", gold, "dog"), scene, reply) == expected


def test_the_commonest_mistakes_come_first():
    assert commonest(["b", "a", "c", "b", "a", "b"], 2) == [("b", 3), ("a", 2)]


def test_the_confidently_false_are_a_share_of_all_replies():
    replies = [["row", "scenes", "", "", "", False, True, ()], ["row", "scenes", "", "", "", True, False, ()]]
    assert confident_share([*replies, ["row", "phrasings", "", "", "", True, False, ()]]) == {
        "scenes": [1, 2],
        "phrasings": [0, 1],
    }


def figures(right: int, false: int) -> dict[str, dict[str, list[int]]]:
    return {"row": {"scenes": [right, 10], "phrasings": [5, 10]}, CONFIDENT: {"scenes": [false, 10]}}


@pytest.mark.parametrize(("new", "better"), [((8, 3), True), ((8, 2), True), ((8, 4), False), ((7, 3), False), ((6, 0), False)])
def test_a_checkpoint_is_better_if_more_is_right_and_no_more_is_confidently_false(new, better):
    assert is_better(figures(*new), figures(7, 3)) is better


def test_a_checkpoint_that_is_clearly_worse_in_one_row_is_not_better():
    old, new = figures(7, 3), figures(8, 2)
    old["sums"], new["sums"] = {"scenes": [90, 100]}, {"scenes": [85, 100]}
    old["a clock"], new["a clock"] = {"scenes": [0, 100]}, {"scenes": [90, 100]}
    assert is_better(new, old), "the intervals touch"
    new["sums"] = {"scenes": [60, 100]}
    assert worse_rows(new, old) == ["sums"]
    assert mean_right(new) > mean_right(old)
    assert not is_better(new, old)


def test_two_checkpoints_are_compared_row_by_row():
    assert mean_right(figures(7, 3)) == pytest.approx(0.6)
    assert "| row | 0.60 | 0.65 |" in comparison(figures(8, 3), figures(7, 3))


LINE = json.dumps({"stage": "see", "minutes": 60, "rate": 0.005, "kind": 0.9}) + "\n"


@pytest.fixture
def candidate(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A better checkpoint than the present one, which is in `present`. Its curve is in `curve.jsonl`."""
    for name in ("present", "new"):
        (tmp_path / name).mkdir()
        for file in embedded.iterdir():
            if file.is_file():
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"of": name}))
    (tmp_path / "curve.jsonl").write_text(LINE)

    def result(folder: Path, cases: int, **rest: Any) -> dict[str, Any]:
        right = 9 if folder == tmp_path / "new" else 8
        return {"figures": {"name one thing": {"scenes": [right, 10]}, CONFIDENT: {"scenes": [1, 40]}}}

    monkeypatch.setattr(checkin, "EMBEDDED", tmp_path / "present")
    monkeypatch.setattr(evaluate, "evaluate", result)
    return tmp_path / "new"


def is_replaced(candidate: Path) -> bool:
    return "new" in (candidate.parent / "present" / "generation_config.json").read_text()


def test_a_better_checkpoint_replaces_the_present_one_with_its_card(candidate):
    assert checkin.main([str(candidate), "--curve", str(candidate.parent / "curve.jsonl")]) == 0
    assert is_replaced(candidate)
    assert "1.0 hours of computing" in (candidate.parent / "present" / "README.md").read_text(encoding="utf-8")


def test_without_the_curve_a_better_checkpoint_replaces_nothing_and_the_command_says_so(candidate, capsys):
    assert checkin.main([str(candidate)]) == 0
    assert "nothing is replaced, because the card needs the curve of the run; give --curve" in capsys.readouterr().out
    assert not is_replaced(candidate)


@pytest.mark.parametrize("text", ["", "no JSON\n", LINE + LINE[:20], '{"stage": "see"}\n', "[1]\n"])
def test_a_curve_that_cannot_be_read_is_refused_before_anything_is_evaluated(candidate, monkeypatch, capsys, text):
    monkeypatch.delattr(evaluate, "evaluate")
    (candidate.parent / "curve.jsonl").write_text(text)
    with pytest.raises(SystemExit) as ended:
        checkin.main([str(candidate), "--curve", str(candidate.parent / "curve.jsonl")])
    assert ended.value.code == 2
    assert "curve.jsonl is not the curve.jsonl of a run" in capsys.readouterr().err
    assert not is_replaced(candidate)


def test_a_card_that_cannot_be_written_replaces_nothing(candidate):
    (candidate / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        checkin.main([str(candidate), "--curve", str(candidate.parent / "curve.jsonl")])
    assert not is_replaced(candidate)


def test_drawings_are_made_before_several_processes_read_them(monkeypatch, tmp_path):
    """Processes that all find no drawings would write the same files."""
    order: list[str] = []

    def start(*arguments: Any, **options: Any) -> None:
        order.append("processes")
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "load_bank", lambda: order.append("drawings"))
    monkeypatch.setattr(evaluate, "held_out_photos", lambda folder: order.append("photographs"))
    monkeypatch.setattr(evaluate, "work_together", start)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(tmp_path, 1)
    assert order == ["drawings", "photographs", "processes"]


def test_the_curve_is_drawn_over_the_minutes_of_all_stages():
    lines = [{"stage": "see", "minutes": minute, "kind": minute / 20, "loss": 3} for minute in range(1, 11)]
    lines += [{"stage": "talk", "minutes": minute, "kind": 0.5, "about_picture": 0.3} for minute in range(1, 31)]
    root = ElementTree.fromstring(svg(lines))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"see", "talk", "40", "kind of a patch: 0.50", "loss of answers: 0.30"} <= set(texts)
    lengths = [len(element.attrib["points"].split()) for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert lengths == [40, 30]


def test_the_card_names_what_it_knows_and_how_long_it_was_trained(embedded):
    result = {"figures": {"name one thing": {"scenes": [9, 10]}, CONFIDENT: {"scenes": [1, 40]}}}
    lines = [{"stage": "see", "minutes": 60, "rate": 0.005, "kind": 0.9}, {"stage": "talk", "minutes": 30, "rate": 0.003}]
    text = card(embedded, result, lines)
    assert "5.1 million parameters, float16, 10 MB" in text
    assert "1.5 hours of computing" in text
    assert "10 cases a type" in text
    assert "| name one thing | 0.95 | **0.90**" in text
    assert f"| {CONFIDENT} | 0.08 | **0.03**" in text
    assert all(kind.name in text for kind in KINDS)
    assert "{" not in text
