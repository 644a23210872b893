"""From settings to a running server, and from a failure to one sentence and an exit code."""

from __future__ import annotations

import errno
import logging
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError, DemoError
from mllama_demo.runtime.process import terminated

USAGE_ERROR = 2


def main(argv: Sequence[str], program: str) -> int:
    """The command `serve`, with the options of app.py. program: what --help calls it."""
    started = time.perf_counter()
    set_up_logging()
    return serve(load_settings(argv, program=program), started)


def serve(settings: Settings, started: float) -> int:
    """Runs until interrupted; returns the exit code. started: time.perf_counter() at process start.

    Raises DemoError when the demo cannot start: the port is taken, the checkpoint or the database cannot be used.
    """
    listener = open_port(settings.host, settings.port)
    # From here on, in the order of what a visitor waits for: the port, the page, the model.
    import uvicorn

    from mllama_demo.backends import make_backend
    from mllama_demo.storage.conversations import ConversationStore
    from mllama_demo.storage.database import Database
    from mllama_demo.web.loading_app import App, LoadingApp

    address = f"http://{_printable(settings.host)}:{listener.getsockname()[1]}"
    failure: list[str] = []

    def stop_with(reason: str) -> None:
        failure.append(reason)
        server.should_exit = True

    def on_ready() -> None:
        say(f"Ready in {time.perf_counter() - started:.1f} s. Open {address}")

    def on_down(reason: str) -> None:
        # A model that never came up ends the program; one that broke later leaves the page up to say so.
        if not backend.loaded:
            stop_with(reason)

    backend, tokenizer = make_backend(settings, on_ready=on_ready, on_down=on_down)
    store = None if settings.api_only else ConversationStore(Database(settings.store_url))

    def build() -> App:
        from mllama_demo.assembly import create_app

        app = create_app(settings, backend, tokenizer, store)
        what = "API" if settings.api_only else "Page"
        say(f"{what} up after {time.perf_counter() - started:.1f} s; {_coming(settings)} …")
        backend.start()
        return app

    door = LoadingApp(settings.title, build, lambda error: stop_with(f"The page could not be built: {error}"))
    server = uvicorn.Server(uvicorn.Config(door, log_level="warning", timeout_graceful_shutdown=3))
    say(f"{settings.title}: starting on {address}")
    try:
        with terminated():  # uvicorn repeats the signal that ended it, and SIGTERM would leave no time to tidy up
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        say("Stopped.")
    finally:
        backend.close()
        if store is not None:
            store.database.close()
    if failure:
        raise DemoError(failure[0])
    return 0


def _coming(settings: Settings) -> str:
    if settings.backend == "openai":
        return f"asking the server at {settings.remote_url}"
    return f"loading the model from {_short(settings.model_path)}"


def open_port(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is known before anything heavy is loaded. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {port} on {host} is taken; stop what uses it or choose another with --port.") from error
        raise ConfigError(f"Cannot listen on {host}, port {port}: {error.strerror or error}.") from error
    return listener


def say(line: str) -> None:
    print(line, flush=True)


def fail(error: DemoError) -> int:
    """Prints the sentence; the exit code for a demo that could not start."""
    print(f"mllama-demo: {error}", file=sys.stderr, flush=True)
    return USAGE_ERROR


def set_up_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mllama_demo").setLevel(logging.INFO)


def _printable(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
