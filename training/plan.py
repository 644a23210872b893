"""The configuration of a training run: config.yaml, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import yaml

DEFAULT = Path(__file__).parent / "config.yaml"


class PlanError(Exception):
    """The configuration is wrong. The message is one sentence for the user."""


@dataclass(frozen=True)
class Size:
    """Widths and depths of the model. The text model has self_layers + cross_layers layers, the vision model local + global.

    Attributes:
        intermediate: Vision layers whose input goes to the projector too.
    """

    text_width: int = 192
    text_heads: int = 6
    text_kv_heads: int = 2
    text_mlp: int = 512
    self_layers: int = 4
    cross_layers: int = 2
    vision_width: int = 160
    vision_heads: int = 4
    local_layers: int = 6
    global_layers: int = 1
    intermediate: tuple[int, ...] = (1, 3)


@dataclass(frozen=True)
class See:
    """Stage "see".

    Attributes:
        share: Most of the minutes that the stage gets, as a share of all.
        until: The stage ends when each of these heads (labels.py) labels this share of its patches rightly.
        rate: Highest learning rate.
        started_rate: The same for a run that starts from a checkpoint.
        wants: Shares of pictures by what they are about (sampling.sample_scene).
    """

    share: float
    until: Mapping[str, float]
    rate: float
    started_rate: float
    wants: Mapping[str, float]


@dataclass(frozen=True)
class Talk:
    """Stage "talk".

    Attributes:
        vision_rests: First share of the stage in which the vision layers are frozen. The untrained text layers would spoil them.
        vision_share: Share of the learning rate for the vision layers after that.
        seeing: Loss weight of patch labels.
        listening: Loss weight of lookups.
    """

    rate: float
    started_rate: float
    vision_rests: float
    vision_share: float
    seeing: float
    listening: float


@dataclass(frozen=True)
class Plan:
    """A training run.

    Attributes:
        vocabulary: Number of tokens without the image token; also the id of the image token.
        minutes: Budget of computing time, all stages together.
        batch: Pictures per step over all processes, by type of device: "cpu" and "cuda".
        decay: Last share of a stage, in which the learning rate falls to zero.
        save_every_s: Seconds between two savings of the state.
    """

    seed: int
    vocabulary: int
    size: Size
    minutes: float
    batch: Mapping[str, int]
    see: See
    talk: Talk
    decay: float
    save_every_s: float


def read_plan(path: Path = DEFAULT) -> Plan:
    """Reads a configuration.

    Raises:
        PlanError: The file cannot be read, or an entry is missing, unknown, of another type or out of bounds.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise PlanError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    plan = _make(Plan, data, str(path))
    if problem := _problem(plan):
        raise PlanError(f"{path}: {problem}.")
    return plan


def _problem(plan: Plan) -> str:
    """What is out of bounds; empty for nothing."""
    from training.labels import HEADS  # the drawings, which --help does not need
    from training.sampling import SHARES

    see, talk = plan.see, plan.talk
    shares = {"see.share": see.share, "decay": plan.decay, "talk.vision_rests": talk.vision_rests}
    shares |= {f"see.until.{name}": value for name, value in see.until.items()}
    shares |= {"the sum of see.wants": round(sum(see.wants.values()), 9)}
    for name, value in shares.items():
        if value > 1:
            return f"{name} must be between 0 and 1, not {value}"
    for name, keys, known in (("see.until", see.until, HEADS), ("see.wants", see.wants, (*SHARES, "crowd"))):
        if unknown := sorted(set(keys) - set(known)):
            return f"{name} has {', '.join(unknown)}; it may have {', '.join(known)}"
    positive = {"minutes": plan.minutes, "vocabulary": plan.vocabulary, "see.rate": see.rate, "talk.rate": talk.rate}
    positive |= {"see.started_rate": see.started_rate, "talk.started_rate": talk.started_rate}
    positive |= {f"size.{name}": value for name, value in vars(plan.size).items() if name != "intermediate"}
    for name, value in positive.items():
        if value <= 0:
            return f"{name} must be more than 0, not {value}"
    if set(plan.batch) != {"cpu", "cuda"} or min(plan.batch.values()) < 2:
        return "batch must have cpu and cuda, each at least 2"
    return ""


def _make(kind: type[Any], data: Any, file: str, where: str = "") -> Any:
    """An instance of a dataclass from a mapping with exactly its fields. where: the names that lead to it, each with a point."""
    names = {field.name for field in fields(kind)}
    if not isinstance(data, dict) or set(data) != names:
        found = set(data) if isinstance(data, dict) else set()
        missing, unknown = sorted(names - found), sorted(map(str, found - names))
        place = f"{file}: {where.rstrip('.')}" if where else file
        raise PlanError(f"{place} must have exactly the entries of {kind.__name__}; missing: {missing}, unknown: {unknown}.")
    types = get_type_hints(kind)
    return kind(**{name: _value(types[name], value, file, f"{where}{name}") for name, value in data.items()})


def _value(kind: Any, value: Any, file: str, where: str) -> Any:
    """A value of a field of the type `kind`: a dataclass, a number of 0 or more, or a list or mapping of such numbers."""
    if is_dataclass(kind):
        return _make(cast("type[Any]", kind), value, file, f"{where}.")
    holder, inner = get_origin(kind), get_args(kind)
    if holder is tuple and isinstance(value, list):
        return tuple(_value(inner[0], each, file, where) for each in value)
    if holder is Mapping and isinstance(value, dict):
        return {str(name): _value(inner[1], each, file, f"{where}.{name}") for name, each in value.items()}
    if kind is int and type(value) is int and value >= 0:
        return value
    if kind is float and type(value) in (int, float) and 0 <= value < math.inf:
        return value
    wanted = {int: "a whole number of 0 or more", float: "a number of 0 or more", tuple: "a list of whole numbers"}
    raise PlanError(f"{file}: {where} must be {wanted.get(holder or kind, 'a mapping of names to numbers')}, not {value!r}.")
