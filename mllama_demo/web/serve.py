"""Runs the web server: opens the port, shows the loading page, builds the web application and starts the model."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError, DemoError, cause_of
from mllama_demo.runtime.console import set_up_logging
from mllama_demo.runtime.process import sigterm_as_interrupt

if TYPE_CHECKING:
    from mllama_demo.engine.base import StartedBackend
    from mllama_demo.web.loading_app import App


class Demo(Protocol):
    """What is served: a backend and the web application in front of it (mllama_demo.assembly.Demo)."""

    backend: StartedBackend

    def app(self) -> App: ...

    def close(self) -> None: ...


MakeDemo = Callable[[Settings, Callable[[], None], Callable[[str], None]], Demo]


def main(argv: Sequence[str], program: str, make_demo: MakeDemo) -> int:
    """The command `serve`, with the options of app.py."""
    started = time.perf_counter()
    set_up_logging()
    return serve(load_settings(argv, program=program), started, make_demo)


def serve(settings: Settings, started: float, make_demo: MakeDemo) -> int:
    """Serves the demo until the process is interrupted.

    Args:
        settings: The options of this deployment.
        started: time.perf_counter() at process start.
        make_demo: Called with the settings, a callback for "ready" and a callback for "down".

    Returns:
        The exit code.

    Raises:
        DemoError: The demo cannot start: the port is taken, the checkpoint or the database cannot be used.
    """
    listener = open_port(settings.host, settings.port)
    # A visitor waits for the port, then for the page, then for the model: the start follows that order.
    import uvicorn

    from mllama_demo.web.loading_app import LoadingApp

    address = f"http://{_display_host(settings.host)}:{listener.getsockname()[1]}"
    failures: list[str] = []

    def stop_with(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    def on_ready() -> None:
        print(f"Ready in {time.perf_counter() - started:.1f} s. Open {address}", flush=True)

    def on_down(reason: str) -> None:
        # A model that never loaded ends the program. A model that failed later leaves the page up, which tells the reason.
        if not demo.backend.loaded:
            stop_with(cause_of(reason))

    demo = make_demo(settings, on_ready, on_down)

    def build() -> App:
        app = demo.app()
        what = "API" if settings.api_only else "Page"
        print(f"{what} up after {time.perf_counter() - started:.1f} s; {_model_source(settings)} …", flush=True)
        demo.backend.start()
        return app

    loading = LoadingApp(settings.title, build, lambda error: stop_with(f"The page could not be built: {error}"))
    server = uvicorn.Server(uvicorn.Config(loading, log_level="warning", timeout_graceful_shutdown=3))
    print(f"{settings.title}: starting on {address}", flush=True)
    try:
        # uvicorn raises the signal that ended it once more. SIGTERM would then end the process before close().
        with sigterm_as_interrupt():
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    finally:
        demo.close()
    if failures:
        raise DemoError(failures[0])
    return 0


def _model_source(settings: Settings) -> str:
    if settings.backend == "openai":
        return f"asking the server at {settings.remote_url}"
    return f"loading the model from {_display_path(settings.model_path)}"


def open_port(host: str, port: int) -> socket.socket:
    """Returns a bound socket. A port in use is found before anything heavy is imported. Raises ConfigError."""
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


def _display_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _display_path(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
