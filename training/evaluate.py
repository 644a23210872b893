"""Evaluates a checkpoint: the share of right answers by type of question, with 95 % intervals, and its commonest mistakes.

The cases come from a fixed seed. The answers are greedy. `python -m training.evaluate FOLDER` prints the table.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mllama_demo.images.loading import load_image
from mllama_demo.sampling import SamplingParams
from training import packages
from training.answers import MAX_TOKENS, Answerer, Prompt, png
from training.confusions import commonest, confidently_false, mistakes
from training.drawings import DrawingBank, load_bank
from training.exam import CHANGES, Case, Column, Row, changed_cases, rows
from training.render import render
from training.results import CONFIDENT, MOST_CONFIDENT, wilson
from training.sampling import sample_scene
from training.talk.truth import false_mentions
from training.team import Team, work_together

SEED = 20_260
COLUMNS: tuple[Column, ...] = ("scenes", "drawings", "phrasings")
SAMPLED_PICTURES, SAMPLES = 12, 20
MOST_PHOTOS = 200
CHANGED_SHARE = 2  # a row of changed files has this many times the cases of another row


def held_out_photos(folder: Path | None = None) -> list[Image.Image]:
    """Photographs that training never sees, in RGB: the two of scikit-learn, and up to about MOST_PHOTOS of a folder."""
    files = [file.getvalue() for file in packages.read_photos(packages.PHOTOS[1]).values()]
    if folder:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
        files += [path.read_bytes() for path in paths[:: 1 + len(paths) // MOST_PHOTOS]]
    pictures = []
    for file in files:
        picture = load_image(file).pixels
        picture.thumbnail((800, 800))
        if min(picture.size) >= 200 and picture.width <= 4 * picture.height and picture.height <= 4 * picture.width:
            pictures.append(picture)
    return pictures


def evaluate(checkpoint: Path, cases: int, photos: Path | None = None, examples: int = 0, processes: int = 0) -> dict[str, Any]:
    """Runs the whole evaluation and prints the table and the commonest mistakes.

    Args:
        cases: Number of cases of each row and column.
        photos: Folder of photographs to add to those of scikit-learn.
        examples: Number of replies to print.
        processes: Processes on a CPU; 0 for one per core.

    Returns:
        "figures": {row: {column: [right, cases]}}; "replies": a list of [row, column, question, gold, reply, is right, is
        confidently false, mistakes].
    """
    began = time.monotonic()
    load_bank()  # makes the files once, before several processes read them
    held_out_photos(photos)
    with tempfile.TemporaryDirectory() as folder:
        work_together(_part, checkpoint, cases, photos, Path(folder), members=processes)
        figures: dict[str, Any] = {}
        replies: list[Any] = []
        for path in sorted(Path(folder).glob("*.json")):
            part = json.loads(path.read_text())
            for title, columns in part["figures"].items():
                figures.setdefault(title, {}).update(columns)
            replies.extend(part["replies"])
    figures[CONFIDENT] = confident_share(replies)
    order = [row.title for row in rows([])]
    figures = {title: figures[title] for title in sorted(figures, key=lambda t: order.index(t) if t in order else len(order))}
    print(table(figures, goals()))
    print(f"{cases} cases a type and column, seed {SEED}, {(time.monotonic() - began) / 60:.1f} minutes")
    print("The commonest mistakes:")
    for mistake, many in commonest(mistake for reply in replies for mistake in reply[7]):
        print(f"  {many:4} × {mistake}")
    for title, column, question, gold, reply, is_right, *_ in replies[:examples]:
        print(f"  {'right' if is_right else 'WRONG'} | {title} | {column} | {question} | gold: {gold} | {reply}")
    return {"figures": figures, "replies": replies}


def goals() -> dict[str, float]:
    """The share aimed at, by row; 0 for none."""
    return {row.title: row.goal for row in rows([])} | {CONFIDENT: MOST_CONFIDENT}


def confident_share(replies: Sequence[Any]) -> dict[str, list[int]]:
    """The number of confidently false replies and of all replies, by column, over all rows."""
    result: dict[str, list[int]] = {}
    for reply in replies:
        figure = result.setdefault(reply[1], [0, 0])
        figure[0] += reply[6]
        figure[1] += 1
    return result


def _part(team: Team, checkpoint: Path, cases: int, photos: Path | None, folder: Path) -> None:
    """Evaluates the rows of one process and writes its figures to `folder`."""
    answerer, bank = Answerer(checkpoint), load_bank()
    figures: dict[str, Any] = {}
    replies: list[Any] = []
    jobs: list[tuple[Row, Column]] = [(row, column) for row in rows(held_out_photos(photos)) for column in row.columns]
    for row, column in jobs[team.rank :: team.size]:
        rng = random.Random(f"{SEED}/{row.title}/{column}")
        drawn = [row.draw(rng, bank, column) for _ in range(cases)]
        right = _judge(answerer, drawn, row.title, column, replies)
        figures.setdefault(row.title, {})[column] = [right, cases]
    if team.rank == 0:
        figures.update(_changed(answerer, bank, CHANGED_SHARE * cases))
    if team.rank == team.size - 1:
        figures.update(_sampled(answerer, bank, min(SAMPLED_PICTURES, cases)))
    (folder / f"{team.rank}.json").write_text(json.dumps({"figures": figures, "replies": replies}))


def _judge(answerer: Answerer, cases: Sequence[Case], title: str, column: str, replies: list[Any]) -> int:
    right = 0
    for case, reply in zip(cases, answerer.answers(case.prompt for case in cases), strict=True):
        is_right = case.judge(reply)
        right += is_right
        wrong = () if is_right else mistakes(case.exchange, case.scene, reply)
        sure = not is_right and confidently_false(case.exchange, case.scene, reply)
        replies.append((title, column, case.exchange.question, str(case.exchange.gold), reply, is_right, sure, wrong))
    return right


def _changed(answerer: Answerer, bank: DrawingBank, many: int) -> dict[str, Any]:
    """Figures for the same questions about unchanged and about changed files."""
    cases = changed_cases(random.Random(f"{SEED}/changed"), bank, many)
    result = {}
    for name in ("as it is", *CHANGES):
        right = _judge(answerer, [case[name] for case in cases], name, "scenes", [])
        result[f"file: {name}"] = {"scenes": [right, many]}
    return result


def _sampled(answerer: Answerer, bank: DrawingBank, pictures: int) -> dict[str, Any]:
    """Figures at temperature 1: how many descriptions of a picture are different, and how many say nothing false."""
    rng = random.Random(f"{SEED}/sampled")
    different = true = 0
    for _ in range(pictures):
        scene = sample_scene(rng, "test", rng.choice(("one", "several")))
        file = png(render(scene, bank, style="train"))
        prompts = [
            Prompt(
                ["Describe this image."],
                file,
                SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=MAX_TOKENS, seed=seed),
            )
            for seed in range(SAMPLES)
        ]
        replies = answerer.answers(iter(prompts))
        different += len(set(replies))
        true += sum(not false_mentions(reply, scene) for reply in replies)
    total = pictures * SAMPLES
    return {
        "temperature 1: descriptions that differ": {"scenes": [different, total]},
        "temperature 1: descriptions without a false word": {"scenes": [true, total]},
    }


_HEADS = {"scenes": "new scenes", "drawings": "new drawings, fonts", "phrasings": "new phrasings"}


def table(figures: dict[str, Any], goals: dict[str, float]) -> str:
    """The figures as a Markdown table. goals: {row: share aimed at}, 0 for none."""
    lines = [
        "| type of question | goal | " + " | ".join(_HEADS[c] for c in COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for title, columns in figures.items():
        goal = f"{goals[title]:.2f}" if goals.get(title) else ""
        lines.append(f"| {title} | {goal} | " + " | ".join(_cell(columns.get(c)) for c in COLUMNS) + " |")
    return "\n".join(lines)


def _cell(figure: list[int] | None) -> str:
    if figure is None:
        return ""
    right, cases = figure
    low, high = wilson(right, cases)
    return f"**{right / cases:.2f}** ({low:.2f}–{high:.2f})"


def main(argv: list[str] | None = None) -> int:
    """Prints the table. Returns the exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cases", type=int, default=100, help="cases of each type and column (default 100)")
    parser.add_argument("--photos", type=Path, help="folder of photographs to add to the two of scikit-learn")
    parser.add_argument("--examples", type=int, default=0, help="number of replies to print with their judgement")
    parser.add_argument("--processes", type=int, default=0, help="processes on a CPU; 0 for one per core")
    parser.add_argument("--json", type=Path, help="file for the figures and all replies")
    args = parser.parse_args(argv)
    if not (args.checkpoint / "model.safetensors").is_file():
        parser.error(f"{args.checkpoint} holds no model.safetensors; name the folder of a checkpoint")
    if args.cases < 1:
        parser.error("--cases must be at least 1")
    result = evaluate(args.checkpoint, args.cases, args.photos, args.examples, args.processes)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
