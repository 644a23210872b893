"""The plugin that a server of vLLM's Neuron fork loads when this folder is on its PYTHONPATH, as `vllm-command` prints it.

vLLM calls every entry point of the group vllm.general_plugins in each of its processes, before it loads a model. The entry point
of this folder is in the dist-info beside this file. The folder is on the PYTHONPATH, and not the whole repository, whose other
folders the server could then import by mistake.
"""

from __future__ import annotations

import sys
from pathlib import Path


def register() -> None:
    """Installs the corrections. vLLM may call this more than once."""
    root = str(Path(__file__).resolve().parents[4])
    if root not in sys.path:
        sys.path.append(root)  # last, so that it hides nothing
    from mllama_demo.engine.vllm.corrections import install

    install()
