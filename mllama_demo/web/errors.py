"""The errors of the HTTP API: an OpenAI-compatible error object with a status for every failure.

{"error": {"message": …, "type": …, "param": …, "code": …}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from mllama_demo.errors import (
    BackendBusy,
    BackendUnavailable,
    DatabaseUnavailable,
    DemoError,
    ImageError,
    LimitReached,
    PromptTooLong,
    ServerBusy,
)
from mllama_demo.runtime.failures import FAILURES, count_failure, log_failure
from mllama_demo.runtime.json_input import escaped

LOADING_RETRY_S = 2
BUSY_RETRY_S = 5
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected; no client receives it
INTERNAL_CODE = "internal_error"
INTERNAL_ERROR = "Something went wrong in the server; its log has the cause."
_MAX_VALUE_CHARACTERS = 80
# pydantic's error types, described in the terms of JSON instead of Python.
_MESSAGES = {
    "missing": "is missing",
    "model_type": "an object is allowed",
    "model_attributes_type": "an object is allowed",
    "list_type": "a list is allowed",
    "string_type": "a string is allowed",
    "int_type": "a whole number is allowed",
    "float_type": "a number is allowed",
    "bool_type": "true or false is allowed",
    "union_tag_invalid": "a part of the type text or image_url is allowed",
    "union_tag_not_found": "a part needs its type, text or image_url",
}
# Error types whose message does not repeat the value of the request.
_WITHOUT_VALUE = ("missing", "unsupported", "invalid_value", "too_short", "too_long", "union_tag_not_found")
_REASONS = {401: "unauthorized", 403: "forbidden", 404: "not_found", 408: "too_slow", 413: "too_large", 429: "busy"}
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}


class ErrorBody(BaseModel):
    """The error object.

    Attributes:
        message: a sentence for people.
        type: the class of the status, such as "rate_limit_error".
        param: the part of the request that is wrong, such as "messages[0].role".
        code: an identifier for programs, such as "queue_full".
    """

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorBody


@dataclass
class ApiError(Exception):
    """A failed request.

    Attributes:
        retry_after_s: The seconds after which another attempt may succeed.
        failure: The failure of the program that the error tells of, for counts and the log; None for the message itself.
        reason: Its class in the metrics, one of runtime.failures.REASONS. None for that of the failure or of the status; empty
            for a failure that is counted already, as that of a request to the model.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None
    failure: DemoError | None = None
    reason: str | None = None

    @classmethod
    def from_demo_error(cls, error: DemoError, *, param: str | None = None, wait_s: float | None = None) -> ApiError:
        """wait_s: the estimated wait of a new request, if it is known."""
        converted = cls._converted(error, param, wait_s)
        converted.failure = error
        return converted

    @classmethod
    def _converted(cls, error: DemoError, param: str | None, wait_s: float | None) -> ApiError:
        if isinstance(error, BackendBusy):
            return cls(error.status, str(error), code="queue_full", retry_after_s=wait_s or LOADING_RETRY_S)
        if isinstance(error, DatabaseUnavailable):
            return cls(error.status, str(error), code="database_unavailable", retry_after_s=LOADING_RETRY_S)
        if isinstance(error, LimitReached):
            return cls(error.status, str(error), code="rate_limit_exceeded", retry_after_s=error.retry_s)
        if isinstance(error, BackendUnavailable):
            return cls(error.status, str(error), code="model_unavailable", retry_after_s=LOADING_RETRY_S)
        if isinstance(error, ServerBusy):
            return cls(error.status, str(error), code="server_busy", retry_after_s=BUSY_RETRY_S)
        if isinstance(error, PromptTooLong):
            return cls(error.status, str(error), param="messages", code="context_length_exceeded")
        if isinstance(error, ImageError):
            return cls(error.status, str(error), param=param or "messages", code="invalid_image")
        return cls(error.status, str(error), param=param, code="invalid_value" if error.status == 400 else None)

    @classmethod
    def from_validation(cls, problems: Sequence[Mapping[str, Any]]) -> ApiError:
        """Describes the first of the problems that pydantic found in a body."""
        problem = problems[0]
        if problem["type"] == "json_invalid":
            reason = problem.get("ctx", {}).get("error", problem["msg"])
            return cls(400, f"The body is not valid JSON: {reason}.", code="invalid_json")
        param = _path([*problem["loc"][1:], problem.get("ctx", {}).get("param")])
        if not param:
            if isinstance(problem.get("input"), bytes):
                return cls(400, "The body must be sent with the header Content-Type: application/json.", code="invalid_json")
            return cls(400, "The body must be a JSON object.", code="invalid_json")
        message = _MESSAGES.get(problem["type"], str(problem["msg"]).rstrip("."))
        value = "" if problem["type"] in _WITHOUT_VALUE else f", got {_describe_value(problem.get('input'))}"
        return cls(400, f"{param}: {message}{value}.", param=param, code=str(problem["type"]))

    @classmethod
    def unsupported(cls, param: str, why: str) -> ApiError:
        """Describes a value that the backend would not read, so that the answer would not be what was asked for."""
        return cls(400, f"{param} cannot be used: {why}.", param, "unsupported")

    @classmethod
    def from_encoding(cls, error: UnicodeDecodeError) -> ApiError:
        """Describes a body whose bytes are no text in UTF-8."""
        if bytes(error.object[:2]) == b"\x1f\x8b":
            return cls(415, "The body is compressed with gzip; send it as it is, uncompressed.", code="unsupported_encoding")
        byte = error.object[error.start]
        message = (
            f"The body is not UTF-8, which JSON must be: the byte 0x{byte:02X} at {error.start} belongs to no character. It may "
            "be Latin-1 or Windows-1252."
        )
        return cls(400, message, code="invalid_json")

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        """The error object for the client. Counts and logs the failure."""
        if self.code != INTERNAL_CODE:  # whose exception is logged
            log_failure(self.failure or self.message, self.status)
        if self.failure is not None:
            count_failure(self.failure)
        elif self.reason != "":
            FAILURES.add(self.reason or reason_of(self.status), self.message)
        # Both may repeat half a surrogate pair of the request.
        message, param = escaped(self.message), None if self.param is None else escaped(self.param)
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return ErrorResponse(error=ErrorBody(message=message, type=kind, param=param, code=self.code)).model_dump()

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The response for the client. Counts and logs the failure. headers: more of them."""
        return JSONResponse(self.body(), self.status, {**self.headers, **(headers or {})})


def reason_of(status: int) -> str:
    """The class in the metrics of a failure of which nothing but the HTTP status is known."""
    fallback = "unavailable" if status == 503 else "internal" if status >= 500 else "bad_request"
    return _REASONS.get(status, fallback)


def _path(steps: Sequence[Any]) -> str:
    """Turns ("messages", 0, "content", "parts", 1, "text", "text") into messages[0].content[1].text.

    The step after "content" and the step after the number of a part are left out: they name the type that pydantic tried.
    """
    path = ""
    for index, step in enumerate(steps):
        before = steps[max(0, index - 2) : index]
        if step is None or before[-1:] == ["content"] or before[:1] == ["parts"]:
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")


def _describe_value(value: Any) -> str:
    """Describes a value of the request in few characters; a data: URL may have megabytes."""
    if isinstance(value, dict):
        return f"an object of the type {_describe_value(value['type'])}" if isinstance(value.get("type"), str) else "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = ascii(value[:_MAX_VALUE_CHARACTERS]) if isinstance(value, str) else ascii(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[:_MAX_VALUE_CHARACTERS] + "…"
