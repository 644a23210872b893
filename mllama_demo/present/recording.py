"""The recorded answers of a rehearsal. Present mode shows them, with their date, when the model fails.

Recordings are saved in the data folder, because the folder of the scenarios may be read-only. A recording beside the scenario,
NAME.recording.json, is used if the data folder has none.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import mllama_demo
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from mllama_demo.present.spec import Scenario
from mllama_demo.runtime.whole_file import whole_file

INCOMPLETE = ("error", "cancelled", "time_limit")
NOT_SAVED = "Not recorded: a step has no whole answer, so that the earlier recording stays."


class RecordedStep(BaseModel):
    """One answer. `fingerprint` is Scenario.fingerprint of the step. `problems` has the expectations that are not met."""

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
        """Whether the answer ended by itself or at max_tokens."""
        return self.reason not in INCOMPLETE


class Recording(BaseModel):
    """The answers of one rehearsal, by index of the step. `recorded` is the start of the rehearsal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: str
    recorded: datetime
    model: str
    backend: str
    device: str
    version: str = mllama_demo.__version__
    steps: dict[int, RecordedStep] = Field(default_factory=dict)

    def step(self, scenario: Scenario, index: int) -> RecordedStep | None:
        """The complete answer to the step as it is now; None if the step was changed, or has no complete answer."""
        step = self._current(scenario, index)
        return step if step is not None and step.complete else None

    def is_incomplete(self, scenario: Scenario, index: int) -> bool:
        """Whether the step as it is now was asked and has no complete answer."""
        step = self._current(scenario, index)
        return step is not None and not step.complete

    def _current(self, scenario: Scenario, index: int) -> RecordedStep | None:
        step = self.steps.get(index)
        return step if step is not None and step.fingerprint == scenario.fingerprint(index) else None

    @property
    def date(self) -> str:
        """Such as 25 November 2026."""
        return f"{self.recorded.day} {self.recorded:%B %Y}"


def now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


def recording_path(scenario: Scenario, settings: Settings) -> Path:
    """The file in the data folder."""
    return settings.data_dir / "recordings" / f"{scenario.name}.json"


def write_recording(path: Path, recording: Recording) -> None:
    """Replaces the file as a whole. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write((recording.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"The recording {path} cannot be written: {error.strerror}.") from None


def save_recording(path: Path, recording: Recording, scenario: Scenario, settings: Settings) -> bool:
    """Writes the recording, unless that would lose a complete answer of the recording in use.

    The recording in use may be the one beside the scenario. A recording that cannot be read is not replaced by an incomplete one.

    Returns:
        Whether the recording was written.
    """
    if not all(step.complete for step in recording.steps.values()):
        try:
            earlier = find_recording(scenario, settings) if path == recording_path(scenario, settings) else _read_if_file(path)
        except ConfigError:
            return False
        steps = range(len(scenario.steps))
        if earlier and any(earlier.step(scenario, index) and not recording.step(scenario, index) for index in steps):
            return False
    write_recording(path, recording)
    return True


def _read_if_file(path: Path) -> Recording | None:
    return read_recording(path) if path.is_file() else None


def read_recording(path: Path) -> Recording:
    """Raises ConfigError for a file that is not a recording."""
    try:
        return Recording.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is no recording of this program"
        raise ConfigError(f"The recording {path} cannot be read: {problem}.") from None


def find_recording(scenario: Scenario, settings: Settings) -> Recording | None:
    """The recording in the data folder, or else the one beside the scenario. Raises ConfigError."""
    return _read_if_file(recording_path(scenario, settings)) or _read_if_file(scenario.path.with_suffix(".recording.json"))
