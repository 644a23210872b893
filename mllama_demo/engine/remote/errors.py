"""Translates an exception of the openai client into an error of the demo.

Visitors read one sentence without addresses. The operator reads the cause, which names the address and quotes the server.

The exceptions are recognised by the names of their classes and fields, so that this module does not import the openai client.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError, Failure, PromptTooLong

SERVER = "The server that runs the model"  # what visitors read in place of the address
_MAX_MESSAGE_CHARACTERS = 400
_QUOTE = 16  # characters of a passage that cannot be in two texts by chance
# A message with an address, a path or the name of an exception is not quoted to visitors.
_INTERNAL = re.compile(
    r"""
    :// | \w:\d{2,5}\b | \w(?:Error|Exception)\b | Traceback
    | (?<!\w)/[\w.-]+/ | (?<!\w)~\w*/ | \b[A-Za-z]:\\ | \\\\\w  # a path of Unix, of a home folder, of Windows, of a network
    | \b\d+\.\d+\.\d+\.\d+\b
    | (?i: (?<![\w:])(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b
        | (?<![\w:])(?:[0-9a-f]{1,4}:){0,6}[0-9a-f]{1,4}::(?!\w*[g-z_]) | (?<![\w:])::[0-9a-f]{1,4}\b  # IPv6, shortened
        | \blocalhost\b | \b[a-z0-9-]+\.(?:local|localdomain|internal|intranet|lan|corp|home|svc|com|net|org|io|dev|cloud)\b
        | \b[a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)+\.[a-z]{2,}\b  # a host name has three parts; "e.g. llama3.2" has two
    )
    """,
    re.VERBOSE,
)
# The messages of vLLM, llama-server and LM Studio, in this order.
_CONTEXT_LENGTH = re.compile(
    r"maximum (?:context|model) length (?:is|of) (\d+)|available context size \((\d+) tokens\)"
    r"|context length of only (\d+)|n_ctx: (\d+)"
)
_PROMPT_TOKENS = re.compile(
    r"\((\d+) in the messages|(?:has|contains at least) (\d+) input tokens|\(length (\d+)\)|request \((\d+) tokens\)"
    r"|keep the first (\d+) tokens|n_keep: (\d+)"
)
# Messages without numbers, of Ollama, llama-server and LM Studio.
_TOO_LONG = re.compile(r"exceeds? the (?:available )?context|context size has been exceeded", re.IGNORECASE)
_CANNOT_SEE = re.compile(
    r"image input is not supported|not support (?:images|vision|image input)|missing data required for image", re.I
)


# Parameters that no answer needs, and that some servers refuse. A server that refuses max_tokens knows its newer name.
OPTIONAL_PARAMETERS = ("seed", "stream_options", "min_p", "repeat_penalty")
_NOT_TAKEN = re.compile(
    r"not (?:support|permit|allow|recogni[sz]|accept|implement)|un(?:support|recogni[sz]|expected|known|implement)|extra"
    r"|additional propert|invalid (?:param|field|argument)|forbidden|instead",
    re.IGNORECASE,
)

_UNREACHABLE = "cannot be reached."
_FAILED = "failed on this request."


class RemoteUnreachable(BackendUnavailable):
    """No program listens at the address, or the program does not speak HTTP."""


class RemoteTimeout(BackendUnavailable):
    """The server accepted the connection and then sent nothing for too long. The server may be busy."""


@dataclass(frozen=True)
class ContextLengthRefusal:
    """A refusal because the request does not fit into the model's context.

    Attributes:
        context_length: Tokens of prompt and answer together that fit.
        prompt_tokens: Length of the prompt as the server counts it. None when the server does not tell it.
    """

    context_length: int
    prompt_tokens: int | None


def context_length_refusal(error: Exception) -> ContextLengthRefusal | None:
    """Reads the lengths out of the server's message. Returns None when the server refused for another reason.

    llama-server has the lengths as fields beside the message, and sends 500 before build 6800.
    """
    if getattr(error, "status_code", 400) not in (400, 413, 422, 500):
        return None
    body = _error_object(error)
    if isinstance(body, Mapping) and isinstance(body.get("n_ctx"), int):
        prompt_tokens = body.get("n_prompt_tokens")
        return ContextLengthRefusal(body["n_ctx"], prompt_tokens if isinstance(prompt_tokens, int) else None)
    message = server_message(error)
    if not (length := _CONTEXT_LENGTH.search(message)):
        return None
    prompt = _PROMPT_TOKENS.search(message)
    return ContextLengthRefusal(_number(length), _number(prompt) if prompt else None)


def logprobs_refusal(error: Exception, asked: int) -> int | None:
    """How many top_logprobs the server still allows, 0 for none. Returns None when it refused for another reason.

    Args:
        asked: top_logprobs of the request. vLLM allows fewer than 20 with --max-logprobs, and its message has the number.
    """
    if getattr(error, "status_code", None) not in (400, 422, 501):
        return None
    message = server_message(error)
    if "logprob" not in message.lower():
        return None
    return max((int(number) for number in re.findall(r"\b\d{1,3}\b", message) if int(number) < asked), default=0)


def refused_parameters(error: Exception, sent: Collection[str]) -> frozenset[str]:
    """The parameters that the server does not know or does not take, of those that an answer can do without.

    Args:
        sent: the names of the parameters of the request.
    """
    if getattr(error, "status_code", None) not in (400, 422, 501) or not _NOT_TAKEN.search(server_message(error)):
        return frozenset()
    body = _error_object(error)
    named = str(body.get("param")) if isinstance(body, Mapping) else ""
    words = set(re.findall(r"\w+", f"{server_message(error)} {named}"))
    return frozenset(words & {*OPTIONAL_PARAMETERS, "max_tokens"} & set(sent))


def _number(match: re.Match[str]) -> int:
    return int(next(filter(None, match.groups())))


def _without_quotes(text: str, quoted: Sequence[str]) -> str:
    """The text without what it repeats of other texts: servers quote prompts in their messages, and no log may have them.

    Args:
        text: A message of a server.
        quoted: What visitors wrote. Passages of _QUOTE characters and more are replaced.
    """
    parts, start = [], 0
    while start < len(text):
        end = start + _QUOTE
        if end > len(text) or not any(text[start:end] in other for other in quoted):
            parts.append(text[start])
            start += 1
            continue
        while end < len(text) and any(text[start : end + 1] in other for other in quoted):
            end += 1
        parts.append("…")
        start = end
    return "".join(parts)


def to_demo_error(error: Exception, url: str, secret: str | None = None, asked: Sequence[str] = ()) -> DemoError:
    """Translates an exception for the user.

    Args:
        error: What the client raised. A DemoError is returned unchanged.
        url: The server's address.
        secret: Text to remove from the message, for example the API key: some servers repeat the key.
        asked: The texts of the conversation, which are removed from the cause, because it is logged.
    """
    if isinstance(error, DemoError):
        return error
    kind, sentence, cause = _translate(error, f"The server at {url}")
    texts = (f"{SERVER} {sentence}", _without_quotes(cause, asked))
    return kind(Failure(*(text.replace(secret, "…") for text in texts) if secret else texts))


# The class of an error, the end of the sentence for visitors, and the cause for the operator.
_Translation = tuple[type[DemoError], str, str]


def _translate(error: Exception, server: str) -> _Translation:
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _translate_status(error, status, server)
    names = {type(cause).__name__ for cause in _causes(error)}
    if "ConnectTimeout" in names:
        return RemoteUnreachable, _UNREACHABLE, f"{server} cannot be reached: it did not accept the connection in time."
    if any("Timeout" in name for name in names):
        cause = f"{server} was silent for too long; it may be overloaded or stuck."
        return RemoteTimeout, "was silent for too long; it may be overloaded or stuck.", cause
    if "APIConnectionError" in names or any(isinstance(cause, OSError) for cause in _causes(error)):
        return RemoteUnreachable, _UNREACHABLE, f"{server} cannot be reached: {_connection_failure(error)}."
    if "RemoteProtocolError" in names or "ReadError" in names:
        return RemoteUnreachable, "broke off the connection.", f"{server} broke off the connection."
    if "APIError" in names:
        cause = f"{server} failed on this request: {_shortened(str(error))}"
        return _translate_message(error, server, _shortened(str(error))) or (BackendUnavailable, _FAILED, cause)
    cause = f"{server} sent an answer that is no chat completion ({_shortened(str(error)) or type(error).__name__})."
    return BackendUnavailable, "sent an answer that cannot be read.", cause


def server_message(error: Exception) -> str:
    """The message in the body of a refusal, or "" when the body has none.

    Most servers send {"error": {"message"}}. vLLM before 0.10.1 sends a flat {"object": "error", "message"}, FastAPI sends
    {"detail"}, LM Studio {"error": "…"}. A proxy sends an HTML page, which is ignored.
    """
    body = _error_object(error)
    if isinstance(body, Mapping):
        body = next((body[key] for key in ("message", "detail", "reason") if body.get(key)), "")
    if isinstance(body, list):  # FastAPI sends one entry for each field that is wrong
        body = "; ".join(_field_error(entry) if isinstance(entry, Mapping) else str(entry) for entry in body)
    text = str(body or "")
    return "" if re.match(r"\s*<", text) else _shortened(text)


def _field_error(entry: Mapping[str, Any]) -> str:
    """One entry of FastAPI's detail: {"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}."""
    place, message = entry.get("loc"), str(entry.get("msg", entry))
    steps = [str(step) for step in place if step != "body"] if isinstance(place, (list, tuple)) else []
    return f"{'.'.join(steps)}: {message}" if steps else message


def _error_object(error: Exception) -> Any:
    body: Any = getattr(error, "body", None)
    return body.get("error", body) if isinstance(body, Mapping) else body


def _translate_message(error: Exception, server: str, reason: str) -> _Translation | None:
    """Recognises a refusal by its words, whatever its status: LM Studio and llama-server send such a refusal with several."""
    message = server_message(error)
    if context_length_refusal(error) is not None or _TOO_LONG.search(message):
        sentence = f"finds this conversation too long{_quoted(message)}."
        return PromptTooLong, sentence, f"{server} finds this conversation too long ({reason})"
    if _CANNOT_SEE.search(message):
        model = f"The model of {server[0].lower()}{server[1:]}"
        return (
            BadRequest,
            f"has a model that cannot see images{_quoted(message)}.",
            f"{model} cannot see images ({reason}). Choose a vision model there.",
        )
    return None


def _translate_status(error: Exception, status: int, server: str) -> _Translation:
    message = server_message(error)
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown status"
    reason = f"{status}: {message}" if message else f"{status}, {phrase}"
    if (translated := _translate_message(error, server, reason)) is not None:
        return translated
    if status in (401, 403):
        cause = f"{server} does not accept the API key ({reason}); set remote_api_key to one that it knows."
        return BackendUnavailable, "does not let this demo in.", cause
    if status == 404:
        cause = f"{server} does not have what was requested ({reason}); check remote_url and remote_model."
        return BackendUnavailable, f"does not have what this demo asks for{_quoted(message)}.", cause
    if status == 429:
        return (
            BackendBusy,
            "is busy. Please try again in a moment.",
            f"{server} is busy ({reason}). Please try again in a moment.",
        )
    if status == 503:
        return BackendUnavailable, "is not ready.", f"{server} is not ready ({reason})"
    if 400 <= status < 500:
        return BadRequest, f"refused this request{_quoted(message)}.", f"{server} refused this request ({reason})"
    return BackendUnavailable, _FAILED, f"{server} failed on this request ({reason})"


def _quoted(message: str) -> str:
    """What the server says about a request, as the end of a sentence for visitors; empty where it tells internals."""
    return f": {message.rstrip('.')}" if message and not _INTERNAL.search(message) else ""


def _connection_failure(error: Exception) -> str:
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return "its host name is not known"
        if isinstance(cause, ssl.SSLError):
            return "it has no TLS certificate that proves its name"
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return "connection refused, nobody listens there"
        if isinstance(cause, OSError) and cause.errno:
            # asyncio replaces the system's text by "Connect call failed" and the address.
            return os.strerror(cause.errno).lower()
        if type(cause).__name__ in ("RemoteProtocolError", "ReadError"):
            return "it broke off the connection"
    last = list(_causes(error))[-1]
    return _shortened(str(last)) or type(last).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the exception, its causes and the members of exception groups, as a host with two addresses raises them."""
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
    return text if len(text) <= _MAX_MESSAGE_CHARACTERS else text[: _MAX_MESSAGE_CHARACTERS - 1] + "…"
