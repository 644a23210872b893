"""The pictures of a batch or a grid: the operator's own files, or addresses, each through the demo's one door for images."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from mllama_demo.config.settings import Settings
from mllama_demo.errors import ImageError
from mllama_demo.images.loading import LoadedImage, load_image, size_text


def open_picture(source: str, folder: Path, settings: Settings) -> LoadedImage:
    """The image at a path below folder (or an absolute one), or behind an http, https or data: URL. Raises ImageError."""
    limits = settings.image_limits
    if is_address(source):
        from mllama_demo.images.fetch import fetch_image

        return fetch_image(source, limits, allowed_hosts=settings.allowed_media_hosts)
    try:
        path = path_of(source, folder)
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, and a device never ends
            raise ImageError(f"The image {path} is no file; a path, or an http, https or data URL is allowed.")
        if found.st_size > limits.max_bytes:
            allowed = f"at most {size_text(limits.max_bytes)} are allowed"
            raise ImageError(f"The image {path} is too large ({size_text(found.st_size)}); {allowed}.")
        return load_image(path.read_bytes(), path.name, limits)
    except (OSError, ValueError, RuntimeError) as error:  # a character or a ~user that no path can have
        raise ImageError(f"The image {source:.200} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def is_address(source: str) -> bool:
    """Whether it is a URL of any kind, so that fetch_image says which kinds are allowed, and no path."""
    return "://" in source or source[:5].lower() == "data:"


def path_of(source: str, folder: Path) -> Path:
    return folder / Path(source).expanduser()


def digest_of(source: str, folder: Path) -> str | None:
    """sha-256 of the file as it is now, hex; None for an address or a file that cannot be read."""
    if is_address(source):
        return None
    try:
        return hashlib.sha256(path_of(source, folder).read_bytes()).hexdigest()
    except (OSError, ValueError, RuntimeError):
        return None
