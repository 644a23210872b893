"""The training loop and its stages.

Stage "see" trains the vision layers on patch labels. Stage "talk" trains the whole model on conversations. Stage "finish" does so
from a copy of an unfinished run, and ends it early. The state is saved regularly and after a stage, so that a stopped run can be
resumed. curve.jsonl gets a line every LOG_EVERY steps.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mllama_demo.chat.tokenizer import Tokenizer
from training.batches import PictureStream, stream
from training.dialogue import TalkStream, content_weights
from training.export import export
from training.model import FLOAT32_ATTENTION, Student, make_config, whiten_patches
from training.optimizer import Optimizer
from training.plan import Plan
from training.team import Team
from training.warm_start import start_from

LOG_EVERY = 20
CURVE = "curve.jsonl"
STOP_FILE = "stop"  # a file of this name in the folder of a run saves the state and stops the run
WARM_UP_STEPS = 30
KEPT = 0.8  # share of the running means that each line of the curve keeps; they decide when a stage has reached its goals
CLIP_SECONDS = 30.0  # longest step that counts against the budget; a longer one means that the machine was suspended


@dataclass(frozen=True)
class Stage:
    """A stage of the training.

    Attributes:
        minutes: Budget of computing time.
        rate: Highest learning rate.
        batch: Pictures per step, over all processes.
        decay: Last share of the budget, in which the learning rate falls to zero.
        until: Figures of the curve at which the stage ends before its budget is spent.
        goes_on: Other stages whose optimizer state fits this one.
    """

    name: str
    minutes: float
    rate: float
    batch: int
    seed: int
    decay: float = 0.4
    until: Mapping[str, float] = field(default_factory=dict)
    goes_on: tuple[str, ...] = ()


def learning_rate(stage: Stage, step: int, spent_s: float) -> float:
    """The learning rate: rises over WARM_UP_STEPS, is constant, and falls linearly to 1 % in the last share of the budget."""
    left = max(0.0, 1 - spent_s / (60 * stage.minutes))
    falling = min(1.0, left / stage.decay + 0.01) if stage.decay else 1.0
    return stage.rate * min(1.0, (step + 1) / WARM_UP_STEPS) * falling


def _clock(device: torch.device) -> Callable[[], float]:
    """The clock of the budget, in seconds. On a CPU that others use too, only the time of the training itself counts."""
    return time.process_time if device.type == "cpu" else time.monotonic


class Run:
    """A training run: the student and its progress, saved in `folder` as state.pt and curve.jsonl.

    Attributes:
        pause_at: The time on time.monotonic at which the run saves its state and stops; infinite for never.
        paused: Whether it has stopped so.
    """

    def __init__(self, folder: Path, student: Student, team: Team, save_every_s: float = 120.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.student, self.team, self.save_every_s = folder, student.to(team.device), team, save_every_s
        self.pause_at, self.paused = math.inf, False
        self.done: list[str] = []
        self.stage, self.step, self.spent_s = "", 0, 0.0
        self.took_s: dict[str, float] = {}  # seconds of each finished stage
        self.started = False  # whether the weights came from a checkpoint
        self.means: dict[str, float] = {}
        self._optimizer_state: Any = None
        if (folder / "state.pt").exists():
            self.load(folder / "state.pt")

    def load(self, path: Path) -> None:
        """Loads a saved state."""
        state = torch.load(path, map_location=self.team.device, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.done, self.stage, self.step, self.spent_s = state["done"], state["stage"], state["step"], state["spent_s"]
        self.took_s, self.started, self.means = state["took_s"], state["started"], state["means"]
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
            "took_s": self.took_s,
            "started": self.started,
            "means": self.means,
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
        """Runs or resumes a stage until its minutes are spent or its goals are reached.

        Args:
            batches: Returns an endless stream of batches for a batch size and a seed. The length of a batch is its rows.
            loss_of: Returns the loss of a batch and figures for the curve.
        """
        if stage.name in self.done or self.paused:
            return
        if self._optimizer_state and self.stage in (stage.name, *stage.goes_on):
            optimizer.load_state_dict(self._optimizer_state)
        if self.stage != stage.name:
            self.stage, self.step, self.spent_s, self.means = stage.name, 0, 0.0, {}
        self._optimizer_state = None
        # The step in the seed gives a resumed run new pictures.
        source = batches(self.team.share(stage.batch), f"{stage.name}/{stage.seed}/{self.step}/{self.team.rank}")
        sums: dict[str, list[float]] = defaultdict(list)
        clock = _clock(self.team.device)
        saved = marked = time.monotonic()
        before = clock()
        self.student.train()
        while self.spent_s < 60 * stage.minutes and not self._reached(stage):
            rate = learning_rate(stage, self.step, self.spent_s)
            batch = next(source)
            with self.team.autocast():
                loss, figures = loss_of(batch)
            loss.backward()
            # The mean over all processes of gradients and time gives every process the same step and learning rate.
            spent = clock() - before
            self.spent_s += self.team.average(optimizer.params, len(batch), min(spent, CLIP_SECONDS))
            before += spent
            optimizer.step(rate)
            self.step += 1
            for name, value in {"loss": loss.item(), **figures}.items():
                sums[name].append(value)
            now = time.monotonic()
            if self.step % LOG_EVERY == 0:
                self._note(stage, sums)
                self._log(stage, rate, LOG_EVERY * stage.batch / (now - marked), sums)
                marked = now
                sums.clear()
                if self._should_pause(now):
                    self.paused = True
                    self.save(optimizer)
                    return
            if now - saved > self.save_every_s:
                self.save(optimizer)
                saved = now
        self.done.append(stage.name)
        self.took_s[stage.name] = self.spent_s
        # The next stage may go on with the momenta.
        self.save(optimizer)
        self._optimizer_state = optimizer.state_dict()

    def _should_pause(self, now: float) -> bool:
        """Whether any process has reached `pause_at` or sees the stop file. All ask together and stop after the same step."""
        wanted = now >= self.pause_at or (self.folder / STOP_FILE).exists()
        (many,) = self.team.add_up([torch.tensor(float(wanted))])
        return bool(many > 0)

    def _note(self, stage: Stage, sums: Mapping[str, list[float]]) -> None:
        """Updates the running means of the figures that the stage waits for, over all processes."""
        own = torch.tensor([sum(sums[name]) / len(sums[name]) if sums[name] else 0.0 for name in stage.until])
        if not len(own):
            return
        (total,) = self.team.add_up([own])
        for name, value in zip(stage.until, (total / self.team.size).tolist(), strict=True):
            self.means[name] = KEPT * self.means[name] + (1 - KEPT) * value if name in self.means else (1 - KEPT) * value

    def _reached(self, stage: Stage) -> bool:
        return bool(stage.until) and all(self.means.get(name, 0.0) >= share for name, share in stage.until.items())

    def _log(self, stage: Stage, rate: float, speed: float, sums: dict[str, list[float]]) -> None:
        if self.team.rank:
            return
        line = {"stage": stage.name, "step": self.step, "minutes": round(self.spent_s / 60, 2), "rate": round(rate, 6)}
        line |= {"pictures_per_s": round(speed, 1)}
        line |= {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
        text = json.dumps(line)
        print(text, flush=True)
        with (self.folder / CURVE).open("a") as file:
            file.write(text + "\n")


# --- the stages ----------------------------------------------------------------------------------------------------------


def layers(student: Student) -> list[nn.Module]:
    """The modules whose matrices Muon trains."""
    model = student.model.model
    vision = model.vision_model
    return [vision.transformer, vision.global_transformer, model.multi_modal_projector, model.language_model.layers]


def learn_to_see(run: Run, stage: Stage, plan: Plan) -> None:
    """Stage "see": trains the vision layers and the projector on patch labels."""
    student = run.student
    model = student.model.model
    parts = [(model.vision_model, 1.0), (model.multi_modal_projector, 1.0), (student.heads, 1.0)]

    def loss_of(batch: Any) -> tuple[Tensor, dict[str, float]]:
        pictures = batch.to(run.team.device)
        return student.patch_loss(student.see(pictures.tiles, pictures.ratio, pictures.filled), pictures.labels)

    optimizer = Optimizer(parts, layers(student), model.vision_model.patch_embedding, stage.rate, run.team)
    run.train(stage, optimizer, lambda size, seed: stream(PictureStream(size, seed, plan.see.wants), run.team.workers), loss_of)


def learn_to_talk(run: Run, stage: Stage, plan: Plan, tokenizer: Path) -> None:
    """Stages "talk" and "finish": train the whole model on conversations, lookups and patch labels.

    Args:
        tokenizer: Folder of tokenizer.json.
    """
    student, talk_plan = run.student, plan.talk
    weights = content_weights(Tokenizer(tokenizer), student.model.lm_head.out_features).to(run.team.device)
    rests_s = 0.0 if stage.goes_on else talk_plan.vision_rests * 60 * stage.minutes

    def loss_of(batch: Any) -> tuple[Tensor, dict[str, float]]:
        talk = batch.to(run.team.device)
        if talk.pictures is None:
            loss = student.talk_loss(talk.ids, talk.labels, talk.positions, weights=weights)
            return loss, {"without_picture": loss.item()}
        resting = run.spent_s < rests_s
        with torch.set_grad_enabled(not resting):
            states = student.see(talk.pictures.tiles, talk.pictures.ratio, talk.pictures.filled)
        filled = talk.pictures.filled
        loss = student.talk_loss(
            talk.ids, talk.labels, talk.positions, talk.image_at, states[talk.picture], filled[talk.picture], weights
        )
        listening, heard = student.lookup_loss(talk.lookups)
        figures = {"about_picture": loss.item(), **heard}
        loss = loss + talk_plan.listening * listening
        if resting:
            return loss, figures
        seeing, right = student.patch_loss(states, talk.pictures.labels)
        return loss + talk_plan.seeing * seeing, {**figures, **right}

    model = student.model.model
    share = talk_plan.vision_share
    parts = [
        (model.vision_model, share),
        (model.multi_modal_projector, share),
        (student.heads, share),
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


def new_student(plan: Plan, tokenizer: Path, team: Team) -> Student:
    """A student with random weights. tokenizer: folder of tokenizer.json."""
    special = Tokenizer(tokenizer).special_id
    ends = (special("<|begin_of_text|>"), special("<|eot_id|>"), special("<|finetune_right_pad_id|>"))
    slow = team.bfloat16 and team.device.type == "cpu"
    return Student(make_config(plan.size, plan.vocabulary, *ends), FLOAT32_ATTENTION if slow else "sdpa")


def copy_of(folder: Path, student: Student, team: Team, save_every_s: float = 120.0) -> Run:
    """The run in folder/finish: a copy of the run in `folder` as it is now, or an earlier copy that is not finished."""
    run = Run(folder / "finish", student, team, save_every_s)
    if run.stage != "finish" or "finish" in run.done:
        run.load(folder / "state.pt")
        if team.rank == 0 and (folder / CURVE).exists():
            shutil.copyfile(folder / CURVE, run.folder / CURVE)
    return run


def make_checkpoint(
    team: Team, folder: Path, out: Path, plan: Plan, start: Path | None = None, finish: float = 0.0, pause: float = math.inf
) -> None:
    """Runs or resumes the stages, then writes the checkpoint to `out`.

    Args:
        folder: Folder of the run. Holds tokenizer.json.
        start: Checkpoint whose weights a new run starts from, with lower learning rates; None for new weights.
        finish: Minutes in which a copy of the run is finished; 0 to run the plan to its end.
        pause: Minutes of the clock after which the state is saved and no checkpoint is written.
    """
    pause_at = time.monotonic() + 60 * pause
    torch.manual_seed(plan.seed)
    batch = plan.batch[team.device.type]
    student = new_student(plan, folder, team)
    if finish:
        run = copy_of(folder, student, team, plan.save_every_s)
        run.pause_at = pause_at
        talk_rate = plan.talk.started_rate if run.started else plan.talk.rate
        stage = Stage("finish", finish, talk_rate, batch, plan.seed, decay=1.0, goes_on=("talk",))
        learn_to_talk(run, stage, plan, folder)
    else:
        run = Run(folder, student, team, plan.save_every_s)
        run.pause_at = pause_at
        fresh = not run.step and not run.done
        if start is not None and fresh:
            start_from(run.student, folder / "tokenizer.json", start)
            run.started = True
        elif fresh:
            whiten_patches(run.student, _patches(plan.seed).to(team.device))
        see_rate, talk_rate = (plan.see.started_rate, plan.talk.started_rate) if run.started else (plan.see.rate, plan.talk.rate)
        see = Stage("see", plan.see.share * plan.minutes, see_rate, batch, plan.seed, plan.decay, plan.see.until)
        learn_to_see(run, see, plan)
        if run.paused:
            return
        left = plan.minutes - run.took_s["see"] / 60  # what seeing has left of its budget goes to talking
        learn_to_talk(run, Stage("talk", left, talk_rate, batch, plan.seed, plan.decay), plan, folder)
    if team.rank == 0 and not run.paused:
        export(run.student, folder / "tokenizer.json", out)
