"""A conversion that cannot be done says why in one sentence, exits with 2 and leaves nothing half-written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mllama_demo.checkpoint.meta import convert as converter
from mllama_demo.checkpoint.meta.convert import convert
from mllama_demo.checkpoint.meta.layout import VisionConstants
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.cli import main
from mllama_demo.errors import DemoError
from tests.support.meta_checkpoint import Sizes, random_weights, save
from tests.support.paths import ROOT

SMALL = Sizes(intermediate=(0, 1, 2, 0, 1))  # as many as the published models have, so that the command itself can convert it
VISION = VisionConstants(heads=4, intermediate_layers=SMALL.intermediate)


class Folders(NamedTuple):
    source: Path
    output: Path

    @property
    def work(self) -> Path:
        return self.output.with_name(self.output.name + ".converting")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("original") / "meta", SMALL, random_weights(SMALL), 2)


@pytest.fixture
def folders(original, tmp_path) -> Folders:
    """A copy of a whole checkpoint of two shards that a test may damage."""
    return Folders(Path(shutil.copytree(original, tmp_path / "meta")), tmp_path / "hf")


def refusal(folders: Folders, *more: str, capsys: Any) -> str:
    """What the command prints; it must exit with 2 and leave neither an output folder nor a working folder."""
    code = main(["convert", "--input-dir", str(folders.source), "--output-dir", str(folders.output), *more])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("mllama-demo: ")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith((".\n", "?\n"))
    return printed.err.removeprefix("mllama-demo: ").strip()


def edit_params(folder: Path, **changes: Any) -> None:
    params = json.loads((folder / "params.json").read_text()) | changes
    (folder / "params.json").write_text(json.dumps({key: value for key, value in params.items() if value is not None}))


def edit_shard(folder: Path, number: int, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / f"consolidated.{number:02d}.pth"
    shard = torch.load(file)
    change(shard)
    torch.save(shard, file)


def cut(file: Path, part: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])


def make_text_only(folder: Path) -> None:
    def without_vision(shard: dict[str, torch.Tensor]) -> None:
        for name in list(shard):
            if not name.startswith("text_model.layers"):
                del shard[name]

    edit_shard(folder, 0, without_vision)
    edit_shard(folder, 1, without_vision)


def both(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    edit_shard(folder, 0, change)
    edit_shard(folder, 1, change)


def make_original_folder(folder: Path) -> None:
    inner = folder / "original"
    inner.mkdir()
    for file in [*folder.glob("*.pth"), folder / "params.json", folder / "tokenizer.model"]:
        file.rename(inner / file.name)


def make_published_layout(folder: Path) -> None:
    (folder / "params.json").unlink()
    (folder / "config.json").write_text("{}")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "does not exist"),
    "no params": (lambda f: (f / "params.json").unlink(), "has no params.json"),
    "the folder above": (make_original_folder, "pass --input-dir"),
    "converted already": (make_published_layout, "is in the Hugging Face layout already"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "has no tokenizer.model"),
    "no weights": (lambda f: [file.unlink() for file in f.glob("*.pth")], "has no consolidated.00.pth"),
    "first shard missing": (lambda f: (f / "consolidated.00.pth").unlink(), "lacks consolidated.00.pth (1 of 2"),
    "last shard missing": (lambda f: (f / "consolidated.01.pth").unlink(), "2 shards"),
    "params not JSON": (lambda f: (f / "params.json").write_text("{"), "params.json is not valid JSON"),
    "params a list": (lambda f: (f / "params.json").write_text("[]"), "must hold a JSON object"),
    "params without a size": (lambda f: edit_params(f, dim=None), "must give dim as a whole number, but it is None"),
    "params with a word": (lambda f: edit_params(f, norm_eps="small"), "must give norm_eps as a number, but it is 'small'"),
    "params of another model": (lambda f: edit_params(f, dim=128, n_heads=16), "are not of one checkpoint"),
    "text only": (make_text_only, "text-only checkpoint"),
    "text only by params": (lambda f: edit_params(f, vision_num_cross_attention_layers=None), "text-only checkpoint"),
    "uneven cross-attention": (lambda f: edit_params(f, n_layers=5, vision_num_cross_attention_layers=4), "cannot be spread"),
    "another placement": (lambda f: edit_params(f, vision_num_cross_attention_layers=4), "lacks the tensor"),
    "shard cut off": (lambda f: cut(f / "consolidated.01.pth", 0.7), "consolidated.01.pth"),
    "shard empty": (lambda f: cut(f / "consolidated.00.pth", 0), "consolidated.00.pth (0 bytes) is cut off"),
    "shard of noise": (lambda f: (f / "consolidated.00.pth").write_bytes(b"noise" * 100), "is cut off or no PyTorch"),
    "shard with code": (lambda f: torch.save({"x": Path("y")}, f / "consolidated.00.pth"), "is cut off or no PyTorch"),
    "shard of a list": (lambda f: torch.save([1], f / "consolidated.00.pth"), "no mapping of names to tensors"),
    "tensor missing in one": (
        lambda f: edit_shard(f, 1, lambda s: s.pop("text_model.norm.weight")),
        "lacks the tensor text_model.norm",
    ),
    "tensor missing in all": (lambda f: both(f, lambda s: s.pop("text_model.norm.weight")), "lacks the tensor text_model.norm"),
    "tensor too many": (lambda f: both(f, lambda s: s.update(extra=torch.ones(1))), "has a tensor extra"),
    "shapes differ": (
        lambda f: edit_shard(f, 1, lambda s: s.update({"text_model.norm.weight": torch.ones(3)})),
        "is float32 [3] in consolidated.01.pth but float32 [64] in consolidated.00.pth",
    ),
    "numbers of a kind": (
        lambda f: both(f, lambda s: s.update({"text_model.norm.weight": torch.ones(64, dtype=torch.int8)})),
        "is torch.int8",
    ),
    "tile grid of another size": (lambda f: edit_params(f, vision_chunk_size=70), "positional_embedding has the shape [17, 32]"),
    "tokenizer cut off in a line": (
        lambda f: (f / "tokenizer.model").write_bytes((f / "tokenizer.model").read_bytes()[:-4]),
        "tokenizer.model, line 288, is no token and its rank",
    ),
    "tokenizer without its end": (
        lambda f: (f / "tokenizer.model").write_bytes(b"\n".join((f / "tokenizer.model").read_bytes().splitlines()[:270])),
        "has 270 tokens, which with 256 special ones is not the vocab_size of 544",
    ),
    "tokenizer of another kind": (lambda f: (f / "tokenizer.model").write_bytes(b"\x0e\x05<unk>"), "line 1, is no token"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_input_that_cannot_be_converted_is_refused_before_anything_is_written(folders, damage, capsys):
    break_it, expected = DAMAGE[damage]
    break_it(folders.source)
    message = refusal(folders, "--num-shards", "2", capsys=capsys)
    assert expected in message
    assert len(message) < 400
    assert not folders.output.exists()
    assert not folders.work.exists()


def test_a_whole_checkpoint_is_converted_by_the_command(folders, capsys):
    assert main(["convert", "--input-dir", str(folders.source), "--output-dir", str(folders.output), "--instruct"]) == 0
    assert "is ready to be used as model_path" in capsys.readouterr().out
    assert check_checkpoint(folders.output).cross_attention_layers == (1, 4)
    assert not (folders.output / "conversion.json").exists()
    assert not folders.work.exists()


def test_one_file_may_be_called_consolidated_pth(tmp_path):
    source = save(tmp_path / "meta", SMALL, random_weights(SMALL), 1, single_name="consolidated.pth")
    convert(source, tmp_path / "hf", instruct=False, num_shards=1, vision=VISION)
    check_checkpoint(tmp_path / "hf")


def test_shards_with_different_copies_of_a_tensor_are_reported(folders):
    lines: list[str] = []
    edit_shard(folders.source, 1, lambda shard: shard["text_model.norm.weight"].mul_(1.5))
    convert(folders.source, folders.output, instruct=True, vision=VISION, report=lines.append)
    assert any("1 tensors differ between shards (text_model.norm.weight" in line for line in lines)


# --- the command line ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--num-shards", "8"], "lacks consolidated.02.pth (2 of 8 shards are there)"),
        (["--num-shards", "1"], "has 2 shards, but --num-shards is 1"),
        (["--num-shards", "0"], "Invalid value for '--num-shards': Input should be greater than or equal to 1"),
        (["--num-shards", "none"], "Invalid value for '--num-shards': Input should be a valid integer"),
        (["--safe-serialization"], "No such option: --safe-serialization"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(folders, more, expected, capsys):
    assert expected in refusal(folders, *more, capsys=capsys)
    assert not folders.output.exists()


def test_a_missing_argument_is_named(capsys):
    assert main(["convert"]) == 2
    assert "--input-dir" in capsys.readouterr().err


def test_an_output_folder_with_anything_in_it_is_left_alone(folders, capsys):
    folders.output.mkdir()
    (folders.output / "precious").write_text("x")
    assert "is not empty" in refusal(folders, capsys=capsys)
    assert [file.name for file in folders.output.iterdir()] == ["precious"]
    assert not folders.work.exists()


def test_an_output_that_is_a_file_is_left_alone(folders, capsys):
    folders.output.write_text("x")
    assert "is not empty" in refusal(folders, capsys=capsys)
    assert folders.output.read_text() == "x"


def test_an_empty_output_folder_is_used(folders):
    folders.output.mkdir()
    convert(folders.source, folders.output, instruct=True, vision=VISION)
    check_checkpoint(folders.output)


def test_a_mount_point_is_refused(folders, capsys):
    assert "is a mount point" in refusal(Folders(folders.source, Path("/")), capsys=capsys)


# --- the disk ------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_reported_before_anything_is_written(folders, monkeypatch, capsys):
    usage = shutil.disk_usage(folders.source)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50 * 10**6))
    message = refusal(folders, capsys=capsys)
    assert "needs 0.1 GB on the disk of" in message
    assert "where 0.1 GB are free" in message or "0.0 GB" in message
    assert not folders.work.exists()


class Failing:
    """Stands in for assemble: raises at the n-th tensor."""

    def __init__(self, at: int, fail: Callable[[], object]) -> None:
        self.left, self.fail, self.assemble = at, fail, converter.assemble

    def __call__(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            self.fail()
        return self.assemble(*arguments)


def raise_(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


INTERRUPTIONS = {
    "disk full": (raise_(OSError(errno.ENOSPC, "No space left on device")), "is full"),
    "disk broken": (raise_(OSError(errno.EIO, "Input/output error")), "cannot be written or read (Input/output error)"),
    "Ctrl-C": (raise_(KeyboardInterrupt()), "was interrupted"),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), "was interrupted"),
}


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_failure_in_the_first_file_leaves_nothing(folders, monkeypatch, interruption):
    fail, expected = INTERRUPTIONS[interruption]
    monkeypatch.setattr(converter, "assemble", Failing(5, fail))
    with pytest.raises(DemoError, match=expected.replace("(", r"\(").replace(")", r"\)")):
        convert(folders.source, folders.output, instruct=True, vision=VISION)
    assert [path.name for path in folders.source.parent.iterdir()] == ["meta"]


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_later_failure_keeps_complete_files_and_the_next_run_continues_after_them(folders, monkeypatch, interruption):
    fail, expected = INTERRUPTIONS[interruption]
    with monkeypatch.context() as patch:
        patch.setattr(converter, "assemble", Failing(60, fail))
        with pytest.raises(DemoError) as caught:
            convert(folders.source, folders.output, instruct=True, vision=VISION, file_limit=100_000)
    assert expected in str(caught.value)
    assert "the same command goes on from there" in str(caught.value)
    assert not folders.output.exists()
    kept = {file.name: file.stat().st_mtime_ns for file in folders.work.glob("*.safetensors")}
    assert len(kept) > 1
    assert {file.name for file in folders.work.iterdir()} == {*kept, "conversion.json"}

    (folders.work / "model-00009-of-00099.safetensors.partial").write_bytes(b"what a killed process leaves")
    lines: list[str] = []
    convert(folders.source, folders.output, instruct=True, vision=VISION, file_limit=100_000, report=lines.append)
    assert any(f"{len(kept)} of" in line for line in lines)
    assert {name: (folders.output / name).stat().st_mtime_ns for name in kept} == kept
    check_checkpoint(folders.output)
    whole = folders.output.with_name("whole")
    convert(folders.source, whole, instruct=True, vision=VISION, file_limit=100_000)
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == {
        file.name: file.read_bytes() for file in folders.output.iterdir()
    }


def interrupted(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(converter, "assemble", Failing(60, raise_(KeyboardInterrupt())))
        with pytest.raises(DemoError):
            convert(folders.source, folders.output, instruct=True, vision=VISION, file_limit=100_000)


def change_header(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"F32", b"F16", 1))


@pytest.mark.parametrize("damage", [lambda file: cut(file, 0.5), change_header], ids=["cut off", "another header"])
def test_a_kept_file_that_was_damaged_is_written_again(folders, monkeypatch, damage):
    interrupted(folders, monkeypatch)
    damage(min(folders.work.glob("*.safetensors")))
    convert(folders.source, folders.output, instruct=True, vision=VISION, file_limit=100_000)
    check_checkpoint(folders.output)


@pytest.mark.parametrize("change", ["instruct", "input", "journal"])
def test_the_files_of_another_conversion_are_not_used(folders, monkeypatch, change):
    interrupted(folders, monkeypatch)
    if change == "input":
        edit_shard(folders.source, 1, lambda shard: shard["text_model.norm.weight"].mul_(2))
    if change == "journal":
        (folders.work / "conversion.json").write_text("{")
    before = {file.name: file.read_bytes() for file in folders.work.iterdir()}
    with pytest.raises(DemoError, match="holds the beginnings of another conversion"):
        convert(folders.source, folders.output, instruct=change != "instruct", vision=VISION, file_limit=100_000)
    assert {file.name: file.read_bytes() for file in folders.work.iterdir()} == before


def test_a_second_conversion_at_the_same_time_is_refused(folders, monkeypatch):
    interrupted(folders, monkeypatch)
    handle = os.open(folders.work, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(DemoError, match="Another conversion is writing"):
            convert(folders.source, folders.output, instruct=True, vision=VISION, file_limit=100_000)
    finally:
        os.close(handle)
    convert(folders.source, folders.output, instruct=True, vision=VISION, file_limit=100_000)


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    yield folder
    folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(folders, read_only, capsys):
    assert "Permission denied" in refusal(Folders(folders.source, read_only / "hf"), capsys=capsys)


def test_a_parent_that_is_a_file_is_named(folders, capsys):
    assert "Not a directory" in refusal(Folders(folders.source, folders.source / "params.json" / "hf"), capsys=capsys)


# --- in a process of its own ---------------------------------------------------------------------------------------------


def test_the_program_says_one_sentence_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mllama_demo", "convert", "--input-dir", "nowhere", "--output-dir", str(tmp_path / "hf")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mllama-demo: The input folder nowhere does not exist; name Meta's folder.\n"
