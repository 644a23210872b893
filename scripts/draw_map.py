"""Draws the map of imports between the packages of mllama_demo as an SVG picture: `make map`.

The layers come from the import-linter contract in pyproject.toml, the arrows from the import statements in the code. The same
code always gives the same file, so that a test can compare it with the committed one.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mllama_demo"
MAP = ROOT / "docs" / "images" / "imports.svg"

Arrows = dict[str, set[str]]  # package to the packages that it imports
Point = tuple[float, float]

WIDTH, ROW, BOX_HEIGHT, LETTER, MARGIN = 1040, 86, 34, 7.6, 16
STYLE = """
  text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1f2933; text-anchor: middle }
  .layer { fill: #eef2f6 } .box { fill: #ffffff; stroke: #52606d; stroke-width: 1.2 }
  path { fill: none } .needed { stroke: #2563a6; stroke-width: 1.4 } .implied { stroke: #b3bdc8; stroke-width: 0.8 }
  .upward { stroke: #c81e1e; stroke-width: 2.5 }
"""


def layers() -> list[list[str]]:
    """The packages of each layer, from the top to the bottom, as the contract of type "layers" in pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(one for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    rows = [re.findall(r"[\w.]+", layer) for layer in contract["layers"]]
    return [row for row in rows if row != ["__main__"]]


def imports(folder: Path) -> Arrows:
    """The imports between the top-level packages and modules of `folder`, those inside functions included.

    A module that lies directly in the folder, such as errors.py, counts as a package of that name.
    """
    found: Arrows = {}
    for file in sorted(folder.rglob("*.py")):
        source = file.relative_to(folder).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == folder.name:
                modules = [f"{folder.name}.{name.name}" for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            elif isinstance(node, ast.Import):
                modules = [name.name for name in node.names]
            else:
                continue
            for module in modules:
                top, _, rest = module.partition(".")
                target = rest.partition(".")[0]
                is_module = (folder / f"{target}.py").exists() or (folder / target).is_dir()
                if top == folder.name and target and is_module and target != source:
                    found.setdefault(source, set()).add(target)
    return found


def implied(arrows: Arrows) -> set[tuple[str, str]]:
    """The arrows that a longer way along other arrows implies."""

    def reach(start: str, seen: set[str]) -> set[str]:
        for target in arrows.get(start, set()) - seen:
            seen.add(target)
            reach(target, seen)
        return seen

    return {
        (source, target)
        for source, targets in arrows.items()
        for target in targets
        if any(target in reach(other, set()) for other in targets - {target})
    }


def places(rows: list[list[str]]) -> dict[str, tuple[Point, float]]:
    """For each package the centre of its box, and the width of the box. Rows with few boxes move aside in turns."""
    found = {}
    for row, names in enumerate(rows):
        widths = [len(name) * LETTER + 26 for name in names]
        gap = (WIDTH - 2 * MARGIN - sum(widths)) / (len(names) + 1)
        aside = (0, -0.28, 0.28)[row % 3] * WIDTH if len(names) == 1 else 0
        x = MARGIN + aside
        for name, width in zip(names, widths, strict=True):
            x += gap
            found[name] = ((x + width / 2, row * ROW + ROW / 2), width)
            x += width
    return found


def draw(rows: list[list[str]], arrows: Arrows) -> str:
    """The picture. Blue arrows are needed, grey ones follow from others; an arrow that does not point downwards is red."""
    at, grey = places(rows), implied(arrows)
    rank = {name: row for row, names in enumerate(rows) for name in names}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(rows) * ROW}" role="img">',
        "<title>Imports between the packages of mllama_demo, layer by layer</title>",
        f"<style>{STYLE}</style>",
        "<defs>",
        *(
            f'<marker id="{kind}" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto" '
            f'markerUnits="userSpaceOnUse"><path d="M0 1 L7 4 L0 7 z" style="fill: {colour}"/></marker>'
            for kind, colour in (("needed", "#2563a6"), ("implied", "#b3bdc8"), ("upward", "#c81e1e"))
        ),
        "</defs>",
        f'<rect width="{WIDTH}" height="{len(rows) * ROW}" fill="#ffffff"/>',
    ]
    for row in range(len(rows)):
        y = row * ROW + 6
        lines.append(f'<rect class="layer" x="4" y="{y}" width="{WIDTH - 8}" height="{ROW - 12}" rx="8"/>')
    pairs = [(source, target) for source in sorted(arrows) for target in sorted(arrows[source])]
    kinds = {pair: "implied" if pair in grey else "needed" for pair in pairs}
    kinds |= {pair: "upward" for pair in pairs if rank[pair[0]] >= rank[pair[1]]}
    order = ("implied", "needed", "upward")
    for source, target in sorted(pairs, key=lambda pair: (order.index(kinds[pair]), pair)):
        kind = kinds[source, target]
        lines.append(f'<path class="{kind}" marker-end="url(#{kind})" d="{_curve(at, source, target)}">')
        lines.append(f"<title>{source} imports {target}</title></path>")
    for name, ((x, y), width) in at.items():
        box = f'x="{x - width / 2:.1f}" y="{y - BOX_HEIGHT / 2:.1f}" width="{width:.1f}" height="{BOX_HEIGHT}"'
        lines.append(f'<rect class="box" {box} rx="6"/><text x="{x:.1f}" y="{y + 4.5:.1f}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _curve(at: dict[str, tuple[Point, float]], source: str, target: str) -> str:
    """From the lower edge of one box to the upper edge of another, leaving and arriving towards the other's side."""
    ((x1, y1), width1), ((x2, y2), width2) = at[source], at[target]
    x1 += max(-width1 * 0.4, min(width1 * 0.4, (x2 - x1) * 0.2))
    x2 += max(-width2 * 0.4, min(width2 * 0.4, (x1 - x2) * 0.2))
    y1, y2 = y1 + BOX_HEIGHT / 2, y2 - BOX_HEIGHT / 2
    bend = (y2 - y1) * 0.45
    return f"M{x1:.1f} {y1:.1f} C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"


def current() -> str:
    """The picture of the code as it is now. Raises SystemExit for a package that is in no layer."""
    rows, arrows = layers(), imports(ROOT / PACKAGE)
    known = {name for row in rows for name in row}
    arrows = {source: targets - {"__main__"} for source, targets in arrows.items() if source != "__main__"}
    if missing := ({*arrows} | {target for targets in arrows.values() for target in targets}) - known:
        raise SystemExit(f"The layers in pyproject.toml do not name {', '.join(sorted(missing))}.")
    return draw(rows, arrows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the committed map is out of date")
    picture = current()
    if parser.parse_args().check:
        return int(MAP.read_text(encoding="utf-8") != picture)
    MAP.write_text(picture, encoding="utf-8")
    print(f"Written: {MAP.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
