"""Finds, checks and writes artifacts. An artifact is the folder of one compiled model.

An artifact has a manifest, compiled-from.json. The manifest lists all inputs of the compilation and all files of the artifact. An
artifact without a manifest, with other inputs or with a missing or changed file is never used. A new artifact appears under its
name only when it is complete. This module does not know how a model is compiled.
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

# The environment variable that names the folder of one artifact, not the folder of all artifacts. vLLM reads it too.
ARTIFACT_VARIABLE = "NEURON_COMPILED_ARTIFACTS"
MODEL_FILE, NEURON_CONFIG = "model.pt", "neuron_config.json"  # NxDI (NeuronX Distributed Inference) writes these names
MANIFEST = "compiled-from.json"
WORK_SUFFIX = ".compiling"  # of the folder in which a new artifact is made
# The files of the checkpoint that are copied into the artifact: the files that any version of transformers reads for a tokenizer
# or an image processor.
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
# The manifest has the size and a digest of a file up to this size, and only the size of a larger file.
_MAX_HASHED_BYTES = 2**20


@dataclass(frozen=True)
class ArtifactLocation:
    """The folder of an artifact. The folder need not exist.

    Attributes:
        from_environment: True if ARTIFACT_VARIABLE names the folder. Otherwise, the fingerprint of the inputs is its name.
    """

    folder: Path
    from_environment: bool


def locate(root: Path, inputs: Mapping[str, Any], environ: Mapping[str, str]) -> ArtifactLocation:
    """Returns the location of the artifact for `inputs`.

    Args:
        root: The folder of all artifacts of this model.
        inputs: All that the compiled model depends on, see fingerprint.compilation_inputs.
        environ: The environment variables.
    """
    if environ.get(ARTIFACT_VARIABLE):
        return ArtifactLocation(Path(environ[ARTIFACT_VARIABLE]).expanduser().absolute(), from_environment=True)
    return ArtifactLocation(root / fingerprint(inputs), from_environment=False)


def is_compiled_from(location: ArtifactLocation, inputs: Mapping[str, Any]) -> bool:
    """Tells whether the location has a complete artifact of exactly these inputs. A missing or empty folder has none.

    Raises:
        ConfigError: The folder has anything else, such as an artifact of other inputs. The message names the differences.
    """
    folder = location.folder
    remedy = "remove that folder, and it is compiled anew"
    if location.from_environment:
        remedy = f"let {ARTIFACT_VARIABLE} name another folder, or unset it"
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and no folder of a compiled model; name another place.")
    check(folder, inputs, str(folder), remedy)
    return True


def check(folder: Path, inputs: Mapping[str, Any], place: str, remedy: str) -> None:
    """Raises ConfigError when a folder has anything else than a complete artifact of exactly these inputs.

    Args:
        place: Where the artifact is from, for the message.
        remedy: What to do about it, as the end of the message.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ConfigError(
            f"{place} does not say what it was compiled from (it has no readable {MANIFEST}), so it cannot be trusted; {remedy}."
        )
    if different := differences(manifest["made_of"], inputs):
        raise ConfigError(f"The compiled model in {place} is another one: {first_three(different)}; {remedy}.")
    if damage := _damage(folder, manifest["files"]):
        raise ConfigError(f"The compiled model in {place} is damaged ({damage}); {remedy}.")


def closest(root: Path, inputs: Mapping[str, Any]) -> tuple[Path, list[str]] | None:
    """Returns the artifact in `root` with the fewest differences from `inputs`, and the differences; None without an artifact."""
    candidates = []
    with contextlib.suppress(OSError):
        for folder in sorted(root.iterdir()):
            manifest = None if folder.name.endswith(WORK_SUFFIX) else read_manifest(folder)
            if manifest is not None:
                candidates.append((folder, differences(manifest["made_of"], inputs)))
    return min(candidates, key=lambda candidate: len(candidate[1]), default=None)


def first_three(differences: list[str]) -> str:
    """Returns a text with the first three differences and the number of further differences."""
    more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
    return ", ".join(differences[:3]) + more


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest of an artifact; None if the manifest is missing or cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        return content if isinstance(content["made_of"], dict) and isinstance(content["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_manifest(folder: Path, inputs: Mapping[str, Any], seconds: float) -> None:
    """Writes the manifest. The manifest lists the files in the folder, so the caller writes it after all other files.

    Args:
        seconds: The duration of the compilation.
    """
    content = {
        "fingerprint": fingerprint(inputs),
        "compiled_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds),
        "made_of": inputs,
        "files": {str(file.relative_to(folder)): _file_record(file) for file in sorted(folder.rglob("*")) if file.is_file()},
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_tokenizer_and_processor(checkpoint: Path, folder: Path) -> None:
    """Copies those files of TOKENIZER_AND_PROCESSOR that the checkpoint has."""
    for name in TOKENIZER_AND_PROCESSOR:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)


@contextlib.contextmanager
def new_artifact(target: ArtifactLocation) -> Iterator[Path]:
    """Yields a working folder beside the target. The caller fills the subfolder "artifact" of the working folder.

    When the block ends without an exception, one rename turns the subfolder into the target. The working folder is always
    removed. In the folder of all artifacts, the working folders of killed processes are removed too.

    Raises:
        ConfigError: Another process compiles the same artifact, or the parent folder cannot be written to.
    """
    if target.folder.is_mount():
        raise ConfigError(f"{target.folder} is a mount point, which cannot be replaced by a rename; name a folder in it.")
    work = target.folder.with_name(target.folder.name + WORK_SUFFIX)
    created_parents = _make_parents(work)

    def clean_up() -> None:
        shutil.rmtree(work, ignore_errors=True)
        for folder in created_parents:
            with contextlib.suppress(OSError):  # rmdir fails for a folder that is not empty, and that folder stays
                folder.rmdir()

    try:
        if not target.from_environment:  # the parent of a folder that the user named may have folders of other programs
            for leftover in work.parent.glob("*" + WORK_SUFFIX):
                remove_if_abandoned(leftover)
        work.mkdir(exist_ok=True)
        with exclusive_lock(work, "Another compilation"):
            atexit.register(clean_up)  # exit_process does not wait for the thread that runs this block
            try:
                _clear(work)
                (work / "artifact").mkdir()
                yield work
                (work / "artifact").rename(target.folder)
            finally:
                clean_up()
                atexit.unregister(clean_up)
    except OSError:  # also one of mkdir or of opening the lock, before the inner try
        clean_up()
        raise


def full_disk(error: BaseException) -> bool:
    """Tells whether the error means that the disk is full or the user's quota is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _make_parents(work: Path) -> list[Path]:
    """Creates the missing parent folders. Returns the folders that were missing, the innermost first."""
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
    """Removes all entries of the folder."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _file_record(file: Path) -> dict[str, Any]:
    """Returns the file's entry in the manifest: the size, and the digest of a small file."""
    size = file.stat().st_size
    return {"bytes": size} | ({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if size <= _MAX_HASHED_BYTES else {})


def _damage(folder: Path, files: Mapping[str, Any]) -> str | None:
    """Describes the first file that is missing or changed. Returns None if all files are intact.

    Args:
        files: The manifest's record of each file by name.
    """
    for name in dict.fromkeys((MODEL_FILE, NEURON_CONFIG, *files)):
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name not in files or _file_record(folder / name) != files[name]:
            return f"{name} is not the file that was written"
    return None
