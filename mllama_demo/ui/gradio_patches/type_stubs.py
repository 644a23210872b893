"""Lets the import of Gradio write no stubs for editors.

Gradio: 6.31.0, 6.17.3
Defect: the class of each component writes a .pyi file beside its own source when it is made. Gradio therefore parses the source
  of its 80 components at each import, which takes half of the time, and writes into the folder where it is installed.
Report: no upstream report known
Test: tests/unit/ui/test_gradio_patches.py::test_a_component_writes_no_stub_beside_its_source
"""

from __future__ import annotations

import sys
from types import ModuleType

from mllama_demo.runtime.import_hook import patch_on_import

_MODULE = "gradio.component_meta"  # Gradio's own import needs it before anybody could change it


def write_no_stubs() -> None:
    """To be called before Gradio is imported; later it does nothing."""
    if _MODULE not in sys.modules:
        patch_on_import(_MODULE, _without_stubs)


def _without_stubs(module: ModuleType) -> None:
    if not hasattr(module, "create_or_modify_pyi"):
        raise ImportError("Gradio no longer writes stubs in this way.")
    module.create_or_modify_pyi = lambda component_class, class_name, events: None  # type: ignore[attr-defined]  # of any module
