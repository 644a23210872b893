"""The log of the running program: what an operator finds by the id of a request, and what must never be in it."""

from __future__ import annotations

import base64
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image, PngImagePlugin

from tests.support.paths import DEMOS
from tests.support.program import Program, running, visitor
from tests.support.raw_gradio_client import RawChat
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

API_KEY, ADMIN_KEY, WRONG_KEY = "the-api-key-7341", "the-admin-key-7342", "the-wrong-key-7343"
SYSTEM_PROMPT, PROMPT, IMAGE_TEXT = "Be as brief as secret7344.", "What is secret7345?", "secret7346"
SECRETS = (API_KEY, ADMIN_KEY, WRONG_KEY, "secret7344", "secret7345", IMAGE_TEXT)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A demo whose model fails while a file named `fail` lies in its folder, with JSON lines in its log."""
    options = ("--log-format", "json", "--api-keys", API_KEY, "--admin-key", ADMIN_KEY, "--system-prompt", SYSTEM_PROMPT)
    with running(tmp_path_factory.mktemp("logs"), *options, script=DEMOS / "failing_demo.py", tracebacks=True) as program:
        program.wait_ready()
        yield program


@pytest.fixture
def failing(program: Program) -> Iterator[Path]:
    """The model fails in the fourth step of an answer."""
    program.wait_ready()
    file = program.home / "fail"
    file.touch()
    yield file
    file.unlink()


def events(program: Program) -> list[dict[str, Any]]:
    """The lines of the log. Every line is an object."""
    return [json.loads(line) for line in program.stderr().splitlines()]


def about(program: Program, request_id: str) -> list[dict[str, Any]]:
    return [event for event in events(program) if event["request_id"] == request_id]


def picture() -> str:
    out, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("comment", IMAGE_TEXT)
    Image.new("RGB", (32, 32), "red").save(out, "PNG", pnginfo=info)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def post(program: Program, content: Any, headers: dict[str, str], **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": content}], **more}
    headers = {"Authorization": f"Bearer {API_KEY}", **headers}
    with visitor() as http:
        return http.post(f"{program.url}/v1/chat/completions", json=body, headers=headers, timeout=120)


def test_lines_for_the_operator_are_events_of_the_log(program: Program) -> None:
    assert any(event["message"].startswith("Ready in") for event in events(program))


def test_a_failed_request_is_found_in_the_web_process_and_in_the_engine(program: Program, failing: Path) -> None:
    answer = post(program, PROMPT, {"X-Request-Id": "from-the-client"})
    assert answer.status_code == 500
    assert answer.headers["X-Request-Id"] == "from-the-client"
    assert "the device said no" not in answer.text
    wait_until(lambda: len(about(program, "from-the-client")) >= 3, lambda: f"three lines: {events(program)}")
    loggers = {event["logger"] for event in about(program, "from-the-client")}
    assert {"mllama_demo.engine.scheduler", "mllama_demo.engine.slot_backend", "mllama_demo.runtime.failures"} <= loggers
    traced = [event["exception"] for event in about(program, "from-the-client") if "exception" in event]
    assert len(traced) == 1, "the traceback is logged once"
    assert traced[0].endswith("ValueError: the device said no")


def test_the_openai_client_knows_the_id(program: Program, failing: Path) -> None:
    client = openai.OpenAI(base_url=f"{program.url}/v1", api_key=API_KEY, max_retries=0)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="embedded", messages=[{"role": "user", "content": PROMPT}])
    assert caught.value.request_id
    assert about(program, caught.value.request_id)


def test_a_failed_question_of_the_page_is_found_by_the_id_of_its_request(program: Program, failing: Path) -> None:
    chat, before = RawChat(program), len(events(program))
    shown = chat.ask(PROMPT)
    assert "Traceback" not in shown
    assert "the device said no" not in shown
    failed = [event for event in events(program)[before:] if event["logger"] == "mllama_demo.engine.scheduler"]
    assert len(failed) == 1
    assert len(failed[0]["request_id"]) == 16


def test_no_response_lacks_an_id(program: Program) -> None:
    for path in ("/", "/health", "/v1/models", "/no/such/page", "/gradio_api/queue/data", "/web/static/ndjson.js"):
        answer = program.get(path)
        assert answer is not None
        assert len(answer.headers["X-Request-Id"]) == 16, path


def test_every_line_is_an_event_whatever_a_client_sends(program: Program) -> None:
    before = len(events(program))
    with socket.create_connection(("127.0.0.1", program.port), timeout=20) as connection:
        connection.sendall(b"this is\r\nno HTTP\r\n\r\n")
        assert b"400" in connection.recv(1000)
    chat = RawChat(program)
    for handler in chat.handlers[:20]:
        for value in ({"path": "/etc/passwd"}, "\ud800", 10**400, ["x"] * 50):
            chat.call(handler, dict.fromkeys(handler["inputs"], value), event_data=value)
    assert any("Invalid HTTP request" in event["message"] for event in events(program)[before:])


def test_the_log_has_no_prompt_no_picture_no_key_and_no_cookie(program: Program) -> None:
    program.wait_ready()
    chat = RawChat(program)
    cookies: list[str] = [value for value in chat.http.cookies.values() if value]
    assert cookies
    image = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": picture()}}]
    broken = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": picture()[:-40]}}]
    far = [{"type": "image_url", "image_url": {"url": f"http://127.0.0.1:9/{IMAGE_TEXT}.png"}}]
    statuses = [post(program, content, {}).status_code for content in (image, broken, far)]
    statuses.append(post(program, PROMPT, {"Authorization": f"Bearer {WRONG_KEY}"}).status_code)
    statuses.append(post(program, PROMPT, {}, temperature=PROMPT).status_code)
    statuses.append(post(program, PROMPT, {}, model=PROMPT).status_code)
    with visitor() as http:
        broken_json = f'{{"messages": "{PROMPT}'
        headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json", "Cookie": f"a={IMAGE_TEXT}"}
        statuses.append(
            http.post(f"{program.url}/v1/chat/completions", data=broken_json, headers=headers, timeout=60).status_code
        )
        grid = {"prompt": PROMPT, "temperature": [0.5, 1.0]}
        statuses.append(http.post(f"{program.url}/v1/explore", json=grid, headers=headers, timeout=60).status_code)
        for key in (WRONG_KEY, ADMIN_KEY):
            answer = http.post(f"{program.url}/admin", data={"password": key}, timeout=60, allow_redirects=False)
            statuses.append(answer.status_code)
            cookies += [value for value in answer.cookies.values() if value]
    assert statuses == [200, 400, 400, 401, 400, 404, 400, 200, 401, 303]
    too_long = f"{PROMPT} {'word ' * 3000}"
    chat.ask(too_long)
    statuses = [post(program, too_long, {}).status_code]
    with visitor() as http:
        run = {"prompt": PROMPT, "temperature": [0.5], "image": "data:image/png;base64,AAAA"}
        statuses.append(http.post(f"{program.url}/explore/run", json=run, timeout=60).status_code)
    assert statuses == [400, 400]
    fail = program.home / "fail"
    fail.touch()
    try:
        assert post(program, image, {}).status_code == 500
        assert PROMPT in chat.ask(PROMPT)
    finally:
        fail.unlink()
    log = program.stderr() + program.stdout()
    assert "the device said no" in log
    assert "wrong password" in log
    found = [secret for secret in (*SECRETS, *(one for one in cookies if len(one) > 1)) if secret in log]
    assert found == []
