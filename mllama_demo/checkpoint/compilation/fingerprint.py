"""What a compiled model is made of. Two are interchangeable when all of it is equal, and not otherwise.

Reads JSON, headers and samples of weights, never whole weights, and asks for the SDK's versions without importing it.
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
from mllama_demo.config.neuron import InstanceType

# Of what the demo itself changes in NxDI's model before it is compiled (backend/neuron_sdk.py). Raise it when that changes.
CORRECTIONS = 1
# Whatever takes part in turning the model's code into a graph for the device. Beside them, transformers only reads config.json.
SDK_PACKAGES = (
    "neuronx-distributed-inference",
    "neuronx-distributed",
    "neuronx-cc",
    "torch-neuronx",
    "torch-xla",
    "libneuronxla",
    "torch",
)
# Variables that NxDI and the compiler read by themselves.
VARIABLES = ("NEURON_CC_FLAGS", "NEURON_LOGICAL_NC_CONFIG")
_SAMPLES, _SAMPLE_BYTES = 64, 4096


def ingredients(checkpoint: CheckpointInfo, values: Mapping[str, Any], instance: InstanceType) -> dict[str, Any]:
    """All that a compiled model depends on, as JSON. values: see backend.neuron_config.neuron_values."""
    return {
        "model": json.loads((checkpoint.path / "config.json").read_bytes()),
        "weights": {name: _sample(checkpoint.path / name) for name in checkpoint.weight_files},
        "neuron": dict(values),
        "platform": instance.partition(".")[0].removesuffix("n"),
        "sdk": sdk_versions(),
        "environment": {name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        "corrections": CORRECTIONS,
    }


def fingerprint(made_of: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that differ when anything in it differs."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


def sdk_versions() -> dict[str, str | None]:
    """The installed version of each package, None for one that is not there."""
    return {name: _version(name) for name in SDK_PACKAGES}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In words, each value that is not the same: "neuron.batch_size is 2 there and 4 here"."""
    theirs, ours = dict(_leaves(there)), dict(_leaves(here))
    found, weights = [], set()
    for key in dict.fromkeys((*ours, *theirs)):
        if theirs.get(key) == ours.get(key):
            continue
        if key.startswith("weights."):  # digests, which say nothing to people
            weights.add(key.split(".", 1)[1].rpartition(".")[0])
        else:
            found.append(f"{key} is {_shown(theirs.get(key))} there and {_shown(ours.get(key))} here")
    if weights:
        found.append(f"{len(weights)} weight files have other contents ({min(weights)} for one)")
    return found


def _sample(file: Path) -> dict[str, Any]:
    """The size and a digest of the header and of pieces all over the file: a model tuned further has other numbers everywhere,
    and reading all of them would take minutes at every start."""
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


def _shown(value: Any) -> str:
    text = "missing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
