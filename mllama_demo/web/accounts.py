"""The pages around the chat, for the people behind it: share links, signing in, the operator's page."""

from __future__ import annotations

from fastapi import FastAPI

from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.sessions import Sessions
from mllama_demo.web.admin.routes import add_admin
from mllama_demo.web.auth.login import LoginService, add_login, credentials
from mllama_demo.web.metrics import MeasuredBackend
from mllama_demo.web.share.routes import add_share_page


def add_people(app: FastAPI, settings: Settings, store: ConversationStore | None, brand: Brand, backend: MeasuredBackend) -> None:
    """Adds the routes that the configuration asks for. Without a store (the API alone) there is no page to add."""
    known = credentials(settings)
    desk = LoginService(Sessions(store.database, known)) if store is not None and known else None
    add_login(app, settings, store, brand, desk)
    if store is None:
        return
    add_share_page(app, settings, store, brand)
    if desk is not None and (settings.admins or settings.admin_key):
        add_admin(app, settings, store, brand, backend, desk)
