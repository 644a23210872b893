"""Settings that Gradio reads from the environment when it is imported. This module does not import Gradio.

Gradio: 6.31.0, 6.17.3
Defect: without these variables Gradio sends analytics and asks a public server for its newest version. Its cache of files is
  one folder for all programs of the machine, named by content, and a program that ends deletes its files there: the example
  images of other programs are deleted too.
Report: https://github.com/gradio-app/gradio/issues/8098
Test: tests/unit/ui/test_gradio_patches.py::test_gradio_sends_no_analytics_and_has_a_cache_folder_of_its_own
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile


def prepare_environment() -> None:
    """Turns analytics off and gives this process a cache folder of its own. Call it before Gradio is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = folder = tempfile.mkdtemp(prefix="mllama-demo-gradio-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
