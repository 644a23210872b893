"""Answers of a rehearsal, kept for the moment when the model fails on stage. A recording is never shown without its date.

Kept in the data folder, since the program's own folder may be read-only; one that lies beside the scenario, as
NAME.recording.json, is read where the data folder has none.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import mllama_demo
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from mllama_demo.present.spec import Scenario

BROKEN_OFF = ("error", "cancelled", "time_limit")
NOT_KEPT = "Not recorded: a step has no whole answer, so that the earlier recording stays."


class RecordedStep(BaseModel):
    """One answer. fingerprint: of the step, see Scenario.fingerprint. Times in seconds; problems: what was not as expected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str
    prompt: str
    answer: str
    reason: str
    seed: int | None = None
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float | None
    total_s: float
    tokens_per_second: float | None
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the model came to an end of its own or to max_tokens."""
        return self.reason not in BROKEN_OFF


class Recording(BaseModel):
    """The answers of one rehearsal, by number of the step. recorded: when it began."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: str
    recorded: datetime
    model: str
    backend: str
    device: str
    version: str = mllama_demo.__version__
    steps: dict[int, RecordedStep] = Field(default_factory=dict)

    def step(self, scenario: Scenario, index: int) -> RecordedStep | None:
        """The whole answer to the step as it is now; None when it was changed since, failed or was cut off."""
        found = self.steps.get(index)
        return found if found is not None and found.complete and found.fingerprint == scenario.fingerprint(index) else None

    def broke_off(self, scenario: Scenario, index: int) -> bool:
        """Whether the step as it is now was asked and got no whole answer."""
        found = self.steps.get(index)
        return found is not None and not found.complete and found.fingerprint == scenario.fingerprint(index)

    @property
    def date(self) -> str:
        """For people: 25 November 2026."""
        return f"{self.recorded.day} {self.recorded:%B %Y}"


def now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


def place_of(scenario: Scenario, settings: Settings) -> Path:
    """Where a rehearsal of this scenario is kept."""
    return settings.data_dir / "recordings" / f"{scenario.name}.json"


def write(path: Path, recording: Recording) -> None:
    """Replaces the file at once or not at all. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(recording.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"The recording {path} cannot be written: {error.strerror}.") from None


def keep(path: Path, recording: Recording, scenario: Scenario, settings: Settings) -> bool:
    """Writes it, unless a step has no whole answer in it and one in the recording whose place it would take; whether it did.

    That may be the one beside the scenario, since the data folder's is preferred to it. One that cannot be read stays too.
    """
    if not all(step.complete for step in recording.steps.values()):
        try:
            earlier = recording_of(scenario, settings) if path == place_of(scenario, settings) else _at(path)
        except ConfigError:
            return False
        steps = range(len(scenario.steps))
        if earlier and any(earlier.step(scenario, index) and not recording.step(scenario, index) for index in steps):
            return False
    write(path, recording)
    return True


def _at(path: Path) -> Recording | None:
    return read(path) if path.is_file() else None


def read(path: Path) -> Recording:
    """Raises ConfigError for a file that is none of ours."""
    try:
        return Recording.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is no recording of this program"
        raise ConfigError(f"The recording {path} cannot be read: {problem}.") from None


def recording_of(scenario: Scenario, settings: Settings) -> Recording | None:
    """The newest rehearsal, or the one that came with the scenario; None without any. Raises ConfigError."""
    return _at(place_of(scenario, settings)) or _at(scenario.path.with_suffix(".recording.json"))
