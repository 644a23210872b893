"""Folders of compiled models: where one belongs, whether it is what is needed, and how a new one comes to be at one stroke.

An artifact says beside its files, in compiled-from.json, what it was made of. One that does not say so, says something else or
has lost a file is never used. Knows nothing of how a model is compiled.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.compilation.fingerprint import differences, fingerprint
from mllama_demo.errors import ConfigError
from mllama_demo.runtime.process import exclusive_lock, remove_if_abandoned

VARIABLE = "NEURON_COMPILED_ARTIFACTS"  # vLLM's, which names the artifact itself
MODEL_FILE, NEURON_CONFIG = "model.pt", "neuron_config.json"  # NxDI's names
MANIFEST = "compiled-from.json"
COMPILING = ".compiling"
# What a tokenizer and an image processor are loaded from, in any version of transformers; copied into the artifact.
TOKENIZER_AND_PROCESSOR = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
_HASHED = 2**20  # bytes; up to this size contents count, and not the size alone


@dataclass(frozen=True)
class Place:
    """Where the artifact belongs. named: by the environment variable, and not by its fingerprint."""

    folder: Path
    named: bool


def place(root: Path, made_of: Mapping[str, Any], environ: Mapping[str, str]) -> Place:
    """root: the folder of all artifacts of this model."""
    if environ.get(VARIABLE):
        return Place(Path(environ[VARIABLE]).expanduser().absolute(), named=True)
    return Place(root / fingerprint(made_of), named=False)


def is_made_of(place: Place, made_of: Mapping[str, Any]) -> bool:
    """True for a whole artifact made of exactly this, False where there is none yet. Raises ConfigError, which says what is
    different, for a folder that holds anything else."""
    folder = place.folder
    remedy = f"let {VARIABLE} name another folder, or unset it" if place.named else "remove that folder, and it is compiled anew"
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and no folder of a compiled model; name another place.")
    found = read_manifest(folder)
    if found is None:
        raise ConfigError(
            f"{folder} does not say what it was compiled from (it has no readable {MANIFEST}), so it cannot be trusted; {remedy}."
        )
    if unlike := differences(found["made_of"], made_of):
        raise ConfigError(f"The compiled model in {folder} is another one: {few(unlike)}; {remedy}.")
    if damage := _damage(folder, found["files"]):
        raise ConfigError(f"The compiled model in {folder} is damaged ({damage}); {remedy}.")
    return True


def closest(root: Path, made_of: Mapping[str, Any]) -> tuple[Path, list[str]] | None:
    """Of the artifacts in root that cannot be used, the one with the fewest differences, and these."""
    found = []
    with contextlib.suppress(OSError):
        for folder in sorted(root.iterdir()):
            manifest = None if folder.name.endswith(COMPILING) else read_manifest(folder)
            if manifest is not None:
                found.append((folder, differences(manifest["made_of"], made_of)))
    return min(found, key=lambda item: len(item[1]), default=None)


def few(words: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = f", and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the artifact says of itself; None when it says nothing that can be understood."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        return content if isinstance(content["made_of"], dict) and isinstance(content["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_manifest(folder: Path, made_of: Mapping[str, Any], seconds: float) -> None:
    """The last file of an artifact: names all others."""
    content = {
        "fingerprint": fingerprint(made_of),
        "compiled_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds),
        "made_of": made_of,
        "files": {str(file.relative_to(folder)): _measure(file) for file in sorted(folder.rglob("*")) if file.is_file()},
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_tokenizer_and_processor(checkpoint: Path, folder: Path) -> None:
    for name in TOKENIZER_AND_PROCESSOR:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)


@contextlib.contextmanager
def new_artifact(target: Place) -> Iterator[Path]:
    """A working folder beside the target, where "artifact" is to be filled; it gets the target's name at the end, at one stroke,
    and nothing of the working folder is left, whatever happens. What a killed process left there is removed first.

    Raises ConfigError while another process compiles the same, or where nothing can be written.
    """
    if target.folder.is_mount():
        raise ConfigError(f"{target.folder} is a mount point, which cannot get its contents at one stroke; name a folder in it.")
    work = target.folder.with_name(target.folder.name + COMPILING)
    made = _make_parents(work)

    def tidy() -> None:
        shutil.rmtree(work, ignore_errors=True)
        for folder in made:  # those that were made for this alone go too, unless they are of use now
            with contextlib.suppress(OSError):
                folder.rmdir()

    try:
        if not target.named:
            for other in work.parent.glob("*" + COMPILING):
                remove_if_abandoned(other)
        work.mkdir(exist_ok=True)
        with exclusive_lock(work, "Another compilation"):
            atexit.register(tidy)  # for a thread that is not waited for when the program ends
            try:
                _empty(work)
                (work / "artifact").mkdir()
                yield work
                (work / "artifact").rename(target.folder)
            finally:
                tidy()
                atexit.unregister(tidy)
    except OSError:
        tidy()
        raise


def full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _make_parents(work: Path) -> list[Path]:
    """Makes the folders above; returns those that were not there, the innermost first."""
    missing = [folder for folder in work.parents if not folder.exists()]
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(work.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(
            f"Nothing can be written to {work.parent} ({error.strerror}); name another folder with --compiled-artifacts."
        ) from None
    return missing


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _measure(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    return {"bytes": size} | ({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if size <= _HASHED else {})


def _damage(folder: Path, files: Mapping[str, Any]) -> str | None:
    """The first file that is not as it was, in words."""
    for name in dict.fromkeys((MODEL_FILE, NEURON_CONFIG, *files)):
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name not in files or _measure(folder / name) != files[name]:
            return f"{name} is not the file that was written"
    return None
