"""Keeps an unfinished run in files that a repository can hold: `python -m training.snapshot save FOLDER`, and `restore FOLDER`.

A run takes longer than some machines are lent for. A snapshot has the weights of the student in float16 and the place in the
stages, without the momenta of the optimizer: half a minute of training makes those anew. Its weights are cut into parts, because
many repositories refuse large files.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

import torch

from training.__main__ import default_state

PART_BYTES = 950_000  # size of a part; the last one is smaller
_PARTS = "weights-{:02d}.part"
_FILES = ("tokenizer.json", "curve.jsonl")  # of the folder of a run, kept as they are


class SnapshotError(Exception):
    """There is nothing to save or to restore. The message is one sentence for the user."""


def save(state: Path, folder: Path) -> None:
    """Writes a snapshot of a run in place of the one that `folder` has.

    Args:
        state: Folder of the run. The run may go on meanwhile: state.pt is replaced atomically.

    Raises:
        SnapshotError: `state` holds no run.
    """
    if not (state / "state.pt").is_file():
        raise SnapshotError(f"{state} holds no state.pt; name the folder of a run with --state.")
    run = torch.load(state / "state.pt", map_location="cpu", weights_only=True)
    run["student"] = {name: _half(value) for name, value in run["student"].items()}
    run["optimizer"] = None
    written = io.BytesIO()
    torch.save(run, written)
    folder.mkdir(parents=True, exist_ok=True)
    for part in _parts(folder):
        part.unlink()
    whole = written.getvalue()
    for number, start in enumerate(range(0, len(whole), PART_BYTES)):
        (folder / _PARTS.format(number)).write_bytes(whole[start : start + PART_BYTES])
    for name in _FILES:
        if (state / name).is_file():
            shutil.copyfile(state / name, folder / name)


def restore(folder: Path, state: Path) -> None:
    """Makes the folder of a run from a snapshot. The run then goes on where it was, with new momenta.

    Raises:
        SnapshotError: `folder` holds no snapshot, a part of it is missing, or `state` has a run that would be lost.
    """
    if (state / "state.pt").exists():
        raise SnapshotError(f"{state} has a run already; move it away, or name another folder with --state.")
    parts = _parts(folder)
    if not parts or [part.name for part in parts] != [_PARTS.format(number) for number in range(len(parts))]:
        raise SnapshotError(f"{folder} holds no whole snapshot; it has {len(parts)} files of weights.")
    try:
        run = torch.load(io.BytesIO(b"".join(part.read_bytes() for part in parts)), map_location="cpu", weights_only=True)
    except RuntimeError as error:  # the last part is missing
        raise SnapshotError(f"{folder} holds no whole snapshot: {str(error).splitlines()[0]}.") from error
    run["student"] = {name: value.float() if value.is_floating_point() else value for name, value in run["student"].items()}
    state.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, state / name)
    torch.save(run, state / "state.part")
    (state / "state.part").replace(state / "state.pt")


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("weights-*.part"))


def _half(value: torch.Tensor) -> torch.Tensor:
    return value.half() if value.is_floating_point() else value


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 after printing why there is nothing to save or restore."""
    parser = argparse.ArgumentParser(prog="python -m training.snapshot", description=__doc__)
    parser.add_argument("action", choices=("save", "restore"))
    parser.add_argument("folder", type=Path, help="folder of the snapshot")
    parser.add_argument("--state", type=Path, default=default_state(), help=f"folder of the run (default {default_state()})")
    args = parser.parse_args(argv)
    try:
        if args.action == "save":
            save(args.state, args.folder)
        else:
            restore(args.folder, args.state)
    except SnapshotError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
