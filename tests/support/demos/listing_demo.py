"""The demo, which writes at its end which modules its web process has imported. Options as for app.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import app

if __name__ == "__main__":
    code = app.main(sys.argv[1:])
    Path("modules").write_text("\n".join(sorted(sys.modules)), encoding="utf-8")
    sys.exit(code)
