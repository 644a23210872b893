"""Writes the table of SDK releases into docs/neuron.md, from mllama_demo/checkpoint/neuron_sdks.yaml: `make reference`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "neuron.md"
START = "<!-- From mllama_demo/checkpoint/neuron_sdks.yaml. Change the file, then run `make reference`. -->"
END = "<!-- End of the table. -->"


def with_table(page: str) -> str:
    """The page with today's table between START and END."""
    from mllama_demo.checkpoint.neuron_sdks import table

    before, _, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE} lacks the comments that the table goes between.")
    return "\n".join([before + START, "", *table(), "", END + after])


def main() -> int:
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print("Written: the table of docs/neuron.md")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
