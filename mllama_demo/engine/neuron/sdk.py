"""The door to neuronx-distributed-inference (NxDI), which exists on Neuron instances only: imported when asked for, corrected
where its compiled graph would otherwise be wrong, and missed in one sentence.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from mllama_demo.config.neuron import NO_SDK
from mllama_demo.errors import ConfigError

_PACKAGE = "neuronx_distributed_inference"


def import_nxdi(module: str) -> Any:
    """A module of NxDI by its name within the package. Raises ConfigError where NxDI is missing or does not import."""
    try:
        return importlib.import_module(f"{_PACKAGE}.{module}")
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise _broken(error) from error
        raise ConfigError(NO_SDK) from None
    except Exception as error:
        raise _broken(error) from error


def _broken(error: Exception) -> ConfigError:
    cause = str(error) or type(error).__name__
    return ConfigError(
        f"The AWS Neuron SDK of this environment cannot be imported; reinstall it as one set of versions ({cause})."
    )


def mllama_module() -> Any:
    """NxDI's modeling_mllama, with aspect ratio ids that can be compiled. The only way to its model classes, so that no model
    is ever compiled without them."""
    # NxDI looks the ids up in Python lists while the graph is traced. That makes them constants: those of the example input,
    # one tile, whatever image comes later.
    import_nxdi("models.mllama.modeling_mllama_vision").convert_aspect_ratios_to_ids = aspect_ratio_ids
    return import_nxdi("models.mllama.modeling_mllama")


def aspect_ratio_ids(aspect_ratios: torch.Tensor, max_tiles: int) -> torch.Tensor:
    """The ids of (rows, columns) pairs [..., 2], int32 [...], by table look-up: the shapes of up to max_tiles tiles are
    numbered from 1 by rows, then columns. Other pairs have no id, and no error in a graph could say so."""
    table, next_id = [], 1
    for rows in range(1, max_tiles + 1):
        for columns in range(1, max_tiles + 1):
            legal = rows * columns <= max_tiles
            table.append(next_id if legal else 0)
            next_id += legal
    rows, columns = aspect_ratios[..., 0], aspect_ratios[..., 1]
    index = (rows - 1) * max_tiles + (columns - 1)
    ids = torch.tensor(table, dtype=torch.int32, device=aspect_ratios.device)
    return ids.index_select(0, index.flatten()).reshape(index.shape)
