"""The image files behind the chat: uploads that become images of questions, previews for the page, and files to download.

The page shows previews without metadata, because a photo's EXIF data may name a place. All files are deleted with the process,
those of questions that are not sent after UNSENT_LIFETIME_S. Nobody can tell the path of a file from its content: the names are
digests with a key that the process draws.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from mllama_demo.chat.conversation import ImageRef
from mllama_demo.errors import BadRequest
from mllama_demo.generation.service import GenerationService
from mllama_demo.images.loading import LoadedImage, load_image, size_text
from mllama_demo.images.threads import image_at, in_image_thread
from mllama_demo.images.transforms import full_size, preview, side_by_side
from mllama_demo.runtime.temporary import TemporaryFolder
from mllama_demo.runtime.whole_file import whole_file
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.ui.gradio_patches.cached_files import delete_from_cache, is_in_cache, put_in_cache
from mllama_demo.ui.tile_view import TileViews

UNSENT_LIFETIME_S = 2 * 3600.0  # as Gradio's copies of them, see ChatPage


class ImageFiles:
    """Files below one temporary folder, in folders named by the digest of their image. Safe to use from several threads."""

    def __init__(self, generation: GenerationService, store: ConversationStore, allowed_media_hosts: list[str] | None) -> None:
        self._generation = generation
        self._store = store
        self._allowed_media_hosts = allowed_media_hosts
        self._tile_views = TileViews(lambda: generation.backend.info)
        self._temporary = TemporaryFolder()
        self._key = secrets.token_bytes(32)
        self._digests: dict[str, str] = {}  # of the previews, by the names of their folders
        # The folders of previews of uploads and of files to attach: since when, and for whom. The oldest come first.
        self._unsent: OrderedDict[Path, tuple[float, frozenset[str]]] = OrderedDict()
        self._unsent_lock = threading.Lock()
        self.folder = self._temporary.path

    def close(self) -> None:
        self._temporary.close()

    def _name(self, digest: str) -> str:
        """The name of the folders for the image with this digest."""
        return hmac.new(self._key, digest.encode(), hashlib.sha256).hexdigest()

    def store_upload(self, path: Path) -> ImageRef:
        """Checks and stores an uploaded file. Raises BadRequest or ImageError with a sentence for the visitor."""
        return self._store.put_image(self._read(path))

    def join(self, images: Sequence[ImageRef]) -> ImageRef:
        """Stores several images side by side as one. Raises ImageError when the result exceeds the limits."""
        joined = side_by_side([self._generation.load(image) for image in images], self._generation.limits)
        return self._store.put_image(joined)

    def load(self, image: ImageRef) -> LoadedImage:
        """A stored image, decoded."""
        return self._generation.load(image)

    def tile_view(self, image: ImageRef) -> str:
        """HTML: what the model sees of a stored image."""
        return self._tile_views.html(image.digest, image.name, lambda: self.load(image))

    def check(self, path: Path, owner: str) -> str:
        """The address of a preview of an uploaded image, for the owner. Raises BadRequest or ImageError with a sentence."""
        data = self._bytes_of(path)
        name = self._name(hashlib.sha256(data).hexdigest())
        shown = self.upload_preview_file(name)
        if not shown.exists():  # a file that has a preview was decoded before
            _write(shown, preview(load_image(data, path.name, self._generation.limits), max_side=256))
        self._keep_for_a_while(shown.parent, owner)
        return f"gradio_api/file={quote(str(shown))}"

    def uploaders(self, name: str) -> frozenset[str]:
        """Who has uploaded the image whose upload preview is in the folder of this name."""
        with self._unsent_lock:
            return self._unsent.get(self.upload_preview_file(name).parent, (0.0, frozenset[str]()))[1]

    def upload_preview_file(self, name: str) -> Path:
        return self.folder / "uploaded" / name / "preview.webp"

    def tile_view_of_uploads(self, paths: Sequence[Path], seen: ImageRef | None, joined: bool) -> str:
        """HTML: what the model would see of uploaded images. joined: of all of them side by side, after `seen`.

        Raises:
            BadRequest, ImageError: An image cannot be read, or all of them side by side are too large.
        """
        if joined:
            images = [self._read(path) for path in paths]
            image = side_by_side([self.load(seen), *images] if seen else images, self._generation.limits)
        else:
            image = self._read(paths[-1])
        return self._tile_views.html(image.digest, image.name, lambda: image)

    def export(self, name: str, content: str) -> str:
        """The path of a text file to download."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder) / name
            path.write_bytes(content.encode("utf-8"))
            return put_in_cache(path)

    async def fetch(self, url: str) -> str:
        """Fetches an image from a web address; the path of the file to attach to a question."""
        url = (url or "").strip()
        if not url:
            raise BadRequest("Enter the address of an image, beginning with http:// or https://.")
        image = await image_at(url, self._generation.limits, self._allowed_media_hosts)
        return await in_image_thread(self._write_original, image)

    def preview(self, image: ImageRef) -> str:
        """The path of the WebP file that the page shows."""
        name = self._name(image.digest)
        path = self.preview_file(name)
        if not path.exists():
            self._digests[name] = image.digest
            _write(path, preview(self.load(image)))
        return str(path)

    def digest_of_preview(self, name: str) -> str | None:
        """The digest of the image whose preview is in the folder of this name; None where there is none."""
        return self._digests.get(name)

    def preview_file(self, name: str) -> Path:
        return self.folder / "shown" / name / "preview.webp"

    def full_size(self, image: ImageRef) -> tuple[bytes, str]:
        """A stored image in full size, without metadata, and the media type of these bytes. They are not kept."""
        data, suffix = full_size(self.load(image))
        return data, "image/png" if suffix == "png" else "image/jpeg"

    def original(self, image: ImageRef) -> str:
        """The path of the file as it was uploaded, to be attached to a question again."""
        return self._write_original(self.load(image))

    def discard(self, digest: str) -> None:
        """Deletes the files of an image, and Gradio's copies of them."""
        name = self._name(digest)
        self._digests.pop(name, None)
        for folder in (self.folder / kind / name for kind in ("shown", "attached", "uploaded")):
            for path in folder.glob("*"):
                delete_from_cache(path)
            self._delete(folder)
        self._tile_views.discard(digest)
        self._generation.discard(digest)

    def discard_upload(self, path: Path) -> None:
        """Deletes an uploaded file. A path outside Gradio's folder, such as that of an example image, is left alone."""
        if is_in_cache(path):
            name = self._name(hashlib.sha256(path.read_bytes()).hexdigest())
            self._delete(self.upload_preview_file(name).parent)
            delete_from_cache(path)

    def _read(self, path: Path) -> LoadedImage:
        return load_image(self._bytes_of(path), path.name, self._generation.limits)

    def _bytes_of(self, path: Path) -> bytes:
        limits = self._generation.limits
        try:
            # The size is checked before the file is read: a huge upload must not fill the memory.
            if path.stat().st_size > limits.max_bytes:
                raise BadRequest(f"{path.name} is too large; at most {size_text(limits.max_bytes)} are allowed.")
            return path.read_bytes()
        except OSError:
            raise BadRequest(f"{path.name} is no longer there; please add it again.") from None

    def _write_original(self, image: LoadedImage) -> str:
        path = self.folder / "attached" / self._name(image.digest) / _file_name(image)
        _write(path, image.data)
        self._keep_for_a_while(path.parent)
        return str(path)

    def _keep_for_a_while(self, folder: Path, *owners: str) -> None:
        """Deletes the folder UNSENT_LIFETIME_S after the last call for it."""
        now, old = time.monotonic(), []
        with self._unsent_lock:
            _, known = self._unsent.pop(folder, (now, frozenset[str]()))
            self._unsent[folder] = now, known.union(owners)
            for other, (since, _) in self._unsent.items():
                if now - since <= UNSENT_LIFETIME_S:
                    break
                old.append(other)
        for other in old:
            self._delete(other)

    def _delete(self, folder: Path) -> None:
        with self._unsent_lock:
            self._unsent.pop(folder, None)
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    """Writes a file as a whole: another page may be reading the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(data)


def _file_name(image: LoadedImage) -> str:
    stem = "".join(c if c.isalnum() or c in "-_. " else "_" for c in Path(image.name).stem)[:60].strip(". ") or "image"
    return f"{stem}.{image.format.lower()}"
