"""A grid as a YAML file, with its picture: read, checked, and the first thing that is wrong said by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.config.settings import Settings
from mllama_demo.config.yaml_file import parse_mapping, read_file
from mllama_demo.errors import BadRequest, ConfigError
from mllama_demo.explore.grid import Grid, make_grid
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.sources import open_picture

MAX_SPEC_BYTES = 2**20


@dataclass(frozen=True)
class Spec:
    """image: a path, or an http, https or data URL, as written; None for none. folder: where its path begins."""

    grid: Grid
    image: str | None
    folder: Path


def read_spec(path: Path, settings: Settings) -> Spec:
    """The grid in a YAML file; what it leaves out has the deployment's value. Raises ConfigError."""
    what = f"The grid {path}"
    content = parse_mapping(read_file(path, what, MAX_SPEC_BYTES), what, "with a prompt")
    values: dict[str, Any] = {str(key): value for key, value in content.items() if value is not None}
    image = values.pop("image", None)
    if image is not None and (not isinstance(image, str) or not image.strip()):
        raise ConfigError(f"The grid {path}: image must be a path, or an http, https or data URL, got {image!r:.80}.")
    sampling = settings.sampling
    defaults = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    try:
        return Spec(make_grid({**defaults, **values}), image, path.parent)
    except BadRequest as error:
        raise ConfigError(f"The grid {path}: {error}") from None


def open_image(spec: Spec, settings: Settings) -> LoadedImage | None:
    """The picture of a spec, the operator's own file or behind an address. Raises ImageError."""
    if spec.image is None:
        return None
    return open_picture(spec.image, spec.folder, settings)
