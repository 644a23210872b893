"""The composition root: builds every service once and mounts every feature on the web application.

Imports stand inside the functions, because a start has an order: first the port opens, then FastAPI and Gradio are imported, then
the model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mllama_demo.config.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mllama_demo.chat.token_estimate import TokenEstimate
    from mllama_demo.chat.tokenizer import Tokenizer
    from mllama_demo.engine.base import Backend
    from mllama_demo.explore.runner import Explorer
    from mllama_demo.storage.stores import Stores
    from mllama_demo.web.activity import Activity
    from mllama_demo.web.metrics import MeasuredBackend


class Demo:
    """A backend, its stores and the web application in front of them.

    Args:
        settings: The options of this deployment.
        on_ready: Called when the model can answer.
        on_down: Called with the reason when the model cannot answer any more.

    Raises:
        DemoError: The checkpoint, the machine or the database cannot be used.
    """

    def __init__(self, settings: Settings, on_ready: Callable[[], None], on_down: Callable[[str], None]) -> None:
        from mllama_demo.backends import make_backend
        from mllama_demo.storage.conversations import ConversationStore
        from mllama_demo.storage.database import Database
        from mllama_demo.storage.stores import Stores

        self._settings = settings
        self.backend, self._tokenizer = make_backend(settings, on_ready=on_ready, on_down=on_down)
        self._stores: Stores | None = None
        if not settings.api_only:
            self._stores = Stores.of(ConversationStore(Database(settings.store_url)), settings.max_kept_runs)

    def app(self) -> FastAPI:
        """The web application. The backend need not be started."""
        return create_app(self._settings, self.backend, self._tokenizer, self._stores)

    def close(self) -> None:
        self.backend.close()
        if self._stores is not None:
            self._stores.close()


def create_app(
    settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate, stores: Stores | None = None
) -> FastAPI:
    """The web application with every feature that the settings ask for.

    Args:
        settings: The options of this deployment.
        backend: Answers requests; need not be ready yet.
        tokenizer: The tokenizer of the backend's model, or an estimate where a remote server has the tokenizer.
        stores: Where conversations are kept. Without stores the application is the API alone.
    """
    from fastapi import FastAPI

    import mllama_demo
    from mllama_demo.explore.runner import Explorer
    from mllama_demo.explore.web.api import explore_routes
    from mllama_demo.openai_api.routes import add_api
    from mllama_demo.web.activity import Activity
    from mllama_demo.web.auth.identity import VisitorMiddleware
    from mllama_demo.web.auth.login import add_auth_middleware
    from mllama_demo.web.metrics import MeasuredBackend, Metrics

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    app = FastAPI(title=settings.title, version=mllama_demo.__version__, docs_url=None, redoc_url=None)
    metrics = Metrics(backend, (settings.served_model_name or [backend.info.model])[0])
    activity = Activity()
    measured = MeasuredBackend(backend, metrics, activity)
    explorer = Explorer(measured, tokenizer, settings)
    app.include_router(explore_routes(explorer, settings, measured.require_capacity))
    add_api(app, settings, measured, tokenizer, metrics)
    if stores is None:
        add_auth_middleware(app, settings, None)
    else:
        _add_pages(app, settings, measured, tokenizer, stores, explorer, activity)
    app.add_middleware(VisitorMiddleware)
    return app


def _add_pages(
    app: FastAPI,
    settings: Settings,
    backend: MeasuredBackend,
    tokenizer: Tokenizer | TokenEstimate,
    stores: Stores,
    explorer: Explorer,
    activity: Activity,
) -> None:
    """The pages for people: sign-in, the operator's page, shared conversations, Explore, Present, and the chat at /."""
    from mllama_demo.ui.gradio_patches.environment import prepare_environment

    prepare_environment()  # before anything below imports Gradio
    from mllama_demo.config.branding import load_brand
    from mllama_demo.explore.web.routes import explore_page
    from mllama_demo.explore.web.service import ExploreService
    from mllama_demo.generation.service import GenerationService
    from mllama_demo.generation.tasks import AnswerTasks
    from mllama_demo.present.presenter import Presenter
    from mllama_demo.present.web.routes import add_present
    from mllama_demo.storage.sessions import Sessions
    from mllama_demo.ui.chat_service import ChatService
    from mllama_demo.ui.mount import mount_ui
    from mllama_demo.web.admin.routes import add_admin
    from mllama_demo.web.auth.login import LoginService, add_auth_middleware, add_login, credentials
    from mllama_demo.web.guide.routes import add_guide
    from mllama_demo.web.kiosk import KioskMiddleware
    from mllama_demo.web.not_found import NotFoundPages
    from mllama_demo.web.requests import StaticAssets
    from mllama_demo.web.share.routes import add_share_page

    app.mount("/web/static", StaticAssets(directory=Path(__file__).parent / "web" / "static"))
    brand = load_brand(settings)
    app.add_middleware(NotFoundPages, brand)
    if settings.kiosk:
        app.add_middleware(KioskMiddleware, brand)
    known = credentials(settings)
    login = LoginService(Sessions(stores.conversations.database, known)) if known else None
    add_auth_middleware(app, settings, login)
    if login is not None:
        add_login(app, settings, brand, login)
    if not settings.kiosk:
        app.include_router(explore_page(ExploreService(explorer, tokenizer, settings, stores), brand))
        add_present(app, settings, Presenter(settings, backend, tokenizer), backend, brand)
    add_share_page(app, settings, stores, brand)  # after the addresses below /share/ that Explore has
    if settings.embedded and not settings.kiosk:
        add_guide(app, brand)
    if login is not None and (settings.admins or settings.admin_key):
        add_admin(app, settings, stores.feedback, brand, backend, activity, login)
    generation = GenerationService(backend, tokenizer, stores.conversations, settings)
    tasks = AnswerTasks(generation, stores.conversations, stores.drafts)
    mount_ui(app, settings, ChatService(generation, tasks, stores, settings.allowed_media_hosts, brand), stores, brand)
