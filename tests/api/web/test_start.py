"""Starting and ending the program: console output, the first responses, and errors at start."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from mllama_demo.storage.database import Database
from tests.support.program import Program, clean_environment, command, free_port, run, running, visitor
from tests.support.raw_gradio_client import RawChat
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.timeout(300)

DEMOS = Path(__file__).parents[2] / "support" / "demos"
HEAVY = ("torch", "transformers", "gradio", "sqlalchemy", "uvicorn", "fastapi")


def assert_one_sentence(home: Path, *options: str) -> str:
    """Runs the program, which must end with exit code 2 and one line on stderr; the line."""
    ended = run(home, "--data-dir", str(home / "data"), *options)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 2, ended.stderr
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("mllama-demo: ")
    return lines[0]


# --- before anything heavy is loaded ---------------------------------------------------------------------------------------


def test_help_names_every_option_and_loads_nothing_heavy(tmp_path: Path):
    ended = run(tmp_path, "--help", python=("-X", "importtime"))
    assert ended.returncode == 0
    for option in ("--port", "--model-path", "--batch-size", "--max-waiting", "--config"):
        assert option in ended.stdout
    imported = {line.split("|")[-1].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}
    assert "mllama_demo.config.loader" in imported
    assert imported.isdisjoint(HEAVY)


def test_a_port_in_use_is_named(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = assert_one_sentence(tmp_path, "--port", str(port))
    assert f"Port {port}" in line
    assert "--port" in line


def test_a_database_of_a_newer_program_is_named(tmp_path: Path):
    file = tmp_path / "conversations.sqlite3"
    Database(f"sqlite:///{file}").close()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = 99")
    line = assert_one_sentence(tmp_path, "--port", str(free_port()), "--database-url", f"sqlite:///{file}")
    assert "was written by a newer version of this program (schema 99, this one knows" in line


@pytest.mark.ray
def test_a_ray_cluster_that_does_not_answer_is_named(tmp_path: Path):
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'ray[serve]' to run this test")
    nobody = f"127.0.0.1:{free_port()}"
    line = assert_one_sentence(tmp_path, "--port", str(free_port()), "--backend", "ray", "--ray-address", nobody)
    assert f"No Ray cluster answers at {nobody}: Connection refused." in line


def test_a_missing_model_is_named(tmp_path: Path):
    missing = tmp_path / "no-such-model"
    assert str(missing) in assert_one_sentence(tmp_path, "--port", str(free_port()), "--model-path", str(missing))


def test_truncated_weights_are_named(tmp_path: Path, embedded: Path):
    folder = tmp_path / "model"
    shutil.copytree(embedded, folder)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    line = assert_one_sentence(tmp_path, "--port", str(free_port()), "--model-path", str(folder))
    assert "model.safetensors" in line


@pytest.mark.parametrize("options", [(), ("--engine-process", "false")])
def test_a_model_that_cannot_be_loaded_is_named_once(tmp_path: Path, options: tuple[str, ...]):
    line = assert_one_sentence(tmp_path, "--port", str(free_port()), "--device", "cuda:99", *options)
    assert line.startswith("mllama-demo: The model could not be loaded: device is cuda:99, but")


def test_a_model_that_cannot_be_loaded_is_one_event_of_a_log_in_json(tmp_path: Path):
    options = ("--data-dir", str(tmp_path), "--port", str(free_port()), "--device", "cuda:99", "--log-format", "json")
    ended = run(tmp_path, *options)
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 2
    assert [event["level"] for event in events].count("ERROR") == 1
    assert "could not be loaded" in events[-1]["message"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("batch_sise: 2\n", "batch_size"),
        ("batch_size: many\n", "batch_size"),
        ("batch_size: 0\n", "1 to 64"),
        ("batch_size: [\n", "line 2"),
        ("- 1\n", "mapping"),
    ],
)
def test_an_invalid_configuration_is_explained(tmp_path: Path, text: str, named: str):
    file = tmp_path / "demo.yaml"
    file.write_text(text, encoding="utf-8")
    line = assert_one_sentence(tmp_path, "--config", str(file))
    assert named in line
    assert "demo.yaml" in line


def test_a_missing_configuration_is_named(tmp_path: Path):
    missing = tmp_path / "missing.yaml"
    assert str(missing) in assert_one_sentence(tmp_path, "--config", str(missing))


def test_a_bad_value_on_the_command_line_is_named(tmp_path: Path):
    assert "--temperature" in assert_one_sentence(tmp_path, "--temperature", "warm")
    assert "--tempreature" in assert_one_sentence(tmp_path, "--tempreature", "1")


def test_a_data_folder_without_write_access_is_named(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert str(blocked) in assert_one_sentence(tmp_path, "--port", str(free_port()), "--data-dir", str(blocked))


def test_a_server_whose_output_nobody_reads_serves(tmp_path: Path):
    """As `python app.py | head -1`: the pipe is closed after the first line."""
    port = free_port()
    line = command("--port", str(port), "--data-dir", str(tmp_path / "data"), "--device", "cpu")
    with (tmp_path / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(line, cwd=tmp_path, env=clean_environment(tmp_path), stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    program = Program(process, f"http://127.0.0.1:{port}", tmp_path)
    (tmp_path / "stdout.txt").touch()
    try:
        wait_until(lambda: (health := program.get("/health")) is not None and health.status_code == 200, "/health answers 200")
        assert program.interrupt() == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in program.stderr()
    assert "BrokenPipe" not in program.stderr()


# --- loading ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Program, list[tuple[requests.Response, requests.Response]]]]:
    """A program watched from its first moment: each time the answers of /health and of / until it is ready."""
    with running(tmp_path_factory.mktemp("watched"), preload=False) as program:
        seen: list[tuple[requests.Response, requests.Response]] = []
        deadline = time.monotonic() + PATIENCE_S
        while not (seen and seen[-1][0].status_code == 200):
            assert time.monotonic() < deadline, program.output()
            health, page = program.get("/health"), program.get("/")
            if health is not None and page is not None:
                seen.append((health, page))
            time.sleep(0.05)
        yield program, seen


def test_health_names_what_is_loading_until_the_model_is_ready(started):
    _, seen = started
    *loading, (ready, _) = seen
    assert loading
    for health, _ in loading:
        assert health.status_code == 503
        assert health.json()["status"] == "loading"
        assert health.json()["reason"]
        assert int(health.headers["Retry-After"]) > 0
    assert ready.json() == {"status": "ready", "running": 0, "waiting": 0, "slots": 4}


def test_a_browser_gets_a_page_at_every_moment_of_the_start(started):
    _, seen = started
    pages = [page for _, page in seen]
    assert {page.status_code for page in pages} == {200}
    assert all(page.headers["content-type"].startswith("text/html") for page in pages)
    assert "Loading" in pages[0].text
    assert "mllama_visitor" not in pages[0].cookies
    assert "gradio" in pages[-1].text


def test_the_page_is_up_before_the_model_is(started):
    _, seen = started
    assert any(health.status_code == 503 and "gradio" in page.text for health, page in seen)


def test_the_console_shows_the_address(started):
    program, _ = started
    lines = program.stdout().splitlines()
    assert program.url in lines[0]
    assert program.url in lines[-1]
    assert lines[-1].startswith("Ready in ")
    assert program.stderr() == ""


def test_a_new_visitor_gets_one_cookie_that_scripts_cannot_read(started):
    program, _ = started
    with visitor() as session:
        first = session.get(program.url + "/", timeout=60)
        cookie = first.headers["Set-Cookie"]
        assert cookie.startswith("mllama_visitor=")
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        assert "Set-Cookie" not in session.get(program.url + "/", timeout=60).headers
    with visitor() as session:
        session.cookies.set("mllama_visitor", "chosen-by-somebody-else")
        assert "mllama_visitor=" in session.get(program.url + "/", timeout=60).headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["/", "/health", "/config", "/no-such-page"])
def test_every_response_has_the_security_headers(started, path: str):
    program, _ = started
    headers = program.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert policy["object-src"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_the_web_process_imports_no_torch(tmp_path: Path):
    """The process of the model has it. The web process starts faster and needs less memory without."""
    with running(tmp_path, preload=False, script=DEMOS / "listing_demo.py") as program:
        program.wait_ready()
        chat = RawChat(program)
        answer = chat.ask("What is the capital of Italy famous for?")
        assert "Rome" in answer + chat.open(*chat.conversations())
        program.interrupt()
    modules = (tmp_path / "modules").read_text(encoding="utf-8").split()
    assert "gradio" in modules
    assert {"torch", "transformers"}.isdisjoint(modules)


# --- ending ----------------------------------------------------------------------------------------------------------------


def test_an_interrupt_ends_a_ready_program(started):
    program, _ = started
    code = program.interrupt()
    assert code in (0, 130), program.output()
    assert "Traceback" not in program.output()
    assert not list(program.home.glob("mllama-demo-*")), "the previews are left behind"


def test_an_interrupt_while_loading_ends_the_program(tmp_path: Path):
    with running(tmp_path, preload=False) as program:
        deadline = time.monotonic() + PATIENCE_S
        while program.get("/health") is None:
            assert time.monotonic() < deadline, program.output()
            time.sleep(0.05)
        code = program.interrupt()
    assert code in (0, 130), program.output()
    assert "Traceback" not in program.output()
