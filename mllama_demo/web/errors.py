"""How a request to the API fails: the error object of the OpenAI API, with a status, for every failure there is.

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
_LONGEST_ECHO = 80
# pydantic's error types in the words of JSON instead of Python.
_WORDS = {
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
_NOTHING_GIVEN = ("missing", "unsupported", "invalid_value", "too_short", "too_long", "union_tag_not_found")


class ErrorBody(BaseModel):
    """message: a sentence for people. param: the part of the request that is wrong. code: a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorBody


@dataclass
class ApiError(Exception):
    """A request that fails, ready to be sent. retry_after_s: when another attempt may succeed."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        message = self.message.encode(errors="backslashreplace").decode()  # it may echo half a surrogate pair
        error = ErrorBody(message=message, type=_type(self.status), param=self.param, code=self.code)
        return ErrorResponse(error=error).model_dump()

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def _type(status: int) -> str:
    types = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
    return types.get(status, "invalid_request_error" if status < 500 else "server_error")


def of_demo_error(error: DemoError, *, param: str | None = None, wait_s: float | None = None) -> ApiError:
    """wait_s: how long a request sent now would wait, where that is known."""
    if isinstance(error, BackendBusy):
        return ApiError(error.status, str(error), code="queue_full", retry_after_s=wait_s or LOADING_RETRY_S)
    if isinstance(error, BackendUnavailable):
        return ApiError(error.status, str(error), code="model_unavailable", retry_after_s=LOADING_RETRY_S)
    if isinstance(error, PromptTooLong):
        return ApiError(error.status, str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, ImageError):
        return ApiError(error.status, str(error), param=param or "messages", code="invalid_image")
    return ApiError(error.status, str(error), param=param, code="invalid_value" if error.status == 400 else None)


def of_validation(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first problem that pydantic found in the body, in words: messages[0].role: …"""
    problem = problems[0]
    if problem["type"] == "json_invalid":
        reason = problem.get("ctx", {}).get("error", problem["msg"])
        return ApiError(400, f"The body is not valid JSON: {reason}.", code="invalid_json")
    param = _path([*problem["loc"][1:], problem.get("ctx", {}).get("param")])
    if not param:
        if isinstance(problem.get("input"), bytes):
            return ApiError(400, "The body must be sent with the header Content-Type: application/json.", code="invalid_json")
        return ApiError(400, "The body must be a JSON object.", code="invalid_json")
    message = _WORDS.get(problem["type"], str(problem["msg"]).rstrip("."))
    given = "" if problem["type"] in _NOTHING_GIVEN else f", got {_echo(problem.get('input'))}"
    return ApiError(400, f"{param}: {message}{given}.", param=param, code=str(problem["type"]))


def _path(place: Sequence[Any]) -> str:
    """("messages", 0, "content", "parts", 1, "text", "text") as messages[0].content[1].text: the second steps behind content
    and behind a part's number only say which of several types was tried."""
    path = ""
    for index, step in enumerate(place):
        before = place[max(0, index - 2) : index]
        if step is None or before[-1:] == ["content"] or before[:1] == ["parts"]:
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")


def _echo(value: Any) -> str:
    """What was sent, short: a data: URL may have megabytes."""
    if isinstance(value, dict):
        return f"an object of the type {_echo(value['type'])}" if isinstance(value.get("type"), str) else "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = ascii(value[:_LONGEST_ECHO]) if isinstance(value, str) else ascii(value)
    return text if len(text) <= _LONGEST_ECHO else text[:_LONGEST_ECHO] + "…"
