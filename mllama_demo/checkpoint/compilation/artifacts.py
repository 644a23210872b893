"""Folders of compiled models (artifacts): where one is, whether it can be used, and how a new one is written atomically.

An artifact has a manifest, compiled-from.json, with all inputs of the compilation and all files. An artifact without a manifest,
with other inputs or with a missing file is never used. The module does not know how a model is compiled.
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

ARTIFACT_VARIABLE = "NEURON_COMPILED_ARTIFACTS"  # also read by vLLM; names the artifact itself
MODEL_FILE, NEURON_CONFIG = "model.pt", "neuron_config.json"  # NxDI's names
MANIFEST = "compiled-from.json"
WORK_SUFFIX = ".compiling"
# The files of a tokenizer and an image processor in all versions of transformers. They are copied into the artifact.
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
_HASHED = 2**20  # bytes; the manifest has a digest of smaller files, and only the size of larger ones


@dataclass(frozen=True)
class ArtifactLocation:
    """The folder of an artifact. from_environment: ARTIFACT_VARIABLE names the folder; otherwise its fingerprint does."""

    folder: Path
    from_environment: bool


def locate(root: Path, inputs: Mapping[str, Any], environ: Mapping[str, str]) -> ArtifactLocation:
    """The location of the artifact that is compiled from `inputs`. root: the folder of all artifacts of this model."""
    if environ.get(ARTIFACT_VARIABLE):
        return ArtifactLocation(Path(environ[ARTIFACT_VARIABLE]).expanduser().absolute(), from_environment=True)
    return ArtifactLocation(root / fingerprint(inputs), from_environment=False)


def is_compiled_from(location: ArtifactLocation, inputs: Mapping[str, Any]) -> bool:
    """Whether the location holds a complete artifact of exactly these inputs.

    Raises:
        ConfigError: the folder holds something else; the sentence names the differences.
    """
    folder = location.folder
    remedy = "remove that folder, and it is compiled anew"
    if location.from_environment:
        remedy = f"let {ARTIFACT_VARIABLE} name another folder, or unset it"
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and no folder of a compiled model; name another place.")
    found = read_manifest(folder)
    if found is None:
        raise ConfigError(
            f"{folder} does not say what it was compiled from (it has no readable {MANIFEST}), so it cannot be trusted; {remedy}."
        )
    if different := differences(found["made_of"], inputs):
        raise ConfigError(f"The compiled model in {folder} is another one: {first_three(different)}; {remedy}.")
    if damage := _damage(folder, found["files"]):
        raise ConfigError(f"The compiled model in {folder} is damaged ({damage}); {remedy}.")
    return True


def closest(root: Path, inputs: Mapping[str, Any]) -> tuple[Path, list[str]] | None:
    """The artifact in `root` with the fewest differences from `inputs`, and the differences."""
    found = []
    with contextlib.suppress(OSError):
        for folder in sorted(root.iterdir()):
            manifest = None if folder.name.endswith(WORK_SUFFIX) else read_manifest(folder)
            if manifest is not None:
                found.append((folder, differences(manifest["made_of"], inputs)))
    return min(found, key=lambda item: len(item[1]), default=None)


def first_three(differences: list[str]) -> str:
    """The first three differences, and the number of the others."""
    more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
    return ", ".join(differences[:3]) + more


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artifact; None when it is missing or cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        return content if isinstance(content["made_of"], dict) and isinstance(content["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_manifest(folder: Path, inputs: Mapping[str, Any], seconds: float) -> None:
    """Writes the manifest, the last file of an artifact. seconds: the duration of the compilation."""
    content = {
        "fingerprint": fingerprint(inputs),
        "compiled_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds),
        "made_of": inputs,
        "files": {str(file.relative_to(folder)): _file_record(file) for file in sorted(folder.rglob("*")) if file.is_file()},
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_tokenizer_and_processor(checkpoint: Path, folder: Path) -> None:
    for name in TOKENIZER_AND_PROCESSOR:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)


@contextlib.contextmanager
def new_artifact(target: ArtifactLocation) -> Iterator[Path]:
    """Yields a working folder beside the target. The caller fills its subfolder "artifact".

    At the end the subfolder gets the target's name, by one rename. The working folder is removed in any case, and so are the
    working folders of killed processes.

    Raises:
        ConfigError: another process compiles the same, or the folder cannot be written to.
    """
    if target.folder.is_mount():
        raise ConfigError(f"{target.folder} is a mount point, which cannot be replaced by a rename; name a folder in it.")
    work = target.folder.with_name(target.folder.name + WORK_SUFFIX)
    created = _make_parents(work)

    def clean_up() -> None:
        shutil.rmtree(work, ignore_errors=True)
        for folder in created:  # removes the parent folders that were created here, if they are empty
            with contextlib.suppress(OSError):
                folder.rmdir()

    try:
        if not target.from_environment:
            for other in work.parent.glob("*" + WORK_SUFFIX):
                remove_if_abandoned(other)
        work.mkdir(exist_ok=True)
        with exclusive_lock(work, "Another compilation"):
            atexit.register(clean_up)  # the program does not wait for the compiling thread when it ends
            try:
                _clear(work)
                (work / "artifact").mkdir()
                yield work
                (work / "artifact").rename(target.folder)
            finally:
                clean_up()
                atexit.unregister(clean_up)
    except OSError:
        clean_up()
        raise


def full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _make_parents(work: Path) -> list[Path]:
    """Creates the parent folders; returns the created ones, the innermost first."""
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


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _file_record(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    return {"bytes": size} | ({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if size <= _HASHED else {})


def _damage(folder: Path, files: Mapping[str, Any]) -> str | None:
    """Names the first file that is missing or changed, and how; None when all files are intact."""
    for name in dict.fromkeys((MODEL_FILE, NEURON_CONFIG, *files)):
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name not in files or _file_record(folder / name) != files[name]:
            return f"{name} is not the file that was written"
    return None
