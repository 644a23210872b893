"""The inputs of a compilation and their fingerprint. Compiled models with equal inputs are interchangeable.

Reads JSON, headers and samples of the weights, and the versions of the SDK's packages; imports no package of the SDK.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.neuron import InstanceType, family_of

# Version of the demo's own changes to NxDI's model (engine/neuron/sdk.py). Raise it when these change.
CORRECTIONS = 1
# The packages that turn the model's code into a graph for the device. transformers only reads config.json.
SDK_PACKAGES = (
    "neuronx-distributed-inference",
    "neuronx-distributed",
    "neuronx-cc",
    "torch-neuronx",
    "torch-xla",
    "libneuronxla",
    "torch",
)
# Environment variables that NxDI and the compiler read.
VARIABLES = ("NEURON_CC_FLAGS", "NEURON_LOGICAL_NC_CONFIG")
_SAMPLES, _SAMPLE_BYTES = 64, 4096


def compilation_inputs(checkpoint: CheckpointInfo, values: Mapping[str, Any], instance: InstanceType) -> dict[str, Any]:
    """All that a compiled model depends on, as JSON. values: those of engine.neuron.config.neuron_values."""
    return {
        "model": json.loads((checkpoint.path / "config.json").read_bytes()),
        "weights": weight_records(checkpoint),
        "neuron": dict(values),
        "platform": family_of(instance),
        "sdk": sdk_versions(),
        "environment": {name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        "corrections": CORRECTIONS,
    }


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that differ when any input differs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def sdk_versions() -> dict[str, str | None]:
    """The installed version of each package, None for one that is not there."""
    return {name: _version(name) for name in SDK_PACKAGES}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Each value that differs, in words, such as "neuron.batch_size is 2 there and 4 here"."""
    theirs, ours = dict(_leaves(there)), dict(_leaves(here))
    found, weights = [], set()
    for key in dict.fromkeys((*ours, *theirs)):
        if theirs.get(key) == ours.get(key):
            continue
        if key.startswith("weights."):  # a digest has no meaning for a reader
            weights.add(key.split(".", 1)[1].rpartition(".")[0])
        else:
            found.append(f"{key} is {_shortened_json(theirs.get(key))} there and {_shortened_json(ours.get(key))} here")
    if weights:
        found.append(f"{len(weights)} weight files have other contents ({min(weights)} for one)")
    return found


def weight_records(checkpoint: CheckpointInfo) -> dict[str, Any]:
    """By the name of each weight file, its size and a digest of samples: as recorded, where the weights are not here."""
    if checkpoint.identity is not None:
        return dict(checkpoint.identity.files)
    return {name: _sample(checkpoint.path / name) for name in checkpoint.weight_files}


def weights_digest(checkpoint: CheckpointInfo) -> str:
    """16 hexadecimal digits that differ for other weights. Tells no name of a file or folder."""
    found = sorted(json.dumps(record) for record in weight_records(checkpoint).values())
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _sample(file: Path) -> dict[str, Any]:
    """The size of a weight file, and a digest of its header and of samples from all over the file.

    A fine-tuned model differs everywhere, and reading whole files would take minutes at every start.
    """
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        start = stream.read(8)
        digest.update(start + stream.read(int.from_bytes(start, "little")))
        data = stream.tell()
        for piece in range(_SAMPLES):
            stream.seek(data + (size - data) * piece // _SAMPLES)
            digest.update(stream.read(_SAMPLE_BYTES))
        stream.seek(max(data, size - _SAMPLE_BYTES))
        digest.update(stream.read())
    return {"bytes": size, "sampled": digest.hexdigest()[:32]}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _shortened_json(value: Any) -> str:
    text = "missing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
