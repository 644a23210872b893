"""The composition root: builds every service once and mounts every feature on the web application.

Imports stand inside the functions, because a start has an order: first the port opens, then FastAPI and Gradio are imported, then
the model is loaded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mllama_demo.config.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mllama_demo.chat.token_estimate import TokenEstimate
    from mllama_demo.chat.tokenizer import Tokenizer
    from mllama_demo.engine.base import Backend
    from mllama_demo.engine.neuron.monitor import NeuronMonitor
    from mllama_demo.explore.runner import Explorer
    from mllama_demo.storage.stores import Stores
    from mllama_demo.web.activity import Activity
    from mllama_demo.web.admin.figures import OperatorView
    from mllama_demo.web.idle import IdleTime
    from mllama_demo.web.metrics import MeasuredBackend
    from mllama_demo.web.shutdown import Shutdown


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
        from mllama_demo.backends import make_served_backend
        from mllama_demo.engine.neuron.monitor import NeuronMonitor
        from mllama_demo.images.threads import set_image_limits
        from mllama_demo.images.worker_pool import WORKERS
        from mllama_demo.storage.conversations import ConversationStore
        from mllama_demo.storage.database import Database
        from mllama_demo.storage.stores import Stores
        from mllama_demo.web.activity import Activity
        from mllama_demo.web.idle import IdleReminder, IdleTime
        from mllama_demo.web.shutdown import Shutdown

        def ready() -> None:
            on_ready()
            # The first image need not wait for a process to start, nor the start for it.
            threading.Thread(target=WORKERS.start_one, name="start of an image worker", daemon=True).start()

        self._settings = settings
        set_image_limits(settings.image_limits)
        self.backend, self._tokenizer = make_served_backend(settings, on_ready=ready, on_down=on_down)
        self._shutdown = Shutdown()
        self._stores: Stores | None = None
        if not settings.api_only:
            self._stores = Stores.of(ConversationStore(Database(settings.store_url)), settings.max_kept_runs)
        self._activity = Activity()
        self._idle = IdleTime(self.backend, self._activity)
        self._reminder: IdleReminder | None = None
        if settings.idle_reminder_minutes:
            self._reminder = IdleReminder(self._idle, settings.idle_reminder_minutes, lambda: self.backend.info.device)
        self._neuron = NeuronMonitor.installed()

    def app(self) -> FastAPI:
        """The web application. The backend need not be started."""
        for started in (self._reminder, self._neuron):
            if started is not None:
                started.start()
        return create_app(
            self._settings,
            self.backend,
            self._tokenizer,
            self._stores,
            self._shutdown,
            activity=self._activity,
            idle=self._idle,
            neuron=self._neuron,
        )

    async def drain(self, limit_s: float) -> None:
        """Takes no new requests, and returns when all others have ended, those left after limit_s seconds with an error."""
        await self._shutdown.drain(self.backend.cancel, limit_s)

    def close(self) -> None:
        for running in (self._reminder, self._neuron):
            if running is not None:
                running.close()
        self.backend.close()
        if self._stores is not None:
            self._stores.close()


def create_app(
    settings: Settings,
    backend: Backend,
    tokenizer: Tokenizer | TokenEstimate,
    stores: Stores | None = None,
    shutdown: Shutdown | None = None,
    *,
    activity: Activity | None = None,
    idle: IdleTime | None = None,
    neuron: NeuronMonitor | None = None,
) -> FastAPI:
    """The web application with every feature that the settings ask for.

    Args:
        settings: The options of this deployment.
        backend: Answers requests; need not be ready yet.
        tokenizer: The tokenizer of the backend's model, or an estimate where a remote server has the tokenizer.
        stores: Where conversations are kept. Without stores the application is the API alone.
        shutdown: Ends the open requests when the program ends.
        activity: The requests of now and of the last hour.
        idle: How long there was no request.
        neuron: The figures of the Neuron devices; None on a machine without neuron-monitor.
    """
    from fastapi import FastAPI
    from starlette.middleware.cors import CORSMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    import mllama_demo
    from mllama_demo.engine.process.backend import ProcessBackend
    from mllama_demo.explore.runner import Explorer
    from mllama_demo.explore.web.api import explore_routes
    from mllama_demo.openai_api.routes import IGNORED, add_api
    from mllama_demo.web.activity import Activity
    from mllama_demo.web.admin.figures import OperatorView
    from mllama_demo.web.auth.identity import VisitorMiddleware
    from mllama_demo.web.auth.login import add_auth_middleware
    from mllama_demo.web.body_limits import BodyLimits
    from mllama_demo.web.cross_site import CrossSiteRequests
    from mllama_demo.web.head_requests import HeadRequests
    from mllama_demo.web.http_metrics import HttpMetrics
    from mllama_demo.web.idle import IdleTime
    from mllama_demo.web.limits import ClientLimits, LimitedBackend
    from mllama_demo.web.metrics import MeasuredBackend, Metrics
    from mllama_demo.web.proxies import ProxyWarnings
    from mllama_demo.web.shutdown import Shutdown

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    app = FastAPI(title=settings.title, version=mllama_demo.__version__, docs_url=None, redoc_url=None)
    database_failure = None if stores is None else lambda: stores.conversations.database.failure
    activity = activity or Activity()
    idle = idle or IdleTime(backend, activity)
    name = (settings.served_model_name or [backend.info.model])[0]
    metrics = Metrics(backend, name, database_failure, idle_s=idle.seconds, neuron=neuron)
    measured = MeasuredBackend(LimitedBackend(backend, ClientLimits(settings)), metrics, activity, shutdown or Shutdown())
    explorer = Explorer(measured, tokenizer, settings)
    app.include_router(explore_routes(explorer, settings, measured.require_capacity))
    add_api(app, settings, measured, tokenizer, metrics, database_failure or (lambda: None))
    if stores is None:
        add_auth_middleware(app, settings, None)
    else:
        restart = backend.restart if isinstance(backend, ProcessBackend) else None
        failure = database_failure or (lambda: None)
        operator = OperatorView(measured, activity, idle, neuron, restart, failure)
        _add_pages(app, settings, measured, tokenizer, stores, explorer, operator)
    app.add_middleware(CrossSiteRequests, settings.allowed_origins or ())
    # Instead of Gradio's, which lets every page of this machine use the page with the visitor's cookies (checked_requests.py).
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins or (),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id", "Retry-After", IGNORED],
    )
    if settings.allowed_hosts is not None:
        app.add_middleware(TrustedHostMiddleware, settings.allowed_hosts, www_redirect=False)
    app.add_middleware(BodyLimits, settings.request_memory_mb * 2**20)
    app.add_middleware(ProxyWarnings)
    app.add_middleware(VisitorMiddleware)
    app.add_middleware(HeadRequests)
    app.add_middleware(HttpMetrics, metrics)
    return app


def _add_pages(
    app: FastAPI,
    settings: Settings,
    backend: MeasuredBackend,
    tokenizer: Tokenizer | TokenEstimate,
    stores: Stores,
    explorer: Explorer,
    operator: OperatorView,
) -> None:
    """The pages for people: sign-in, the operator's page, shared conversations, Explore, Present, and the chat at /."""
    from mllama_demo.ui.gradio_patches.environment import import_gradio

    import_gradio()  # before anything below imports it
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
        add_admin(app, settings, stores.feedback, brand, operator, login)
    generation = GenerationService(backend, tokenizer, stores.conversations, settings)
    tasks = AnswerTasks(generation, stores.conversations, stores.drafts)
    mount_ui(app, settings, ChatService(generation, tasks, stores, settings.allowed_media_hosts, brand), stores, brand)
