"""Runs tests/contract/engine/nxdi on several releases of NxDI: `make test-neuron NEURON_SOURCES=DIR NXDI_VERSIONS="0.4 0.9"`.

DIR has the folders nxdi/VERSION/src and nxd/VERSION/src. mllama_demo/checkpoint/neuron_sdks.yaml says which NxD belongs to which
NxDI, and holds the results: --record writes them there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/contract/engine/nxdi"
sys.path.insert(0, str(ROOT))

from mllama_demo.checkpoint.neuron_sdks import FILE, RELEASES, Release  # noqa: E402


def source_folders(folder: Path, release: Release) -> dict[str, str]:
    """NXDI_SRC and NXD_SRC of a release. Raises SystemExit with the command that makes a missing folder."""
    found = {}
    for variable, name, version in (("NXDI_SRC", "nxdi", release.nxdi), ("NXD_SRC", "nxd", release.nxd)):
        source = folder / name / version / "src"
        if not source.is_dir():
            repository = {"nxdi": "neuronx-distributed-inference", "nxd": "neuronx-distributed"}[name]
            commit = (release.commits or {}).get(name, "COMMIT")
            raise SystemExit(
                f"{source} is missing; in a clone of github.com/aws-neuron/{repository}: mkdir -p {source.parent} && "
                f"git archive {commit} src | tar x -C {source.parent}"
            )
        found[variable] = str(source.resolve())
    return found


def run(sources: dict[str, str], arguments: Sequence[str]) -> dict[str, int]:
    """Runs the tests. Returns how many passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::UserWarning", f"--junitxml={report}", TESTS, *arguments]
        subprocess.run(words, cwd=ROOT, env={**os.environ, **sources}, check=False)
        if not report.is_file():
            return {"passed": 0, "failed": 1, "skipped": 0}
        suite = next(ElementTree.parse(report).iter("testsuite"))
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return {"passed": total - failed - skipped, "failed": failed, "skipped": skipped}


def record(release: Release, counts: dict[str, int]) -> None:
    """Writes the result of a release into neuron_sdks.yaml."""
    values = {"date": f'"{date.today()}"', "transformers": importlib.metadata.version("transformers"), **counts}
    line = "{" + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}"
    text = FILE.read_text(encoding="utf-8")
    entry = rf'(  - sdk: "{re.escape(release.sdk)}"\n(?:    .*\n)*?    tests: ).*'
    FILE.write_text(re.sub(entry, rf"\g<1>{line}", text, count=1), encoding="utf-8")


def main() -> int:
    known = {release.nxdi: release for release in RELEASES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="the folder with nxdi/VERSION/src and nxd/VERSION/src")
    parser.add_argument("versions", nargs="+", choices=[*known], metavar="VERSION", help="a release of NxDI, such as 0.9")
    parser.add_argument("--record", action="store_true", help="write the results into neuron_sdks.yaml")
    parser.add_argument("--pytest", default="", metavar="ARGS", help="arguments for pytest")
    given = parser.parse_args()
    chosen = [known[version] for version in given.versions]
    sources = [source_folders(given.sources, release) for release in chosen]
    lines, wrong = [], False
    for release, folders in zip(chosen, sources, strict=True):
        started = time.monotonic()
        counts = run(folders, given.pytest.split())
        if given.record:
            record(release, counts)
        wrong = wrong or bool(counts["failed"]) != bool(release.refused)
        words = ", ".join(f"{number} {name}" for name, number in counts.items())
        refused = " (this release is refused)" if release.refused else ""
        minutes = (time.monotonic() - started) / 60
        lines.append(f"NxDI {release.nxdi}, NxD {release.nxd}, SDK {release.sdk}: {words} in {minutes:.1f} min{refused}")
    print("\n" + "\n".join(lines))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
