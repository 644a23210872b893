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

from mllama_demo.errors import BackendBusy, BackendUnavailable, DemoError, ImageError, PromptTooLong

LOADING_RETRY_S = 2
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected; no client receives it
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
    """A failed request. retry_after_s: the seconds after which another attempt may succeed."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None

    @classmethod
    def from_demo_error(cls, error: DemoError, *, param: str | None = None, wait_s: float | None = None) -> ApiError:
        """wait_s: the estimated wait of a new request, if it is known."""
        if isinstance(error, BackendBusy):
            return cls(error.status, str(error), code="queue_full", retry_after_s=wait_s or LOADING_RETRY_S)
        if isinstance(error, BackendUnavailable):
            return cls(error.status, str(error), code="model_unavailable", retry_after_s=LOADING_RETRY_S)
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

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        message = self.message.encode(errors="backslashreplace").decode()  # it may repeat half a surrogate pair of the request
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return ErrorResponse(error=ErrorBody(message=message, type=kind, param=self.param, code=self.code)).model_dump()

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


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
