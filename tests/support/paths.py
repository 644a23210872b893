"""Folders of the repository that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
DEMOS = ROOT / "tests" / "support" / "demos"  # programs that are started in place of app.py
EXAMPLE_IMAGES = ROOT / "mllama_demo" / "images" / "example_images"
