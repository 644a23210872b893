"""The command `convert`: converts Meta's original checkpoint into the published Hugging Face layout.

Memory: the output is written tensor by tensor from mapped input files. One copy of the largest tensor is in memory, whatever the
number of shards: 2.1 GB for 90B and 1.05 GB for 11B, the embeddings in bfloat16. Disk: as much as the input.

The files are written into OUTPUT.converting, which is renamed when it is complete. An interrupted conversion continues there
after the last complete file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.meta import configs as meta_configs
from mllama_demo.checkpoint.meta import files as meta_files
from mllama_demo.checkpoint.meta import weights_file
from mllama_demo.checkpoint.meta.files import MetaFiles
from mllama_demo.checkpoint.meta.layout import MetaModel, Output, VisionConstants, assemble, check_tensors, meta_model, outputs
from mllama_demo.checkpoint.meta.weights_file import Entry
from mllama_demo.errors import CheckpointError, ConfigError
from mllama_demo.runtime.process import exclusive_lock, sigterm_as_interrupt
from mllama_demo.runtime.whole_file import PARTIAL, whole_file
from mllama_demo.runtime.words import counted

FILE_LIMIT = 5 * 10**9  # bytes; larger weights are divided into several files, as the published ones are
SMALL_FILES = 100 * 10**6  # bytes for the tokenizer and the JSON files; an upper estimate
JOURNAL = "conversion.json"
_DTYPES = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}


@dataclass(frozen=True)
class _Plan:
    """What will be written."""

    model: MetaModel
    dtype: str
    files: dict[str, list[Entry]]
    outputs: dict[str, Output]


def main(input_dir: Path, output_dir: Path, instruct: bool, num_shards: int | None) -> int:
    """The command `convert`; the arguments are those of `convert()`."""
    started = time.monotonic()
    convert(input_dir, output_dir, instruct=instruct, num_shards=num_shards, report=_print)
    _print(f"Done in {time.monotonic() - started:.0f} s: {output_dir} is ready to be used as model_path.")
    return 0


def convert(
    input_dir: Path,
    output_dir: Path,
    *,
    instruct: bool,
    num_shards: int | None = None,
    vision: VisionConstants = VisionConstants(),  # noqa: B008 - frozen
    file_limit: int = FILE_LIMIT,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Converts a checkpoint. A failure leaves no output_dir; the next run with the same input continues after the finished files.

    Args:
        input_dir: Meta's folder.
        output_dir: the folder to create.
        instruct: the model is tuned to chat, so it gets a chat template and ends its turns.
        num_shards: how many shards there must be; None takes what is there.
        vision: sizes that no file of Meta states.
        file_limit: the largest weight file in bytes.
        report: called with one line for each step.

    Raises:
        CheckpointError: the input cannot be converted.
        ConfigError: the folders cannot be used, the disk is full, or the conversion was interrupted.
    """
    input_dir, output_dir = input_dir.expanduser(), output_dir.expanduser()
    found = meta_files.find(input_dir, num_shards)
    work = _work_folder(output_dir)
    report(f"Looking at {counted(len(found.shards), 'shard')} in {input_dir} …")
    from mllama_demo.checkpoint.meta import tokenizer as meta_tokenizer

    tokens = meta_tokenizer.read_ranks(found.tokenizer)
    shards = meta_files.open_shards(found.shards)
    plan = _plan(found, shards, vision, file_limit)
    meta_tokenizer.check_vocabulary(found.tokenizer, tokens, plan.model.vocab)
    journal = json.loads(json.dumps({**found.fingerprint(), "instruct": instruct, "weights": list(plan.files)}))
    with _explained_errors(work, output_dir), sigterm_as_interrupt():
        existed = work.exists()
        work.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(work, "Another conversion"), _remove_if_empty(work, existed):
            done = _resume(work, journal, plan, report)
            _check_space(work, plan, done)
            weights_file.write_json(work / JOURNAL, journal)
            _write_weights(work, plan, done, shards, report)
            with whole_file(work / "tokenizer.json", durable=True) as stream:
                stream.write(meta_tokenizer.tokenizer_json(tokens).encode())
            for name, content in _json_files(plan, instruct).items():
                weights_file.write_json(work / name, content)
            work.rename(output_dir)
        (output_dir / JOURNAL).unlink()


def _plan(found: MetaFiles, shards: list[dict[str, Any]], vision: VisionConstants, limit: int) -> _Plan:
    shapes = meta_files.shapes(shards[0])
    model = meta_model(found.params, shapes, len(shards), vision)
    check_tensors(model, shapes, len(shards))
    wanted = {output.name: output for output in outputs(model)}
    entries = []
    for output in wanted.values():
        dtype = str(shards[0][output.sources[0]].dtype)
        if dtype not in _DTYPES:
            raise CheckpointError(f"The tensor {output.sources[0]} is {dtype}; only {', '.join(_DTYPES)} can be converted.")
        entries.append(Entry(output.name, _DTYPES[dtype], output.shape))
    common = str(shards[0]["text_model.output.weight"].dtype).removeprefix("torch.")
    return _Plan(model, common, weights_file.divide(entries, limit), wanted)


def _work_folder(output: Path) -> Path:
    if output.is_mount():
        raise ConfigError(f"The output folder {output} is a mount point, which cannot be replaced; name a folder inside it.")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"The output folder {output} is not empty; name another one, or remove it first.")
    return output.with_name(output.name + ".converting")


def _resume(work: Path, journal: dict[str, Any], plan: _Plan, report: Callable[[str], None]) -> set[str]:
    """The weight files that an earlier run of the same conversion finished."""
    if not any(work.iterdir()):
        return set()
    try:
        same = json.loads((work / JOURNAL).read_bytes()) == journal
    except (OSError, ValueError):
        same = False
    if not same:
        raise ConfigError(f"{work} holds the beginnings of another conversion; remove it, or name another --output-dir.")
    for leftover in work.glob("*" + PARTIAL):  # of a process that was killed
        leftover.unlink()
    done = {name for name, entries in plan.files.items() if weights_file.is_whole(work / name, entries)}
    if done:
        report(f"Going on with an earlier conversion: {len(done)} of {len(plan.files)} weight files are finished.")
    return done


def _check_space(folder: Path, plan: _Plan, done: set[str]) -> None:
    needed = sum(weights_file.size(entries) for name, entries in plan.files.items() if name not in done) + SMALL_FILES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"The conversion needs {needed / 1e9:.1f} GB on the disk of {folder}, where {free / 1e9:.1f} GB are free."
        )


def _write_weights(
    work: Path, plan: _Plan, done: set[str], shards: Sequence[Mapping[str, Any]], report: Callable[[str], None]
) -> None:
    for number, (name, entries) in enumerate(plan.files.items(), 1):
        if name not in done:
            report(f"Writing {name} ({number} of {len(plan.files)}, {weights_file.size(entries) / 1e9:.2f} GB) …")
            weights_file.write(work / name, entries, lambda entry: assemble(plan.outputs[entry.name], shards))
    _note_differing(plan, shards, report)
    if len(plan.files) > 1:
        weights_file.write_json(work / weights_file.INDEX, weights_file.index(plan.files))


def _note_differing(plan: _Plan, shards: Sequence[Mapping[str, Any]], report: Callable[[str], None]) -> None:
    """Reports tensors that are whole in every shard but not equal."""
    names = [output.sources[0] for output in plan.outputs.values() if output.split is None]
    differing = [name for name in names if any(not shard[name].equal(shards[0][name]) for shard in shards[1:])]
    if differing:
        report(f"Note: {len(differing)} tensors differ between shards ({differing[0]} for one); the first shard's are used.")


def _json_files(plan: _Plan, instruct: bool) -> dict[str, Any]:
    from mllama_demo.checkpoint.meta import tokenizer as meta_tokenizer

    files = {
        "generation_config.json": meta_configs.generation_config(plan.model, instruct),
        "preprocessor_config.json": meta_configs.preprocessor_config(plan.model),
        "tokenizer_config.json": meta_tokenizer.tokenizer_config(instruct),
        "special_tokens_map.json": meta_tokenizer.special_tokens_map(instruct),
    }
    if instruct:
        files["chat_template.json"] = meta_tokenizer.chat_template()
    return files | {"config.json": meta_configs.config(plan.model, plan.dtype, instruct)}


def _finished(work: Path) -> list[Path]:
    return list(work.glob("*.safetensors")) if work.exists() else []


@contextlib.contextmanager
def _remove_if_empty(work: Path, existed: bool) -> Iterator[None]:
    """Removes the working folder when a failure comes before the first finished file."""
    try:
        yield
    except BaseException:
        if not existed and not _finished(work):
            shutil.rmtree(work, ignore_errors=True)
        raise


@contextlib.contextmanager
def _explained_errors(work: Path, output: Path) -> Iterator[None]:
    """Turns a disk error or an interruption into one sentence that says what to do."""
    try:
        yield
    except (OSError, KeyboardInterrupt) as error:
        kept = len(_finished(work))
        again = f"; {kept} finished weight files are kept in {work}, and the same command goes on from there." if kept else "."
        if isinstance(error, KeyboardInterrupt):
            raise ConfigError("The conversion was interrupted" + again) from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigError(f"The disk of {output} is full" + again) from None
        raise ConfigError(f"{error.filename or output} cannot be written or read ({error.strerror or error})" + again) from None


def _print(line: str) -> None:
    print(line, flush=True)
