"""The features of the CPU, as Linux lists them."""

from __future__ import annotations

import platform
from pathlib import Path

from mllama_demo.runtime.cpu import flags, model_name


def test_the_flags_of_an_x86_cpu_are_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16\nbogomips\t: 1\n")
    assert flags(cpuinfo) == {"fpu", "avx512_bf16", "amx_bf16"}


def test_the_name_of_an_x86_cpu_is_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model\t\t: 85\nmodel name\t: A CPU @ 3.00GHz: fast\nmodel name\t: another\n")
    assert model_name(cpuinfo) == "A CPU @ 3.00GHz: fast"
    assert model_name(tmp_path / "missing") == (platform.processor() or platform.machine())


def test_other_systems_have_no_flags(tmp_path: Path) -> None:
    assert flags(tmp_path / "missing") == frozenset()
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert flags(cpuinfo) == frozenset()
