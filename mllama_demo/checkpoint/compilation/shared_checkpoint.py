"""The small files of a checkpoint in S3, with the identity of its weights: a compiled model needs nothing more of a checkpoint.

A checkpoint is known there by its name (hub_cache.checkpoint_name). Its record is written once, after the files that it names,
which are stored by their digests.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.compilation.artifacts import TOKENIZER_AND_PROCESSOR
from mllama_demo.checkpoint.compilation.fingerprint import weight_records
from mllama_demo.checkpoint.compilation.shared_artifacts import SharedArtifacts, shared_at
from mllama_demo.checkpoint.validate import CheckpointInfo, check_checkpoint
from mllama_demo.checkpoint.weights_identity import FILE, WeightsIdentity, has_weights
from mllama_demo.config.hub_cache import checkpoint_name
from mllama_demo.config.settings import Settings
from mllama_demo.errors import CheckpointError, ConfigError
from mllama_demo.runtime.whole_file import whole_file

_FOLDER = "checkpoints"


def checkpoint_of(settings: Settings) -> CheckpointInfo:
    """Checks the checkpoint of a configuration. Where backend neuron shares compiled models in S3, the weights may be missing.

    Small files that are missing too are written into the folder of the checkpoint.

    Raises:
        CheckpointError: the folder cannot be used.
        ConfigError: S3 cannot be used.
    """
    found = _shared_record(settings)
    if found is not None:
        _fetch(*found, settings.model_path, settings.model_path)
    return check_checkpoint(settings.model_path, weights_needed=settings.backend != "neuron")


@contextmanager
def look_up_checkpoint(settings: Settings) -> Iterator[CheckpointInfo]:
    """As checkpoint_of, but changes nothing: a folder that lacks small files is a temporary one until the block ends."""
    found = _shared_record(settings)
    if found is None:
        yield check_checkpoint(settings.model_path, weights_needed=settings.backend != "neuron")
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / checkpoint_name(settings.model_path)
        _fetch(*found, settings.model_path, folder)
        yield check_checkpoint(folder, weights_needed=False)


def _shared_record(settings: Settings) -> tuple[SharedArtifacts, dict[str, Any]] | None:
    """Where S3 has what the folder of the checkpoint lacks, and its record. None where the folder lacks nothing.

    Raises:
        CheckpointError: the folder cannot be used, and S3 has none of its name.
    """
    path = settings.model_path
    shared = shared_at(settings.compiled_artifacts) if settings.backend == "neuron" else None
    try:
        here = has_weights(path) or (path / FILE).exists() or path.is_file()
    except OSError:  # as the check of the folder says
        here = True
    if shared is None or here:
        return None
    name = checkpoint_name(path)
    record = _read(shared, name)
    if record is not None:
        return shared, record
    try:
        check_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{str(error).rstrip('.')}; {shared.url} has no checkpoint named {name} either.") from None
    return None


def share_checkpoint(shared: SharedArtifacts, checkpoint: CheckpointInfo) -> None:
    """Puts the small files of a checkpoint and the identity of its weights into S3, unless they are there.

    Raises:
        ConfigError: S3 has another checkpoint of the same name, or cannot be used.
    """
    identity = WeightsIdentity(weight_records(checkpoint), checkpoint.parameters, checkpoint.dtype)
    bodies = {
        name: (checkpoint.path / name).read_bytes() for name in TOKENIZER_AND_PROCESSOR if (checkpoint.path / name).is_file()
    }
    record = {"files": {name: _digest(body) for name, body in bodies.items()}, "weights": identity.as_json()}
    there = _read(shared, checkpoint.name)
    if there is None:
        for body in bodies.values():
            shared.write(f"{_FOLDER}/{_digest(body)}", body)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        if shared.write(f"{_FOLDER}/{checkpoint.name}.json", text.encode()) is not None:
            return
        there = _read(shared, checkpoint.name)
    if there != record:
        raise ConfigError(
            f"{shared.url} has another checkpoint of the name {checkpoint.name}, so that other machines cannot load this one "
            "without its weights; rename the folder of one of the two."
        )


def _read(shared: SharedArtifacts, name: str) -> dict[str, Any] | None:
    """The record of a checkpoint; None where S3 has none of this name."""
    found = shared.read(f"{_FOLDER}/{name}.json")
    if found is None:
        return None
    place = f"{shared.url}/{_FOLDER}/{name}.json"
    try:
        record = json.loads(found[0])
        files = record["files"]
        if not all(file in TOKENIZER_AND_PROCESSOR and isinstance(digest, str) for file, digest in files.items()):
            raise ValueError
        weights = WeightsIdentity.of_json(record["weights"], place)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{place} does not describe a checkpoint; remove it.") from None
    return {"files": files, "weights": weights.as_json()}


def _fetch(shared: SharedArtifacts, record: Mapping[str, Any], path: Path, folder: Path) -> None:
    """Writes the small files into `folder`, those that `path` has after a comparison. The identity of the weights comes last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, digest in record["files"].items():
            if (path / name).exists():
                body = (path / name).read_bytes()
                if _digest(body) != digest:
                    raise CheckpointError(
                        f"{path / name} is not that of the checkpoint {checkpoint_name(path)} in {shared.url}, from which the "
                        "compiled models there were made, and the weights of another one are not here; remove that file, or "
                        "download the whole checkpoint."
                    )
            else:
                found = shared.read(f"{_FOLDER}/{digest}")
                if found is None or _digest(found[0]) != digest:
                    place = f"{shared.url}/{_FOLDER}/{checkpoint_name(path)}.json"
                    raise CheckpointError(f"{name} of {place} is missing or damaged in S3; remove {place}.")
                body = found[0]
            _write(folder / name, body)
        _write(folder / FILE, (json.dumps(record["weights"], indent=1) + "\n").encode())
    except OSError as error:
        text = f"{error.filename or folder} cannot be written or read ({error.strerror})"
        raise CheckpointError(f"The small files of the checkpoint are in {shared.url}, but {text}.") from None


def _write(file: Path, body: bytes) -> None:
    """Writes a file at once, unless it is there. Other machines may write it into a shared folder at the same time."""
    if file.exists():
        return
    with whole_file(file) as stream:
        stream.write(body)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
