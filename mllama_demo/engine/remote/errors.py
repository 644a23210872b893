"""Why a server could not answer, in one sentence with its own words. Knows the openai client's exceptions by their fields
alone, so that importing this imports no client."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError, PromptTooLong

_MOST_CHARACTERS = 400
_LENGTH = re.compile(r"maximum (?:context|model) length (?:is|of) (\d+)")
_PROMPT = re.compile(r"\((\d+) in the messages|(?:has|contains at least) (\d+) input tokens|\(length (\d+)\)")


class RemoteUnreachable(BackendUnavailable):
    """Nobody listens at the address, or somebody who does not speak HTTP."""


class RemoteTimeout(BackendUnavailable):
    """The server accepted the connection and then said nothing for too long. It may be busy."""


@dataclass(frozen=True)
class TooLong:
    """A refusal for length. limit: of prompt and answer together, in tokens. prompt: as the server counts it, if it told."""

    limit: int
    prompt: int | None


def too_long(error: Exception) -> TooLong | None:
    """What the server says about lengths, when they are why it refused."""
    said = server_message(error)
    if getattr(error, "status_code", None) not in (400, 413, 422) or not (limit := _LENGTH.search(said)):
        return None
    prompt = _PROMPT.search(said)
    return TooLong(int(limit[1]), int(next(filter(None, prompt.groups()))) if prompt else None)


def explained(error: Exception, url: str, secret: str | None = None) -> DemoError:
    """The error for the person who asked. error: whatever the client raised. secret: what must not be read in it, even if the
    server repeats it."""
    if isinstance(error, DemoError):
        return error
    found = _explained(error, url)
    return type(found)(str(found).replace(secret, "…")) if secret else found


def _explained(error: Exception, url: str) -> DemoError:
    server = f"The server at {url}"
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _refused(error, status, server)
    names = {type(cause).__name__ for cause in _causes(error)}
    if "ConnectTimeout" in names:
        return RemoteUnreachable(f"{server} cannot be reached: it did not accept the connection in time.")
    if any("Timeout" in name for name in names):
        return RemoteTimeout(f"{server} was silent for too long; it may be overloaded or stuck.")
    if "APIConnectionError" in names or any(isinstance(cause, OSError) for cause in _causes(error)):
        return RemoteUnreachable(f"{server} cannot be reached: {_connection(error)}.")
    if "RemoteProtocolError" in names or "ReadError" in names:
        return RemoteUnreachable(f"{server} broke off the connection.")
    if "APIError" in names:
        return BackendUnavailable(f"{server} failed on this request: {_shortened(str(error))}")
    return BackendUnavailable(f"{server} answered what is no chat completion ({_shortened(str(error)) or type(error).__name__}).")


def server_message(error: Exception) -> str:
    """The server's own words. Most send {"error": {"message"}}, vLLM's older versions a flat {"object": "error", "message"},
    FastAPI {"detail"}, and proxies a page."""
    body: Any = getattr(error, "body", None)
    if isinstance(body, Mapping):
        body = body.get("error", body)
    if isinstance(body, Mapping):
        body = next((body[key] for key in ("message", "detail", "reason") if body.get(key)), "")
    if isinstance(body, list):  # FastAPI's validation: one entry for each field
        body = "; ".join(str(entry.get("msg", entry)) if isinstance(entry, Mapping) else str(entry) for entry in body)
    text = str(body or "")
    return "" if re.match(r"\s*<", text) else _shortened(text)


def _refused(error: Exception, status: int, server: str) -> DemoError:
    said = server_message(error)
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown status"
    words = f"{status}: {said}" if said else f"{status}, {phrase}"
    if too_long(error) is not None:
        return PromptTooLong(f"{server} finds this conversation too long ({words})")
    if status in (401, 403):
        return BackendUnavailable(f"{server} does not accept the API key ({words}); set remote_api_key to one that it knows.")
    if status == 404:
        return BackendUnavailable(f"{server} has not what was asked for ({words}); check remote_url and remote_model.")
    if status == 429:
        return BackendBusy(f"{server} is busy ({words}). Please try again in a moment.")
    if status == 503:
        return BackendUnavailable(f"{server} is not ready ({words})")
    if 400 <= status < 500:
        return BadRequest(f"{server} refused this request ({words})")
    return BackendUnavailable(f"{server} failed on this request ({words})")


def _connection(error: Exception) -> str:
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return "its host name is not known"
        if isinstance(cause, ssl.SSLError):
            return "it has no TLS certificate that proves its name"
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return "connection refused, nobody listens there"
        if isinstance(cause, OSError) and cause.errno:
            # asyncio puts "Connect call failed" and the address in the place of the system's text.
            return os.strerror(cause.errno).lower()
        if type(cause).__name__ in ("RemoteProtocolError", "ReadError"):
            return "it broke off the connection"
    last = list(_causes(error))[-1]
    return _shortened(str(last)) or type(last).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that led to it; of several at once, as from a host with two addresses, each."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        cause = todo.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        todo += [cause.__cause__, cause.__context__, *getattr(cause, "exceptions", ())]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
