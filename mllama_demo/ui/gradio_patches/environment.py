"""Imports Gradio with the settings that it reads from the environment at that moment.

Gradio: 6.31.0, 6.17.3
Defect: without these variables Gradio sends analytics and asks a public server for its newest version. Its cache of files is
  one folder for all programs of the machine, named by content, and a program that ends deletes its files there: the example
  images of other programs are deleted too. The import makes HTTP clients, which fail for a proxy that httpx does not know, such
  as ALL_PROXY=socks://…, although a page on this machine needs no proxy.
Report: https://github.com/gradio-app/gradio/issues/8098
Test: tests/unit/ui/test_gradio_patches.py::test_gradio_sends_no_analytics_and_has_a_cache_folder_of_its_own
"""

from __future__ import annotations

import os

from mllama_demo.runtime.temporary import TemporaryFolder
from mllama_demo.ui.gradio_patches.type_stubs import write_no_stubs


def import_gradio() -> None:
    """Imports Gradio without analytics and stubs, with a cache folder of this process alone, and without a proxy."""
    write_no_stubs()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = str(TemporaryFolder().path)
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    os.environ.update(dict.fromkeys(before, "*"))
    try:
        import gradio  # noqa: F401
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
