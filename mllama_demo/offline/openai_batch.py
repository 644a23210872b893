"""Files of OpenAI's batch format.

Each line is a request, {"custom_id", "method", "url", "body"}, and each line of the output is its response, {"id", "custom_id",
"response": {"status_code", "request_id", "body"}, "error"}, with the body that the API would answer with.
https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Client
from mllama_demo.errors import BackendBusy, BackendUnavailable, ConfigError, DemoError
from mllama_demo.offline.batch import MAX_CONCURRENCY
from mllama_demo.offline.job import BatchJob, Round
from mllama_demo.offline.results import Key, Record, RecordFormat
from mllama_demo.runtime.json_input import half_surrogate, unusable_json

if TYPE_CHECKING:
    from mllama_demo.openai_api.schema import ChatRequest

URL = "/v1/chat/completions"
_BUSY_RETRY_S = 0.2


def is_batch(file: Path) -> bool:
    """Whether the first line of a file is a request of such a batch."""
    if file.suffix.lower() != ".jsonl":
        return False
    try:
        with file.open("rb") as lines:
            first = json.loads(next(line for line in lines if line.strip()).removeprefix(b"\xef\xbb\xbf"))
    except (OSError, ValueError, StopIteration, RecursionError):
        return False
    return isinstance(first, dict) and "custom_id" in first and "body" in first


def read_job(file: Path, settings: Settings, concurrency: str | None) -> BatchJob:
    """Reads a batch.

    Args:
        concurrency: how many requests are asked at the same time; None is one for each slot.

    Raises:
        ConfigError: the file or the concurrency cannot be used.
    """
    if concurrency is not None and not (concurrency.isdecimal() and 1 <= int(concurrency) <= MAX_CONCURRENCY):
        raise ConfigError(f"concurrency must be a whole number from 1 to {MAX_CONCURRENCY}, got {concurrency!r:.80}.")
    from mllama_demo.backends import make_backend
    from mllama_demo.openai_api.completion import CompletionService
    from mllama_demo.web.errors import ApiError

    lines: dict[Key, ChatRequest] = {}
    invalid: dict[Key, Record] = {}
    keys: list[Key] = []
    for key, request in _requests(file):
        keys.append(key)
        try:
            lines[key] = _checked(request)
        except ApiError as error:
            invalid[key] = _response(key, error.status, error.body())
    if not keys:
        raise ConfigError(f"The batch {file} has no requests.")
    backend, tokenizer = make_backend(settings)
    service = CompletionService(settings, backend, tokenizer)

    async def answer(key: Key, body: ChatRequest) -> Record:
        try:
            while True:
                try:
                    completion = await service.begin(body, backend.info.model, Client("batch"))
                    answer = await completion.whole()
                    return _response(key, 200, json.loads(answer.model_dump_json()))
                except BackendBusy:
                    await asyncio.sleep(_BUSY_RETRY_S)
        except ApiError as error:
            return _response(key, error.status, error.body())
        except BackendUnavailable:
            raise
        except DemoError as error:
            converted = ApiError.from_demo_error(error)
            return _response(key, converted.status, converted.body())

    rounds = (Round(lines, None if concurrency is None else int(concurrency)),)
    return BatchJob(backend, FORMAT, keys, invalid, rounds, answer)


def _checked(request: Record | str) -> ChatRequest:
    """The body of a request. Raises ApiError. Its `model` is ignored: the command line names the model.

    request: the line, or the problem of a line that is none.
    """
    from pydantic import ValidationError

    from mllama_demo.openai_api.schema import ChatRequest
    from mllama_demo.web.errors import ApiError

    if isinstance(request, str):
        raise ApiError(400, request, code="invalid_request")
    if found := half_surrogate(request):
        place, problem = found
        raise ApiError(400, f"{place}: {problem}.", place, "invalid_value")
    method, url, body = request.get("method", "POST"), request.get("url", URL), request.get("body")
    if method != "POST" or url != URL:
        raise ApiError(400, f"Only POST {URL} is answered, got {method!r:.20} {url!r:.80}.", "url", "invalid_url")
    if not isinstance(body, dict):
        raise ApiError(400, "body must be an object.", "body", "invalid_value")
    if body.get("stream"):
        raise ApiError(400, "stream must be false in a batch.", "stream", "unsupported")
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        raise ApiError.from_validation([{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]) from None


def _response(key: Key, status: int, body: Any) -> Record:
    response = {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": body}
    return {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": key, "response": response, "error": None}


def _key_of(record: Record) -> str:
    if not isinstance(record["custom_id"], str):
        raise ValueError
    return record["custom_id"]


def _failure(record: Record) -> str | None:
    if record["error"] is None and record["response"]["status_code"] == 200:
        return None
    return f"{record['custom_id']}: {(record['error'] or record['response']['body']['error'])['message']}"


def _tokens(record: Record) -> int:
    return 0 if _failure(record) else record["response"]["body"]["usage"]["completion_tokens"]


FORMAT = RecordFormat(b'{"id": "batch_req_', _key_of, _failure, _tokens)


def _requests(file: Path) -> Iterator[tuple[Key, Record | str]]:
    """The ids and lines of a batch. A line that is no request has its number in place of an id, and is the problem."""
    seen: set[str] = set()
    try:
        content = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ConfigError(f"The batch {file} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        name = f"line-{number}"
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield name, f"Line {number} {unusable_json(error)}."
            continue
        custom_id = request.get("custom_id") if isinstance(request, dict) else None
        if not isinstance(custom_id, str) or not custom_id:
            yield name, f"Line {number} has no custom_id, which must be a text."
        elif half_surrogate(custom_id):
            yield name, f"Line {number} has half a surrogate pair in its custom_id, which must be whole Unicode characters."
        elif custom_id in seen:
            yield name, f"Line {number} has the custom_id {custom_id!r:.80} of an earlier line."
        else:
            seen.add(custom_id)
            yield custom_id, request
