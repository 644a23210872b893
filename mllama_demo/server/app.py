"""The web application: health for machines, the Gradio UI for people, one backend behind both."""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastapi.responses import JSONResponse

import mllama_demo
from mllama_demo.answer import Answerer
from mllama_demo.config import Settings
from mllama_demo.store import Store
from mllama_demo.visitors import VisitorMiddleware


def create_app(settings: Settings, answerer: Answerer, store: Store) -> FastAPI:
    """FastAPI with /health and the UI mounted at /. The backend may still be loading."""
    # Gradio reads these when it is imported: no analytics, no version check, nothing leaves this machine.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from mllama_demo.ui.layout import mount_ui

    app = FastAPI(title=settings.title, version=mllama_demo.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(VisitorMiddleware)

    @app.get("/health")
    def health() -> JSONResponse:
        """200 when a question could be answered now, 503 with the reason otherwise."""
        status = answerer.backend.status()
        body = {"status": status.state, "running": status.running, "waiting": status.waiting, "slots": status.slots}
        if status.state == "ready":
            return JSONResponse(body)
        return JSONResponse({**body, "reason": status.detail}, status_code=503, headers={"Retry-After": "2"})

    mount_ui(app, settings, answerer, store)
    return app
