"""The imports of preloaded.py. A module of its own, because some of them read the environment when they are imported."""

from __future__ import annotations

import os

os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1")  # as the demo sets them before these imports

import transformers.models.mllama.image_processing_mllama
import transformers.models.mllama.modeling_mllama
import transformers.models.mllama.processing_mllama  # noqa: F401

import mllama_demo.assembly
import mllama_demo.backends
import mllama_demo.engine.torch.runner
import mllama_demo.explore.web.routes
import mllama_demo.openai_api.routes
import mllama_demo.present.web.routes
import mllama_demo.ui.mount  # noqa: F401
