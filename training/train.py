"""The training loop and its two stages.

Stage "see" trains the vision layers on patch labels. Stage "talk" trains the whole model on conversations. Each stage has a
budget in minutes. The state is saved every SAVE_EVERY_S and after a stage, so that a stopped run can be resumed. curve.jsonl gets
a line every LOG_EVERY steps.
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
SEE_SHARE = 0.3  # share of the minutes for stage "see"
CROWDED, WRITTEN = 0.5, 0.25  # shares of crowded pictures and of pictures with text in stage "see"
# The untrained text layers would spoil the trained vision layers. In stage "talk", the vision layers are frozen for the first
# VISION_RESTS of the time. After that their learning rate is multiplied by VISION_SHARE.
VISION_RESTS, VISION_SHARE = 0.15, 0.4
SEEING, LISTENING = 0.4, 0.3  # loss weights of patch labels and of lookups in stage "talk"
DECAY = 0.4  # last share of a stage, in which the learning rate falls to zero; most of the improvement happens there
CLIP_SECONDS = 30.0  # longest step that counts against the budget; a longer one means that the machine was suspended


@dataclass(frozen=True)
class Stage:
    """A stage of the training.

    Attributes:
        minutes: Budget of computing time.
        rate: Highest learning rate.
        batch: Pictures per step, over all processes.
    """

    name: str
    minutes: float
    rate: float
    batch: int
    seed: int


def learning_rate(stage: Stage, step: int, spent_s: float) -> float:
    """The learning rate: rises over WARM_UP_STEPS, is constant, and falls linearly to 1 % in the last DECAY of the budget."""
    left = max(0.0, 1 - spent_s / (60 * stage.minutes))
    return stage.rate * min(1.0, (step + 1) / WARM_UP_STEPS) * min(1.0, left / DECAY + 0.01)


class Run:
    """A training run: the student and its progress, saved in `folder` as state.pt and curve.jsonl."""

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
        """Replaces state.pt atomically. Only the process with rank 0 writes."""
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
        """Runs or resumes a stage until its minutes are spent.

        Args:
            batches: Returns an endless stream of batches for a batch size and a seed.
            loss_of: Returns the loss of a batch and figures for the curve.
        """
        if stage.name in self.done:
            return
        if self.stage == stage.name and self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
        else:
            self.stage, self.step, self.spent_s = stage.name, 0, 0.0
        self._optimizer_state = None
        # The step in the seed gives a resumed run new pictures.
        source = batches(stage.batch // self.team.size, f"{stage.name}/{stage.seed}/{self.step}/{self.team.rank}")
        sums: dict[str, list[float]] = defaultdict(list)
        saved = marked = before = time.monotonic()
        self.student.train()
        while self.spent_s < 60 * stage.minutes:
            rate = learning_rate(stage, self.step, self.spent_s)
            loss, figures = loss_of(next(source))
            loss.backward()
            now = time.monotonic()
            # The mean over all processes of gradients and time gives every process the same step and learning rate.
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
    """The modules whose matrices Muon trains."""
    model = student.model.model
    vision = model.vision_model
    return [vision.transformer, vision.global_transformer, model.multi_modal_projector, model.language_model.layers]


def learn_to_see(run: Run, stage: Stage) -> None:
    """Stage "see": trains the vision layers and the projector on patch labels."""
    student = run.student
    model = student.model.model
    parts = [(model.vision_model, 1.0), (model.multi_modal_projector, 1.0), (student.heads, 1.0)]

    def loss_of(batch: Any) -> tuple[Tensor, dict[str, float]]:
        pictures = batch.to(run.team.device)
        return student.patch_loss(student.see(pictures.tiles, pictures.ratio, pictures.filled), pictures.labels)

    optimizer = Optimizer(parts, layers(student), model.vision_model.patch_embedding, stage.rate, run.team)
    run.train(stage, optimizer, lambda size, seed: stream(PictureStream(size, seed, CROWDED, WRITTEN), run.team.workers), loss_of)


def learn_to_talk(run: Run, stage: Stage, tokenizer: Path) -> None:
    """Stage "talk": trains the whole model on conversations, lookups and patch labels. tokenizer: folder of tokenizer.json."""
    student = run.student
    weights = content_weights(Tokenizer(tokenizer), student.model.lm_head.out_features).to(run.team.device)

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
    """Normalised patches that show things, from 300 pictures: float32 [n, 3 * 14 * 14]."""
    from training.model import IMAGE_MEAN, IMAGE_STD, PATCH, TILE

    pictures = next(iter(PictureStream(300, f"patches/{seed}")))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    pixels = (pictures.tiles.float() / 255 - mean) / std
    side = TILE // PATCH
    patches = pixels.reshape(*pixels.shape[:3], side, PATCH, side, PATCH).permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
    return patches[pictures.labels[:, 0] > 0]


def make_checkpoint(team: Team, folder: Path, out: Path, minutes: float, batch: int, start: Path | None = None) -> None:
    """Runs or resumes both stages, then writes the checkpoint to `out`.

    Args:
        folder: Folder of the run. Holds tokenizer.json.
        minutes: Budget of both stages together.
        start: Checkpoint with the same tokenizer to start from, with lower learning rates; None for new weights.
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
