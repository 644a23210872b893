"""Checks requests before Gradio gets them, and turns what Gradio cannot handle into a named error.

Gradio: 6.31.0, 6.17.3
Defect: Gradio fetches the address that a forged file object names, and the address in /file=, from this server: from networks and
  hosts that `allowed_media_hosts` forbids, without a size limit, with errors that tell open ports. In a mounted application it
  takes any file of this server whose path a forged file object names, and copies it to where visitors download. It answers an
  unknown event, a value of the wrong type and a broken multipart body with status 500 and a traceback in the log, and shows the
  text of every exception, which may name a path of this server. It has many routes that the chat page does not use. Up to 6.17,
  it lets pages of other ports of this machine read all answers, although the application around it decides on that.
Report: no upstream report known
Test: tests/api/ui/test_gradio_requests.py::test_a_forged_file_is_refused_and_nothing_is_fetched
"""

from __future__ import annotations

import contextlib
import errno
import html
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from cachetools import LRUCache
from fastapi import FastAPI
from gradio import blocks, helpers, processing_utils, queueing, route_utils, routes, utils
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama_demo.checkpoint.machine import free_bytes
from mllama_demo.images.loading import clean_name
from mllama_demo.runtime.failures import FAILURES
from mllama_demo.web.auth.identity import owner_of
from mllama_demo.web.auth.login import SIGNED_IN_USER
from mllama_demo.web.errors import INTERNAL_ERROR, reason_of
from mllama_demo.web.requests import limit_body

log = logging.getLogger(__name__)

MAX_JSON_BYTES = 2 * 2**20  # the longest question has 20,000 characters
MIN_FREE_DISK_BYTES = 2**30
MAX_PAGES = 100_000  # whose visitors are remembered
MAX_FILES = 100  # in a request of an event
_MAX_PATH_CHARACTERS = 1024  # resolving a path takes a system call for each of its parts
_HEARTBEAT = re.compile(r"/gradio_api/heartbeat/([^/]+)/?")
# What the page, its manifest and the JavaScript of Gradio ask for.
_GET = re.compile(
    r"/|/(config|theme\.css|robots\.txt|favicon\.ico|manifest\.json|pwa_icon(/\d+)?)/?"
    r"|/(static|svelte|assets)(/(?!\.\.?/)[\w@+. -]+)+"
    r"|/gradio_api/(info|openapi\.json|app_id|user|token|login_check|theme\.css|startup-events|queue/(data|status)"
    r"|upload_progress)/?|/gradio_api/heartbeat/[^/]+|/gradio_api/file=(?!\w{2,}:/).+"  # C:/ is a drive
)
_EVENT = re.compile(r"/gradio_api/(queue/join|run/[^/]+)/?")
_POST = re.compile(_EVENT.pattern + r"|/gradio_api/(cancel|reset|upload)/?")
# Faults of the server. Others, such as a name that is too long, come from the request.
_SERVER_FAULTS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EROFS", "EDQUOT", "EACCES", "EPERM", "EIO", "EMFILE", "ENFILE", "ENOMEM")
    if hasattr(errno, name)
)
_FILE = "/gradio_api/file="
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADDRESS = re.compile(r"\s*(\w[\w+.-]*:)?[/\\]{2}|\s*data:", re.IGNORECASE)
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_FOUND = "There is no such address on this server."
_UNREADABLE = "The request cannot be read: a part of it is missing, malformed or of the wrong type."
CANNOT_STORE = "This server cannot read or store a file at the moment; its log has the cause."
NO_ADDRESSES = "A file must be uploaded before it is used; an address in place of a file is not allowed."
NOT_UPLOADED = "{} must be uploaded before it is used; please add it again."


class _Refused(Exception):
    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        # A body that was not read stays in the connection.
        self.response = JSONResponse({"detail": sentence, "error": sentence}, status, {"Connection": "close"})


class CheckedRequests:
    """The ASGI application of Gradio, with requests checked before it and failures named after it.

    Args:
        demo: The page, whose events may be called.
        private: A folder whose files Gradio must not serve, though `allowed_paths` has it.
    """

    def __init__(self, app: ASGIApp, demo: gr.Blocks, private: Path | None = None) -> None:
        self._app, self._demo = app, demo
        self._private = private.resolve() if private else None
        self._owners: LRUCache[str, str | None] = LRUCache(MAX_PAGES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded = _NamedFailures(send)
        try:
            receive = await self._checked(scope, receive)
            await self._app(scope, receive, guarded.send)
            if guarded.failed:
                raise _Refused(_UNREADABLE)
        except _Refused as refusal:
            FAILURES.add(reason_of(refusal.response.status_code), refusal)
            await refusal.response(scope, receive, send)
        except HTTPException as error:  # of a body that is too large or too slow
            if guarded.started:
                raise
            FAILURES.add(getattr(error, "reason", None) or reason_of(error.status_code), error.detail)
            headers = dict(error.headers or {})
            await JSONResponse({"detail": error.detail, "error": error.detail}, error.status_code, headers)(scope, receive, send)
        except Exception as error:
            ours = isinstance(error, OSError) and error.errno in _SERVER_FAULTS
            level = logging.ERROR if ours else logging.WARNING
            log.log(level, "Gradio could not handle a request to %.200s: %.200r", scope["path"], error)
            if guarded.started and not guarded.complete:  # a stream, which told the failure before it failed
                await send({"type": "http.response.body", "body": b""})
            elif not guarded.started:
                refusal = _Refused(CANNOT_STORE, 503) if ours else _Refused(_UNREADABLE)
                FAILURES.add(reason_of(refusal.response.status_code), error if ours else refusal)
                await refusal.response(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """The body to pass on. Raises _Refused and HTTPException."""
        path, method = scope["path"], scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            raise _Refused(f"{method:.20} is not allowed here; GET, HEAD and POST are.", 405)
        if not (_POST if method == "POST" else _GET).fullmatch(path):
            raise _Refused(_NOT_FOUND, 404)
        if path.startswith(_FILE) and not self._may_serve(path.removeprefix(_FILE)):
            raise _Refused(_NOT_FOUND, 404)
        # Gradio fails for several ranges. A server may ignore the header.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"range" or b"," not in value]
        named = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
        if found := _HEARTBEAT.fullmatch(path):
            named.append(found[1])
        for session in named:
            self._check_owner(scope, session)
        if method == "POST" and path.rstrip("/").endswith("/upload"):
            if free_bytes(Path(utils.get_upload_folder())) < MIN_FREE_DISK_BYTES:
                raise _Refused("The disk of this server is nearly full, so that nothing can be uploaded at the moment.", 503)
            return receive
        if method != "POST":
            return receive
        try:
            body = await Request(scope, limit_body(scope, receive, MAX_JSON_BYTES)).body()
        except ClientDisconnect:
            raise _Refused("The client closed the connection.", 499) from None
        if _HALF_CHARACTER.search(body):
            body = _with_whole_characters(body)
        values = _parsed(body)
        if _EVENT.fullmatch(path):
            self._check_event(values)
        if isinstance(session := values.get("session_hash"), str):
            self._check_owner(scope, session)
        return _replay(body, receive)

    def _may_serve(self, path: str) -> bool:
        resolved = _resolved(path)
        if resolved is None:
            return False
        # Some file systems take letters of either case.
        return self._private is None or not _same_case(resolved).is_relative_to(_same_case(self._private))

    def _check_owner(self, scope: Scope, session: str) -> None:
        """Raises _Refused for the page of another visitor: Gradio gives its answers to whoever names the page."""
        owner = owner_of(Headers(scope=scope).get("cookie"), scope.get(SIGNED_IN_USER))
        if self._owners.setdefault(session, owner) != owner:
            raise _Refused("This page belongs to another visitor; please reload it.", 403)

    def _check_event(self, values: dict[str, Any]) -> None:
        number = values.get("fn_index")
        event = self._demo.fns.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if event is None or event.fn is None:
            raise _Refused("fn_index must be the number of an event of this page.")
        data, count = values.get("data"), len(event.inputs)
        if not isinstance(data, list) or len(data) != count:
            raise _Refused(f"data must be a list of the {count} values that this event takes.")
        session = values.get("session_hash")
        if session is not None and not (isinstance(session, str) and _SESSION.fullmatch(session)):
            raise _Refused("session_hash must be 1 to 64 letters, digits, _ or -.")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused("The body is not valid JSON.") from None
    if not isinstance(values, dict):
        raise _Refused("The body must be a JSON object.")
    paths = dict.fromkeys(_file_paths(values))
    if any(_ADDRESS.match(path) for path in paths):
        raise _Refused(NO_ADDRESSES)
    if len(paths) > MAX_FILES:
        raise _Refused(f"The request names {len(paths)} files; at most {MAX_FILES} are allowed.")
    if paths:
        folder = Path(utils.get_upload_folder()).resolve()
        for path in paths:
            if not _is_uploaded(path, folder):
                raise _Refused(NOT_UPLOADED.format(_name_of(path)))
    return values


def _with_whole_characters(body: bytes) -> bytes:
    """JSON with a replacement character in place of half a surrogate pair, which Gradio could not send back."""
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(body), ensure_ascii=False)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    return body


def _is_uploaded(path: str, folder: Path) -> bool:
    """Whether a path lies in `folder`, Gradio's cache, which has the uploads and copies of what the page was given."""
    resolved = _resolved(path)
    return resolved is not None and resolved.is_relative_to(folder)


def _name_of(path: str) -> str:
    """The name of the file, for a sentence that Gradio shows as HTML."""
    name = path[max(path.rfind("/"), path.rfind("\\")) + 1 :]
    return html.escape(clean_name(name), quote=False)


def _resolved(path: str) -> Path | None:
    """The absolute path without links, or None for a path that no file can have."""
    if len(path) > _MAX_PATH_CHARACTERS:
        return None
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # a name that is too long or has a null byte; a loop of links
        return None


def _same_case(path: Path) -> Path:
    return Path(str(path).casefold())


def _file_paths(values: Any) -> Iterator[str]:
    """The paths of everything that Gradio may take for a file."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str):
                yield path
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


class _NamedFailures:
    """Sends the response of Gradio, but a response of status 500 only if the server is to blame.

    Gradio answers 500 when it cannot read a request, and when an event raises a gr.Error, which is a sentence for the visitor.

    Attributes:
        failed: a response without such a sentence was not sent; its cause comes as an exception after it.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._failure: Message | None = None
        self._content = b""
        self.started = self.complete = self.failed = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500:
            self._failure = message
            return
        ends = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self._failure is None:
            self.started, self.complete = True, ends
            await self._send(message)
            return
        self._content += message.get("body", b"")
        if ends:
            await self._send_failure(self._failure)

    async def _send_failure(self, start: Message) -> None:
        if not Headers(raw=start["headers"]).get("content-type", "").startswith("application/json"):
            self.failed = True
            return
        self.started = self.complete = True
        status = 500 if INTERNAL_ERROR.encode() in self._content else 400
        await self._send({**start, "status": status})
        await self._send({"type": "http.response.body", "body": self._content})


# --- inside Gradio -------------------------------------------------------------------------------------------------------


def mount_checked(app: FastAPI, demo: gr.Blocks, private: Path | None = None, **options: Any) -> None:
    """gr.mount_gradio_app at the root of `app`, with all that this module mends. private: see CheckedRequests."""
    _fetch_nothing()
    demo.has_launched = True  # else Gradio does not check paths
    _name_wrong_values(demo)
    _hide_exceptions()
    gr.mount_gradio_app(app, demo, path="/", **options)
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    _leave_origins_to(mounted.app)
    mounted.app = CheckedRequests(mounted.app, demo, private)


def _leave_origins_to(page: Any) -> None:
    """Removes Gradio's rules for other origins; assembly.py has those of the whole application."""
    page.user_middleware = [entry for entry in page.user_middleware if entry.cls is not route_utils.CustomCORSMiddleware]


def _fetch_nothing() -> None:
    """Forbids Gradio to fetch anything, whatever the way to it."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise gr.Error(NO_ADDRESSES, print_exception=False)

    def refuse_at_once(*_: Any, **__: Any) -> Any:
        raise gr.Error(NO_ADDRESSES, print_exception=False)

    for name in ("async_ssrf_protected_get", "async_ssrf_protected_download"):
        setattr(processing_utils, name, refuse)
    for name in ("ssrf_protected_download", "save_url_to_cache"):
        setattr(processing_utils, name, refuse_at_once)


def _name_wrong_values(demo: gr.Blocks) -> None:
    """Lets an event with a value that a component cannot read fail with a sentence, and without a traceback in the log."""
    preprocess = demo.preprocess_data

    async def named(*args: Any, **kwargs: Any) -> Any:
        try:
            return await preprocess(*args, **kwargs)
        except gr.Error as error:
            raise gr.Error(error.message, print_exception=False) from None
        except Exception as error:  # each component raises errors of its own, some with a path of this server
            log.info("An event was called with a value that it does not take: %s", type(error).__name__)
            raise gr.Error("A value of this event has the wrong type.", print_exception=False) from None

    demo.preprocess_data = named
    special_args = helpers.special_args

    def named_special_args(*args: Any, **kwargs: Any) -> Any:
        try:
            return special_args(*args, **kwargs)
        except Exception as error:
            log.info("An event was called with data that it does not take: %s", type(error).__name__)
            raise gr.Error("The data of this event is malformed.", print_exception=False) from None

    blocks.__dict__["special_args"] = named_special_args


def _hide_exceptions() -> None:
    """Shows the sentences of gr.Error only. The text of another exception is for the log."""
    original = utils.error_payload

    def payload(error: BaseException | None, show_error: bool) -> dict[str, Any]:
        if error is None or isinstance(error, gr.Error):
            return original(error, show_error)
        return {"error": INTERNAL_ERROR, "visible": True}

    for module in (utils, queueing, routes):
        if hasattr(module, "error_payload"):
            module.__dict__["error_payload"] = payload
