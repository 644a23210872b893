"""Access to Gradio's cache of files: uploads, and copies of files that handlers returned.

Gradio: 6.31.0
Defect: Gradio copies every file that a handler returns into its cache, and has no function that deletes a file from it before
  the `delete_cache` age. What a visitor of a kiosk uploaded must be deleted at once.
Report: https://github.com/gradio-app/gradio/issues/8098
Test: tests/unit/ui/test_sidebar.py::test_a_file_exported_on_a_kiosk_is_deleted_when_the_page_is_closed
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gradio.processing_utils import hash_file, save_file_to_cache
from gradio.utils import get_upload_folder

from mllama_demo.images.examples import EXAMPLES_FOLDER


def put_in_cache(path: Path) -> str:
    """The path of a copy in the cache. Gradio makes no second copy of it, and deletes it with the uploads."""
    return save_file_to_cache(path, get_upload_folder())


def is_in_cache(path: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(Path(get_upload_folder()).resolve())


def delete_from_cache(path: Path) -> None:
    """Deletes all copies of a file: the cache has a folder for each content. Copies of the example images stay."""
    content = hash_file(path)
    if content not in {hash_file(example) for example in EXAMPLES_FOLDER.iterdir() if example.is_file()}:
        shutil.rmtree(Path(get_upload_folder()) / content, ignore_errors=True)
