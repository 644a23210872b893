"""Images that an operator names in a file or on the command line: paths, web addresses and data: URLs."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path

from mllama_demo.errors import ImageError
from mllama_demo.images.loading import ImageLimits, LoadedImage, load_image, size_text


def read_image(source: str, folder: Path, limits: ImageLimits, allowed_hosts: Sequence[str] | None) -> LoadedImage:
    """The image at a path, or behind an http, https or data: URL.

    Args:
        folder: the folder that relative paths start from.
        allowed_hosts: see fetch.fetch_bytes.
    Raises:
        ImageError: the source cannot be read, or is no allowed image.
    """
    if _is_url(source):
        from mllama_demo.images.fetch import fetch_image

        return fetch_image(source, limits, allowed_hosts=allowed_hosts)
    try:
        path = _path(source, folder)
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would block, and a device never ends
            raise ImageError(f"The image {path} is no file; a path, or an http, https or data URL is allowed.")
        if found.st_size > limits.max_bytes:
            allowed = f"at most {size_text(limits.max_bytes)} are allowed"
            raise ImageError(f"The image {path} is too large ({size_text(found.st_size)}); {allowed}.")
        return load_image(path.read_bytes(), path.name, limits)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a character that no path has; RuntimeError: ~nobody
        raise ImageError(f"The image {source:.80} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def file_digest(source: str, folder: Path) -> str | None:
    """The sha-256 of the file at a path, hex; None for a URL and for a file that cannot be read."""
    if _is_url(source):
        return None
    try:
        return hashlib.sha256(_path(source, folder).read_bytes()).hexdigest()
    except (OSError, ValueError, RuntimeError):
        return None


def _is_url(source: str) -> bool:
    """True for URLs of every scheme, so that fetch_image can name the allowed ones."""
    return "://" in source or source[:5].lower() == "data:"


def _path(source: str, folder: Path) -> Path:
    return folder / Path(source).expanduser()
