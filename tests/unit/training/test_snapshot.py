"""training/snapshot.py: an unfinished run, kept in small files and taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import snapshot


def a_run(folder: Path) -> Path:
    """The folder of a run whose weights need three parts."""
    folder.mkdir()
    weights = {"layer.weight": torch.randn(1200, 1000), "heads.chosen": torch.arange(5)}
    state = {"student": weights, "optimizer": {"momenta": torch.ones(3)}, "done": [], "stage": "see", "step": 7, "spent_s": 61.5}
    torch.save(state, folder / "state.pt")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "curve.jsonl").write_text('{"stage": "see", "minutes": 1, "rate": 0.1}\n')
    return folder


def test_a_restored_run_has_its_weights_and_its_place_in_files_that_are_small(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    assert snapshot.main(["save", str(tmp_path / "kept"), "--state", str(run)]) == 0
    sizes = [part.stat().st_size for part in (tmp_path / "kept").iterdir()]
    assert max(sizes) < 1_000_000
    assert len(sizes) == 5
    assert snapshot.main(["restore", str(tmp_path / "kept"), "--state", str(tmp_path / "new")]) == 0
    was, now = (torch.load(folder / "state.pt", weights_only=True) for folder in (run, tmp_path / "new"))
    assert torch.equal(now["student"]["layer.weight"], was["student"]["layer.weight"].half().float())
    assert torch.equal(now["student"]["heads.chosen"], was["student"]["heads.chosen"])
    assert (now["stage"], now["step"], now["spent_s"], now["optimizer"]) == ("see", 7, 61.5, None)
    for name in ("tokenizer.json", "curve.jsonl"):
        assert (tmp_path / "new" / name).read_text() == (run / name).read_text()


def test_a_later_snapshot_leaves_no_part_of_a_longer_one(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    snapshot.save(run, tmp_path / "kept")
    state = torch.load(run / "state.pt", weights_only=True)
    torch.save({**state, "student": {"layer.weight": torch.ones(2)}}, run / "state.pt")
    snapshot.save(run, tmp_path / "kept")
    assert [part.name for part in sorted((tmp_path / "kept").glob("*.part"))] == ["weights-00.part"]


@pytest.mark.parametrize("lost", ["weights-00.part", "weights-01.part", "weights-02.part"])
def test_a_snapshot_without_one_of_its_parts_is_refused(lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot.save(a_run(tmp_path / "run"), tmp_path / "kept")
    (tmp_path / "kept" / lost).unlink()
    assert snapshot.main(["restore", str(tmp_path / "kept"), "--state", str(tmp_path / "new")]) == 2
    assert "no whole snapshot" in capsys.readouterr().err
    assert not (tmp_path / "new" / "state.pt").exists()


def test_a_run_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path / "run")
    snapshot.save(run, tmp_path / "kept")
    before = (run / "state.pt").read_bytes()
    assert snapshot.main(["restore", str(tmp_path / "kept"), "--state", str(run)]) == 2
    assert "has a run already" in capsys.readouterr().err
    assert (run / "state.pt").read_bytes() == before


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert snapshot.main(["save", str(tmp_path / "kept"), "--state", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
