"""Every file, module, class, make target and command that the documentation names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# CHANGELOG.md names what was there in the past.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "training/README.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "reference"),
]
FOLDERS = ("deploy", "mllama_demo", "docs", "configs", "tests", "scripts", "examples", "training", "benchmarks")
OF_OTHERS = {"HttpOnly", "MllamaForConditionalGeneration"}
SOURCE = "\n".join(path.read_text(encoding="utf-8") for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def test_named_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./*-]*\w)", text))
    named |= set(re.findall(r"`((?!data/)\w+(?:/[\w.*-]+)+|[\w-]+\.(?:py|md|yaml|toml|txt))/?`", text))
    # A page speaks of a file in its own folder, or in the package, without the whole path.
    places = (ROOT, ROOT / "mllama_demo", page.parent, ROOT / "mllama_demo" / "openai_api")
    missing = {path for path in named if not any(any(place.glob(path)) for place in places)}
    assert missing == set()


def test_named_tests_exist(page: Path) -> None:
    named = set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8")))
    assert {name for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")} == set()


def test_named_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"\b((?:mllama_demo|benchmarks|training)(?:\.[a-z_]+)+)\b(?!\()", text))
    paths = {module: ROOT / module.replace(".", "/") for module in modules if not module.endswith(".md")}
    assert {module for module, path in paths.items() if not path.is_dir() and not path.with_suffix(".py").is_file()} == set()


def test_named_classes_exist(page: Path) -> None:
    names = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)(?:\.\w+)*`", page.read_text(encoding="utf-8"))) - OF_OTHERS
    assert {name for name in names if not re.search(rf"\b(?:class {name}\b|{name} = )", SOURCE)} == set()


def test_named_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


def test_the_home_page_links_every_page_of_the_site() -> None:
    pages = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert len(pages) > 20
    assert pages - linked == {"index.md"}
