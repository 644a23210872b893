"""The web application: an API for machines, the Gradio UI for people, one backend behind both."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from fastapi import FastAPI

import mllama_demo
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend
from mllama_demo.explore.runner import Explorer
from mllama_demo.generation.service import GenerationService
from mllama_demo.openai_api.routes import add_api
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.web.accounts import add_people
from mllama_demo.web.auth.identity import VisitorMiddleware
from mllama_demo.web.metrics import MeasuredBackend, Metrics
from mllama_demo.web.requests import StaticAssets


def create_app(
    settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate, store: ConversationStore | None
) -> FastAPI:
    """FastAPI with the API and, unless there is no store to keep conversations in, the UI mounted at /.

    The backend may still be loading.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    app = FastAPI(title=settings.title, version=mllama_demo.__version__, docs_url=None, redoc_url=None)
    metrics = Metrics(backend, (settings.served_model_name or [backend.info.model])[0])
    measured = MeasuredBackend(backend, metrics)
    brand = load_brand(settings)
    add_api(app, settings, measured, tokenizer, metrics)
    add_people(app, settings, store, brand, measured)
    app.add_middleware(VisitorMiddleware)
    if store is not None:
        # Gradio reads these when it is imported: no analytics, no version check, nothing leaves this machine.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        if "GRADIO_TEMP_DIR" not in os.environ:
            # Gradio names its copies by content and deletes them when it ends: in a shared folder one demo that ends takes the
            # example pictures of the others along.
            os.environ["GRADIO_TEMP_DIR"] = folder = tempfile.mkdtemp(prefix="mllama-demo-gradio-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        from mllama_demo.explore.web.routes import explore_page
        from mllama_demo.present.web.routes import add_present
        from mllama_demo.ui.chat_page import mount_ui

        app.mount("/web/static", StaticAssets(directory=Path(__file__).parent / "web" / "static"))
        app.include_router(explore_page(Explorer(measured, tokenizer, settings), tokenizer, settings, store, brand))
        add_present(app, settings, measured, tokenizer, brand)
        mount_ui(app, settings, GenerationService(measured, tokenizer, store, settings), store, brand)
    return app
