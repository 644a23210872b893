"""The command `download`: gets a checkpoint from the Hugging Face hub, into its cache or into a folder, and checks it.

The only part of the program that fetches weights. hub.py asks what there is, transfer.py fetches it, destination.py places it.
"""

from __future__ import annotations

import json
import shlex
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mllama_demo.checkpoint.download.destination import CacheDestination, Destination, FolderDestination
from mllama_demo.checkpoint.download.hub import EXAMPLE, RemoteFile, Repository, look_up
from mllama_demo.checkpoint.download.transfer import disk_errors_explained, fetch_all, fetch_file, partial_bytes
from mllama_demo.checkpoint.machine import free_bytes
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.config.hub_cache import cache_folder, find_checkpoint
from mllama_demo.config.option_types import expand_home
from mllama_demo.errors import CheckpointError, DownloadError
from mllama_demo.runtime.console import INTERRUPTED_EXIT_CODE, report_error
from mllama_demo.runtime.process import exclusive_lock, sigterm_as_interrupt
from mllama_demo.runtime.words import counted

_BAR = "{desc}, {n_fmt}B of {total_fmt}B, {rate_fmt}, {remaining} left"


def main(repository: str, to: Path | None, revision: str) -> int:
    """The command `download`.

    Args:
        repository: the id of the repository, ORG/NAME.
        to: the folder to download into; None takes the cache of the hub.
        revision: a branch, a tag or a commit.

    Returns:
        The exit code: 0, or 130 when interrupted.

    Raises:
        DownloadError: the checkpoint cannot be downloaded.
        CheckpointError: what was downloaded is no checkpoint that can be used.
    """
    try:
        with sigterm_as_interrupt():
            found = look_up(repository, revision)
            destination = CacheDestination(found, cache_folder()) if to is None else FolderDestination(found, expand_home(to))
            with disk_errors_explained(destination.checkpoint):
                destination.root.mkdir(parents=True, exist_ok=True)
                with exclusive_lock(destination.root, "Another download"):
                    _download(found, destination)
    except KeyboardInterrupt:
        report_error("The download was interrupted; the same command resumes it.")
        return INTERRUPTED_EXIT_CODE
    info = check_checkpoint(destination.checkpoint)
    files = counted(len(info.weight_files), "file")
    _print(f"Checked: {info.parameters:,} parameters in {files}, every tensor in its place.")
    _print(f"Revision {found.commit} is in {destination.checkpoint}")
    _print(f"Serve it: {_serve_command(found, destination)}")
    return 0


def _download(repository: Repository, destination: Destination) -> None:
    """Fetches what is missing: config.json first, because it shows whether the model can be used at all."""
    missing = [file for file in repository.files if not destination.is_whole(file)]
    total = sum(file.bytes for file in repository.files)
    parts = sum(min(partial_bytes(destination.partial(file)), file.bytes) for file in missing)
    there = total - sum(file.bytes for file in missing) + parts
    _print(f"{repository.name}, revision {repository.revision}, is commit {repository.commit}.")
    _print(f"{len(repository.files)} files, {_size(total)}, into {destination.checkpoint}")
    if not missing:
        _print("Every file is there already.")
    elif there:
        _print(f"{_size(there)} are there already.")
    _check_space(destination, total - there)
    with _Progress(len(repository.files), missing, there, total) as progress:

        def fetch(file: RemoteFile, stop: threading.Event) -> None:
            fetch_file(repository, file, destination.partial(file), progress.advance, stop)

        def complete(file: RemoteFile) -> None:
            destination.complete(file)
            progress.complete(file)

        config = next(file for file in repository.files if file.name == "config.json")
        if config in missing:
            fetch_all([config], fetch, complete)
        _check_type(repository, destination.path(config))
        fetch_all([file for file in missing if file is not config], fetch, complete)
    destination.finish()


def _check_space(destination: Destination, needed: int) -> None:
    free = free_bytes(destination.root)
    if free < needed:
        raise DownloadError(
            f"The download needs {_size(needed)} on the disk of {destination.root}, where {_size(free)} are free; make room, or "
            "name a folder on another disk with --to."
        )


def _check_type(repository: Repository, config: Path) -> None:
    try:
        kind = json.loads(config.read_bytes()).get("model_type")
    except (ValueError, AttributeError):
        raise DownloadError(
            f"The config.json of {repository.name} is no JSON object, so that no model can be read from it."
        ) from None
    if kind != "mllama":
        raise DownloadError(
            f"{repository.name} is a model of type {kind!r}; this demo needs 'mllama', as {EXAMPLE} is. Its weights were "
            "not fetched."
        )


class _Progress:
    """One line that changes where stderr is a terminal, else a line for each file."""

    def __init__(self, files: int, missing: Sequence[RemoteFile], there: int, total: int) -> None:
        self._files, self._complete = files, files - len(missing)
        self._lock = threading.Lock()
        # tqdm shows nothing in a terminal that reports no size, so it gets one.
        self._bar = tqdm(
            desc=f"{self._complete} of {self._files} files",
            total=total,
            initial=there,
            unit="B",
            unit_scale=True,
            bar_format=_BAR,
            file=sys.stderr,
            disable=None,
            leave=False,
            ncols=100,
            nrows=24,
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """Counts bytes; called by several threads."""
        with self._lock:
            self._bar.update(count)

    def complete(self, file: RemoteFile) -> None:
        """Counts a file."""
        self._complete += 1
        if self._bar.disable:
            _print(f"{file.name} ({self._complete} of {self._files}, {_size(file.bytes)})")
        with self._lock:
            self._bar.set_description_str(f"{self._complete} of {self._files} files")


def _serve_command(repository: Repository, destination: Destination) -> str:
    """The command that serves the checkpoint: by the repository's id where that means the same snapshot."""
    by_name = Path(repository.name)
    try:
        path = by_name if find_checkpoint(by_name) == destination.checkpoint else destination.checkpoint
    except CheckpointError:  # the cache has several snapshots, and none is that of main
        path = destination.checkpoint
    program = "mllama-demo serve" if Path(sys.argv[0]).name == "mllama-demo" else "python app.py"
    return f"{program} --model-path {shlex.quote(str(path))}"


def _size(count: int) -> str:
    return next(
        (f"{count / unit:,.1f} {name}" for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= unit), f"{count} B"
    )


def _print(line: str) -> None:
    print(line, flush=True)
