"""Where a checkpoint is downloaded to: the cache of the hub, which other programs share, or a folder."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.download.hub import RemoteFile, Repository
from mllama_demo.config.hub_cache import repository_folder
from mllama_demo.errors import DownloadError
from mllama_demo.runtime.whole_file import whole_file

RECORD = "mllama-demo-download.json"
PARTIAL = ".mllama-demo-partial"


class Destination(ABC):
    """The place of a repository's files.

    Attributes:
        root: the folder that one download at a time may write to.
        checkpoint: the folder with the files under their names.
    """

    root: Path
    checkpoint: Path

    def __init__(self, repository: Repository, root: Path, checkpoint: Path) -> None:
        self.repository, self.root, self.checkpoint = repository, root, checkpoint

    @abstractmethod
    def is_whole(self, file: RemoteFile) -> bool:
        """Whether a file is there already."""

    @abstractmethod
    def partial(self, file: RemoteFile) -> Path:
        """The partial file, on the same disk."""

    @abstractmethod
    def path(self, file: RemoteFile) -> Path:
        """A file that is whole."""

    @abstractmethod
    def complete(self, file: RemoteFile) -> None:
        """Gives a whole partial file its name."""

    def finish(self) -> None:
        """Called when all files are whole. Writes the record of the repository and the commit beside them."""
        self._write_record({file.name: file.digest for file in self.repository.files})

    def _write_record(self, files: dict[str, str]) -> None:
        repository = self.repository
        content = {"repository": repository.name, "revision": repository.revision, "commit": repository.commit, "files": files}
        _replace(self.checkpoint / RECORD, json.dumps(content, indent=2) + "\n")


class CacheDestination(Destination):
    """The cache of the hub, in the layout that huggingface_hub reads."""

    def __init__(self, repository: Repository, cache: Path) -> None:
        root = repository_folder(repository.name, cache)
        super().__init__(repository, root, root / "snapshots" / repository.commit)

    def is_whole(self, file: RemoteFile) -> bool:
        return any(path.is_file() and path.stat().st_size == file.bytes for path in (self._blob(file), self._link(file)))

    def partial(self, file: RemoteFile) -> Path:
        return self._blob(file).with_name(file.digest + PARTIAL)

    def path(self, file: RemoteFile) -> Path:
        return self._blob(file) if self._blob(file).is_file() else self._link(file)

    def complete(self, file: RemoteFile) -> None:
        self.partial(file).replace(self._blob(file))

    def finish(self) -> None:
        """Links the files into the snapshot only now, so that no program finds an incomplete one."""
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        for file in self.repository.files:
            link, blob = self._link(file), self._blob(file)
            if link.is_file() and link.stat().st_size == file.bytes:
                continue
            link.unlink(missing_ok=True)
            try:
                link.symlink_to(os.path.relpath(blob, link.parent))
            except OSError:  # a disk without symbolic links; huggingface_hub moves the file as well
                blob.replace(link)
        super().finish()
        if self.repository.revision != self.repository.commit:
            reference = self.root / "refs" / self.repository.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            _replace(reference, self.repository.commit)

    def _blob(self, file: RemoteFile) -> Path:
        return self.root / "blobs" / file.digest

    def _link(self, file: RemoteFile) -> Path:
        return self.checkpoint / file.name


class FolderDestination(Destination):
    """A folder of the user. Its record says which files came from a download, so that no other file is overwritten."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        super().__init__(repository, folder, folder)
        record = _read(folder / RECORD)
        if record and record.get("repository") != repository.name:
            raise DownloadError(f"{folder} holds {record.get('repository')} already; name another folder with --to.")
        files = record.get("files")
        self._known: dict[str, str] = dict(files) if isinstance(files, dict) else {}

    def is_whole(self, file: RemoteFile) -> bool:
        """Whether the file is there. Reads a file of the right size that is not in the record, to compare its digest."""
        path = self.checkpoint / file.name
        if not path.is_file():
            return False
        if path.stat().st_size == file.bytes:
            if self._known.get(file.name) == file.digest:
                return True
            if file.name not in self._known and _digest(path, file) == file.digest:
                return True
        if file.name not in self._known:
            raise DownloadError(
                f"{path} is there already and is not that of {self.repository.name}; name another folder with --to."
            )
        return False

    def partial(self, file: RemoteFile) -> Path:
        return self.checkpoint / f"{file.name}.{file.digest[:12]}{PARTIAL}"

    def path(self, file: RemoteFile) -> Path:
        return self.checkpoint / file.name

    def complete(self, file: RemoteFile) -> None:
        self.partial(file).replace(self.path(file))
        self._known[file.name] = file.digest
        self._write_record(self._known)

    def finish(self) -> None:
        for leftover in self.checkpoint.glob("*" + PARTIAL):  # of another revision
            leftover.unlink()
        super().finish()


def _digest(path: Path, file: RemoteFile) -> str:
    digest = file.new_digest()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _replace(path: Path, text: str) -> None:
    """Writes a small file, whole or not at all."""
    with whole_file(path) as stream:
        stream.write(text.encode())
