"""A grid as a YAML file, with its picture: read, checked, and the first thing that is wrong said by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mllama_demo.config import Settings
from mllama_demo.errors import BadRequest, ConfigError, ImageError
from mllama_demo.explore.grid import Grid, make_grid
from mllama_demo.images import LoadedImage, load_image, size_text

MAX_SPEC_BYTES = 2**20


@dataclass(frozen=True)
class Spec:
    """image: a path, or an http, https or data URL, as written; None for none. folder: where its path begins."""

    grid: Grid
    image: str | None
    folder: Path


def read_spec(path: Path, settings: Settings) -> Spec:
    """The grid in a YAML file; what it leaves out has the deployment's value. Raises ConfigError."""
    try:
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise ConfigError(f"The grid {path} is larger than {size_text(MAX_SPEC_BYTES)}.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The grid {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that does not exist
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"The grid {path} is not valid YAML{place}: {problem}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"The grid {path} must be a mapping with a prompt, got {type(content).__name__}.")
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
    source, limits = spec.image, settings.image_limits
    if source is None:
        return None
    if "://" in source or source[:5].lower() == "data:":
        from mllama_demo.fetch import fetch_image

        return fetch_image(source, limits, allowed_hosts=settings.allowed_media_hosts)
    try:
        path = spec.folder / Path(source).expanduser()
        if not path.is_file():  # a pipe would be waited for, and a device never ends
            raise ImageError(f"The image {path} is no file; a path, or an http, https or data URL is allowed.")
        if path.stat().st_size > limits.max_bytes:
            raise ImageError(f"The image {path} is too large; at most {size_text(limits.max_bytes)} are allowed.")
        return load_image(path.read_bytes(), path.name, limits)
    except (OSError, ValueError, RuntimeError) as error:  # a character or a ~user that no path can have
        raise ImageError(f"The image {source:.200} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
