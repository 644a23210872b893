"""Finds a checkpoint in the cache of the Hugging Face hub, by the name of its repository. Uses no network.

The cache has a folder `models--ORG--NAME` for each repository. Its folder `snapshots` has a folder for each commit, whose files
are symbolic links into its folder `blobs`; the files in its folder `refs` hold the commits of branches.
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mllama_demo.errors import CheckpointError

SMALL_FILES = "small-files"  # the name of the snapshot of a repository whose weights are on other machines
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository_id(path: Path) -> bool:
    """Whether a path is written like the id of a repository: ORG/NAME."""
    return bool(_REPOSITORY.fullmatch(str(path)))


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of the cache, by the environment variables that huggingface_hub reads.

    A copy of the rule in huggingface_hub.constants, because importing that package takes longer than all other checks.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    folder = environ.get("HF_HUB_CACHE", environ.get("HUGGINGFACE_HUB_CACHE", str(Path(home) / "hub")))
    return Path(os.path.expandvars(os.path.expanduser(folder)))  # noqa: PTH111 - as huggingface_hub does


def repository_folder(repository: str, cache: Path) -> Path:
    """The folder of a repository in the cache."""
    return cache / f"models--{repository.replace('/', '--')}"


def repository_of(folder: Path) -> str | None:
    """The repository whose folder in a cache has this name; None for any other folder."""
    kind, _, name = folder.name.partition("--")
    organisation, _, model = name.partition("--")
    return f"{organisation}/{model}" if kind == "models" and organisation and model else None


def repository_of_snapshot(folder: Path) -> str | None:
    """The repository whose snapshot in a cache this folder is, or would be; None for any other folder."""
    return repository_of(folder.parent.parent) if folder.parent.name == "snapshots" else None


def checkpoint_name(path: Path) -> str:
    """The name of the folder, which need not exist; for a snapshot in the cache, the name of the model."""
    path = path.resolve()
    return (repository_of_snapshot(path) or path.name).rpartition("/")[2]


def new_snapshot(path: Path, environ: Mapping[str, str] | None = None) -> Path:
    """The folder in the cache for the small files of a repository that the cache lacks, where its weights are not needed.

    Args:
        path: as for find_checkpoint, which finds the folder from then on.

    Returns:
        The path itself if it is no id of a repository, or is or may become that of a folder, because its first part is one.
    """
    if not is_repository_id(path) or os.path.exists(path.parent):  # noqa: PTH110 - as in find_checkpoint
        return path
    return repository_folder(str(path), cache_folder(environ)) / "snapshots" / SMALL_FILES


def find_checkpoint(path: Path, environ: Mapping[str, str] | None = None) -> Path:
    """The folder of the checkpoint that `model_path` means.

    Args:
        path: a folder, a folder `models--ORG--NAME` of a cache or its folder `snapshots`, or a repository id. A folder of that
            name wins over the id.
        environ: the variables that name the cache; None takes os.environ.

    Returns:
        The snapshot in the cache: the one of the branch main, else the only one. The path itself when it is a plain folder or
        when nothing is in the cache.

    Raises:
        CheckpointError: the cache has several snapshots, and none is that of main.
    """
    if os.path.exists(path):  # noqa: PTH110 - unlike Path.exists it is false in a folder without permission
        whole = path.absolute()  # the last part of "." has no name
        of_cache = whole.parent if whole.name == "snapshots" else whole
        found = _snapshot(of_cache) if repository_of(of_cache) else None
    elif is_repository_id(path):
        found = _snapshot(repository_folder(str(path), cache_folder(environ)))
    else:
        found = None
    return found or path


def _snapshot(folder: Path) -> Path | None:
    try:
        snapshots = sorted(entry for entry in (folder / "snapshots").iterdir() if entry.is_dir())
        snapshots = [entry for entry in snapshots if entry.name != SMALL_FILES] or snapshots  # a download wins
    except OSError:
        return None
    try:
        main = folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        main = None
    if main in snapshots:
        return main
    if len(snapshots) > 1:
        names = ", ".join(entry.name for entry in snapshots)
        raise CheckpointError(f"{folder} has {len(snapshots)} snapshots ({names}), none of them of main; set model_path to one.")
    return snapshots[0] if snapshots else None
