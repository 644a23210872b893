"""Reads a grid and its image from a YAML file. Error messages name the first wrong value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.config.settings import Settings
from mllama_demo.config.yaml_file import parse_mapping, read_file
from mllama_demo.errors import BadRequest, ConfigError
from mllama_demo.explore.grid import Grid, make_grid
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.sources import read_image

MAX_SPEC_BYTES = 2**20


@dataclass(frozen=True)
class GridSpec:
    """A grid file.

    Attributes:
        image: a path, or an http, https or data URL; None without an image.
        folder: a relative path of the image starts here.
    """

    grid: Grid
    image: str | None
    folder: Path


def read_spec(path: Path, settings: Settings) -> GridSpec:
    """Reads a YAML file. Sampling values that it omits have the defaults of the settings. Raises ConfigError."""
    what = f"The grid {path}"
    content = parse_mapping(read_file(path, what, MAX_SPEC_BYTES), what, "with a prompt")
    values: dict[str, Any] = {str(key): value for key, value in content.items() if value is not None}
    image = values.pop("image", None)
    if image is not None and (not isinstance(image, str) or not image.strip()):
        raise ConfigError(f"The grid {path}: image must be a path, or an http, https or data URL, got {image!r:.80}.")
    sampling = settings.sampling
    defaults = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    try:
        return GridSpec(make_grid({**defaults, **values}), image, path.parent)
    except BadRequest as error:
        raise ConfigError(f"The grid {path}: {error}") from None


def load_spec_image(spec: GridSpec, settings: Settings) -> LoadedImage | None:
    """Loads the image of a grid file from a file or an address. Raises ImageError."""
    if spec.image is None:
        return None
    return read_image(spec.image, spec.folder, settings.image_limits, settings.allowed_media_hosts)
