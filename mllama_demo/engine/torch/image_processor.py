"""The image processor of a checkpoint, as transformers 4 and 5 have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers


def load_image_processor(path: Path) -> Any:
    """Never downloads. transformers 4 warns unless it is told to compute with Pillow, as it does for this model in any case."""
    pillow = {"use_fast": False} if transformers.__version__.startswith("4.") else {}
    return transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True, **pillow)
