"""The picture files behind the chat: what comes in with a question, what the page shows, what goes back into the input.

The page shows copies without metadata (a photo's EXIF may hold a place). All files are gone with the process.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from gradio.processing_utils import hash_file, save_file_to_cache
from gradio.utils import get_upload_folder

from mllama_demo.chat.conversation import ImageRef
from mllama_demo.errors import BadRequest
from mllama_demo.generation.service import GenerationService
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.fetch import fetch_image
from mllama_demo.images.loading import LoadedImage, load_image, size_text
from mllama_demo.images.transforms import preview, side_by_side
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.ui.tile_view import NOTHING, TileViews


class ImageFiles:
    """Files below one temporary folder, named by the digest of their picture. Safe to use from several threads."""

    def __init__(self, answerer: GenerationService, store: ConversationStore, allowed_media_hosts: list[str] | None) -> None:
        self._answerer = answerer
        self._store = store
        self._allowed_media_hosts = allowed_media_hosts
        self._sights = TileViews(lambda: answerer.backend.info)
        self.folder = Path(tempfile.mkdtemp(prefix="mllama-demo-"))

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def take(self, path: Path) -> ImageRef:
        """Checks and stores an uploaded file. Raises BadRequest or ImageError with a sentence."""
        return self._store.put_image(self._read(path))

    def join(self, images: Sequence[ImageRef]) -> ImageRef:
        """Stores several images side by side as one. Raises ImageError when that breaks the limits."""
        return self._store.put_image(side_by_side([self._answerer.load(image) for image in images], self._answerer.limits))

    def load(self, image: ImageRef) -> LoadedImage:
        """A stored image, decoded."""
        return self._answerer.load(image)

    def sight(self, image: ImageRef | None) -> str:
        """HTML: what the model sees of a stored image."""
        return NOTHING if image is None else self._sights.html(image.digest, image.name, lambda: self._answerer.load(image))

    def sight_of(self, paths: Sequence[Path], seen: ImageRef | None, joined: bool) -> str:
        """The same for files that are about to be sent, none of which is stored yet. joined: side by side, after `seen`."""
        images = [self._read(path) for path in paths]
        image = images[-1]
        if joined:
            image = side_by_side([self._answerer.load(seen), *images] if seen else images, self._answerer.limits)
        return self._sights.html(image.digest, image.name, lambda: image)

    def export(self, name: str, content: str) -> str:
        """The path of a text file to download, in Gradio's folder, where it is removed in time as an upload is."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / name
            path.write_bytes(content.encode("utf-8"))
            return save_file_to_cache(path, get_upload_folder())

    def _read(self, path: Path) -> LoadedImage:
        limits = self._answerer.limits
        try:
            # The size first, so that a huge upload is never read into memory.
            if path.stat().st_size > limits.max_bytes:
                raise BadRequest(f"{path.name} is too large; at most {size_text(limits.max_bytes)} are allowed.")
            data = path.read_bytes()
        except OSError:
            raise BadRequest(f"{path.name} is no longer there; please add it again.") from None
        return load_image(data, path.name, limits)

    def fetch(self, url: str) -> str:
        """Fetches an image from a web address; the path of the file to attach to a question."""
        url = (url or "").strip()
        if not url:
            raise BadRequest("Enter the address of an image, beginning with http:// or https://.")
        return self._attachment(fetch_image(url, self._answerer.limits, allowed_hosts=self._allowed_media_hosts))

    def shown(self, image: ImageRef) -> str:
        """The path of what the page shows."""
        path = self.folder / "shown" / image.digest / "preview.webp"
        if not path.exists():
            _write(path, preview(self._answerer.load(image)))
        return str(path)

    def original(self, image: ImageRef) -> str:
        """The path of the file as it came, to be attached to a question again."""
        return self._attachment(self._answerer.load(image))

    def discard(self, digest: str) -> None:
        """Removes the files of a picture, and Gradio's copies of them."""
        for folder in (self.folder / kind / digest for kind in ("shown", "attached")):
            for path in folder.glob("*"):
                _remove_copies(path)
            shutil.rmtree(folder, ignore_errors=True)
        self._sights.discard(digest)
        self._answerer.discard(digest)

    def discard_upload(self, path: Path) -> None:
        """Removes a file that came with a page, if it is one: an example that was clicked is not."""
        if path.is_file() and path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            _remove_copies(path)

    def _attachment(self, image: LoadedImage) -> str:
        path = self.folder / "attached" / image.digest / _file_name(image)
        _write(path, image.data)
        return str(path)


def _remove_copies(path: Path) -> None:
    """Of a file in Gradio's folder, where each has a folder named by its content. The examples' copies stay."""
    content = hash_file(path)
    if content not in {hash_file(example) for example in EXAMPLES_FOLDER.iterdir() if example.is_file()}:
        shutil.rmtree(Path(get_upload_folder()) / content, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    """Written aside and moved into place: another visitor may be reading the same picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / uuid.uuid4().hex
    aside.write_bytes(data)
    aside.replace(path)


def _file_name(image: LoadedImage) -> str:
    stem = "".join(c if c.isalnum() or c in "-_. " else "_" for c in Path(image.name).stem)[:60].strip(". ") or "image"
    return f"{stem}.{image.format.lower()}"
