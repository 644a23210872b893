"""The imports of preloaded.py. A module of its own, because some of them read the environment when they are imported."""

from __future__ import annotations

import importlib
import os

from mllama_demo.ui.gradio_patches.type_stubs import write_no_stubs

os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1")  # as the demo sets them before these imports
write_no_stubs()

MODULES = (
    "anyio._backends._asyncio",
    "mllama_demo.assembly",
    "mllama_demo.backends",
    "mllama_demo.cli",
    "mllama_demo.engine.torch.runner",
    "mllama_demo.explore.web.routes",
    "mllama_demo.openai_api.routes",
    "mllama_demo.present.web.routes",
    "mllama_demo.ui.mount",
    "mllama_demo.web.admin.routes",
    "mllama_demo.web.loading_app",
    "mllama_demo.web.serve",
    "mllama_demo.web.share.routes",
    "pydantic.v1",
    "sqlalchemy.dialects.sqlite",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)

try:
    for name in MODULES:
        importlib.import_module(name)
    from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
    from mllama_demo.engine.torch.image_processor import load_image_processor

    load_image_processor(EMBEDDED_CHECKPOINT)  # imports the module of the checkpoint's processor
except ImportError as error:  # multiprocessing ignores an ImportError, and every start would import all of this again
    raise RuntimeError(f"the modules of the demo cannot be imported in advance: {error}") from error
