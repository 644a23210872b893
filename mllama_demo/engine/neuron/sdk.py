"""Imports neuronx-distributed-inference (NxDI) and corrects one function of it that would compile to a wrong graph.

NxDI is installed on Neuron instances only, so the import happens at the first call. A missing NxDI raises a ConfigError.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from mllama_demo.config.neuron import NO_SDK
from mllama_demo.errors import ConfigError

_PACKAGE = "neuronx_distributed_inference"


def import_nxdi(module: str) -> Any:
    """Imports a module of NxDI by its name inside the package. Raises ConfigError when NxDI is missing or broken."""
    try:
        return importlib.import_module(f"{_PACKAGE}.{module}")
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise _import_failure(error) from error
        raise ConfigError(NO_SDK) from None
    except Exception as error:
        raise _import_failure(error) from error


def _import_failure(error: Exception) -> ConfigError:
    cause = str(error) or type(error).__name__
    return ConfigError(
        f"The AWS Neuron SDK of this environment cannot be imported; reinstall it as one set of versions ({cause})."
    )


def mllama_module() -> Any:
    """Returns NxDI's modeling_mllama after replacing its aspect ratio ids. Model classes must come from here only."""
    # While the graph is traced, NxDI 0.9 looks the ids up in Python lists. The graph then holds the ids of the example input (one
    # tile) as constants, whatever the image is.
    import_nxdi("models.mllama.modeling_mllama_vision").convert_aspect_ratios_to_ids = aspect_ratio_ids
    return import_nxdi("models.mllama.modeling_mllama")


def aspect_ratio_ids(aspect_ratios: torch.Tensor, max_tiles: int) -> torch.Tensor:
    """Returns the ids of tile layouts, by a table look-up that can be traced.

    Layouts of up to max_tiles tiles are numbered from 1, by rows and then columns. Other layouts are not checked, because a
    compiled graph cannot raise an error.

    Args:
        aspect_ratios: [..., 2], rows and columns.

    Returns:
        int32 [...].
    """
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
