"""Two stages: first the vision layers learn to see, from labels of every patch; then everything learns to talk.

Each stage has a budget in minutes. State is saved every few minutes and at the end, so a run that was stopped goes on where it
was; the curve is a JSON line every fifty steps.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mllama_demo.chat.tokenizer import Tokenizer
from training.batches import PictureStream, stream
from training.dialogue import TalkStream, content_weights
from training.export import export, load
from training.model import Size, Student, make_config, whiten_patches
from training.optimizer import Optimizer
from training.team import Team
from training.tokenizer import VOCABULARY

LOG_EVERY = 20
SAVE_EVERY_S = 120.0
WARM_UP_STEPS = 30
SEE_SHARE = 0.3  # of a budget of minutes
CROWDED, WRITTEN = 0.5, 0.25  # shares of crowded pictures and of texts while learning to see
# Text layers that know nothing yet would spoil what the vision layers know: these rest at first, and then learn slower.
VISION_RESTS, VISION_SHARE = 0.15, 0.4
SEEING, LISTENING = 0.4, 0.3  # weights of the labels of patches and of mentions while talking
DECAY = 0.4  # the last part of a stage, in which the learning rate falls to zero: most of the gain comes there
CLIP_SECONDS = 30.0  # a longer pause between two steps is a pause of the machine, not of training


@dataclass(frozen=True)
class Stage:
    """A part of the training. minutes: of computation. rate: the highest learning rate. batch: pictures a step."""

    name: str
    minutes: float
    rate: float
    batch: int
    seed: int


def learning_rate(stage: Stage, step: int, spent_s: float) -> float:
    """Rises over the first steps, stays, and falls linearly to zero at the end of the stage's budget."""
    left = max(0.0, 1 - spent_s / (60 * stage.minutes))
    return stage.rate * min(1.0, (step + 1) / WARM_UP_STEPS) * min(1.0, left / DECAY + 0.01)


class Run:
    """One training run in a folder: student, progress and curve, saved together. team: who else computes with it."""

    def __init__(self, folder: Path, student: Student, team: Team) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.student, self.team = folder, student.to(team.device), team
        self.done: list[str] = []
        self.stage, self.step, self.spent_s = "", 0, 0.0
        self._optimizer_state: Any = None
        if (folder / "state.pt").exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", map_location=self.team.device, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.done, self.stage, self.step, self.spent_s = state["done"], state["stage"], state["step"], state["spent_s"]
        self._optimizer_state = state["optimizer"]

    def save(self, optimizer: Optimizer | None) -> None:
        """Writes the whole state; a kill in the middle leaves the one before. Members other than the first write nothing."""
        if self.team.rank:
            return
        state = {
            "student": self.student.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer else None,
            "done": self.done,
            "stage": self.stage,
            "step": self.step,
            "spent_s": self.spent_s,
        }
        torch.save(state, self.folder / "state.part")
        (self.folder / "state.part").replace(self.folder / "state.pt")

    def train(
        self,
        stage: Stage,
        optimizer: Optimizer,
        batches: Callable[[int, str], Iterator[Any]],
        loss_of: Callable[[Any], tuple[Tensor, dict[str, float]]],
    ) -> None:
        """Runs or resumes a stage until its minutes are spent. batches: of a size, from a seed, an endless stream."""
        if stage.name in self.done:
            return
        if self.stage == stage.name and self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
        else:
            self.stage, self.step, self.spent_s = stage.name, 0, 0.0
        self._optimizer_state = None
        # Resumed, the stream goes on with pictures not drawn before.
        source = batches(stage.batch // self.team.size, f"{stage.name}/{stage.seed}/{self.step}/{self.team.rank}")
        sums: dict[str, list[float]] = defaultdict(list)
        saved = marked = before = time.monotonic()
        self.student.train()
        while self.spent_s < 60 * stage.minutes:
            rate = learning_rate(stage, self.step, self.spent_s)
            loss, figures = loss_of(next(source))
            loss.backward()
            now = time.monotonic()
            # Gradients and time are averaged together, so that every member takes the same step at the same rate.
            self.spent_s += self.team.average(optimizer.params, min(now - before, CLIP_SECONDS))
            before = now
            optimizer.step(rate)
            self.step += 1
            for name, value in {"loss": loss.item(), **figures}.items():
                sums[name].append(value)
            if self.step % LOG_EVERY == 0:
                self._log(stage, rate, LOG_EVERY * stage.batch / (now - marked), sums)
                marked = now
                sums.clear()
            if now - saved > SAVE_EVERY_S:
                self.save(optimizer)
                saved = now
        self.done.append(stage.name)
        self.save(None)

    def _log(self, stage: Stage, rate: float, speed: float, sums: dict[str, list[float]]) -> None:
        if self.team.rank:
            return
        line = {"stage": stage.name, "step": self.step, "minutes": round(self.spent_s / 60, 2), "rate": round(rate, 6)}
        line |= {"pictures_per_s": round(speed, 1)}
        line |= {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
        text = json.dumps(line)
        print(text, flush=True)
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(text + "\n")


# --- the stages ----------------------------------------------------------------------------------------------------------


def layers(student: Student) -> list[nn.Module]:
    """The layers whose matrices Muon trains."""
    model = student.model.model
    vision = model.vision_model
    return [vision.transformer, vision.global_transformer, model.multi_modal_projector, model.language_model.layers]


def learn_to_see(run: Run, stage: Stage) -> None:
    """Stage one: vision layers and projector, from the labels of each patch."""
    student = run.student
    model = student.model.model
    parts = [(model.vision_model, 1.0), (model.multi_modal_projector, 1.0), (student.heads, 1.0)]

    def loss_of(batch: Any) -> tuple[Tensor, dict[str, float]]:
        pictures = batch.to(run.team.device)
        return student.patch_loss(student.see(pictures.tiles, pictures.ratio, pictures.filled), pictures.labels)

    optimizer = Optimizer(parts, layers(student), model.vision_model.patch_embedding, stage.rate, run.team)
    run.train(stage, optimizer, lambda size, seed: stream(PictureStream(size, seed, CROWDED, WRITTEN), run.team.workers), loss_of)


def learn_to_talk(run: Run, stage: Stage, tokenizer: Path) -> None:
    """Stage two: everything, from conversations, with the labels of the patches as a reminder."""
    student = run.student
    weights = content_weights(Tokenizer(tokenizer), student.model.config.text_config.vocab_size).to(run.team.device)

    def loss_of(batch: Any) -> tuple[Tensor, dict[str, float]]:
        talk = batch.to(run.team.device)
        if talk.pictures is None:
            loss = student.talk_loss(talk.ids, talk.labels, talk.positions, weights=weights)
            return loss, {"without_picture": loss.item()}
        resting = run.spent_s < VISION_RESTS * 60 * stage.minutes
        with torch.set_grad_enabled(not resting):
            states = student.see(talk.pictures.tiles, talk.pictures.ratio, talk.pictures.filled)
        filled = talk.pictures.filled
        loss = student.talk_loss(
            talk.ids, talk.labels, talk.positions, talk.image_at, states[talk.picture], filled[talk.picture], weights
        )
        listening, heard = student.lookup_loss(talk.lookups)
        figures = {"about_picture": loss.item(), **heard}
        loss = loss + LISTENING * listening
        if resting:
            return loss, figures
        seeing, right = student.patch_loss(states, talk.pictures.labels)
        return loss + SEEING * seeing, {**figures, **right}

    model = student.model.model
    parts = [
        (model.vision_model, VISION_SHARE),
        (model.multi_modal_projector, VISION_SHARE),
        (student.heads, VISION_SHARE),
        (student.lookup_heads, 1.0),
        (model.language_model, 1.0),
        (student.model.lm_head, 1.0),
    ]
    optimizer = Optimizer(parts, layers(student), model.vision_model.patch_embedding, stage.rate, run.team)
    run.train(stage, optimizer, lambda size, seed: stream(TalkStream(size, seed, tokenizer), run.team.workers), loss_of)


def _patches(seed: int) -> Tensor:
    """Normalised patches of things in 300 pictures: [n, 3 * 14 * 14]."""
    from training.model import IMAGE_MEAN, IMAGE_STD, PATCH, TILE

    pictures = next(iter(PictureStream(300, f"patches/{seed}")))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    pixels = (pictures.tiles.float() / 255 - mean) / std
    side = TILE // PATCH
    patches = pixels.reshape(*pixels.shape[:3], side, PATCH, side, PATCH).permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
    return patches[pictures.labels[:, 0] > 0]


def make_checkpoint(team: Team, folder: Path, out: Path, minutes: float, batch: int, start: Path | None = None) -> None:
    """Both stages in the folder, which holds tokenizer.json, then the checkpoint in `out`. Goes on where it was.

    start: a checkpoint with the same tokenizer whose weights to begin with, at lower rates than from nothing.
    """
    torch.manual_seed(0)
    special = Tokenizer(folder).special_id
    ends = (special("<|begin_of_text|>"), special("<|eot_id|>"), special("<|finetune_right_pad_id|>"))
    run = Run(folder, Student(make_config(Size(), VOCABULARY, *ends)), team)
    fresh = not run.step and not run.done
    if start is not None and fresh:
        load(run.student, start)
    elif fresh:
        whiten_patches(run.student, _patches(batch).to(team.device))
    see, talk = (5e-3, 3e-3) if start is None else (1.5e-3, 1.5e-3)
    learn_to_see(run, Stage("see", SEE_SHARE * minutes, see, batch, 11))
    learn_to_talk(run, Stage("talk", (1 - SEE_SHARE) * minutes, talk, batch, 22), folder)
    if team.rank == 0:
        export(run.student, folder / "tokenizer.json", out)
