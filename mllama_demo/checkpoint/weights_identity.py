"""The identity of a checkpoint's weights, in a small file that stands for them where only a compiled model is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mllama_demo.errors import CheckpointError

FILE = "weights-identity.json"


@dataclass(frozen=True)
class WeightsIdentity:
    """What is known of weights that are on another machine.

    Attributes:
        files: by the name of each weight file, its size ("bytes") and a digest of samples ("sampled").
        parameters, dtype: as those of CheckpointInfo.
    """

    files: Mapping[str, Mapping[str, Any]]
    parameters: int
    dtype: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of_json(content: Any, place: str) -> WeightsIdentity:
        """Raises CheckpointError for what as_json did not make. place: where it is from."""
        try:
            files = {str(name): {"bytes": int(r["bytes"]), "sampled": str(r["sampled"])} for name, r in content["files"].items()}
            return WeightsIdentity(files, int(content["parameters"]), str(content["dtype"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CheckpointError(f"{place} does not tell the identity of the weights; remove it.") from None


def has_weights(path: Path) -> bool:
    """Whether a folder has any file of weights, in whatever layout."""
    return any(file.suffix in (".safetensors", ".bin", ".pth", ".gguf") for file in path.glob("*"))


def read_identity(path: Path) -> WeightsIdentity | None:
    """The identity in a folder without weights; None where the folder has weights or no such file."""
    file = path / FILE
    if has_weights(path) or not file.is_file():
        return None
    try:
        return WeightsIdentity.of_json(json.loads(file.read_bytes()), str(file))
    except ValueError:
        raise CheckpointError(f"{file} does not tell the identity of the weights; remove it.") from None
