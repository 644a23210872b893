"""Runs the web server: opens the port, shows the loading page, builds the web application and starts the model."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from mllama_demo.config.loader import load_settings_and_log
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError, DemoError, cause_of
from mllama_demo.runtime.console import announce
from mllama_demo.runtime.process import sigterm_as_interrupt

if TYPE_CHECKING:
    import uvicorn

    from mllama_demo.engine.base import StartedBackend
    from mllama_demo.web.loading_app import App


class Demo(Protocol):
    """What is served: a backend and the web application in front of it (mllama_demo.assembly.Demo)."""

    backend: StartedBackend

    def app(self) -> App: ...

    async def drain(self, limit_s: float) -> None: ...

    def close(self) -> None: ...


MakeDemo = Callable[[Settings, Callable[[], None], Callable[[str], None]], Demo]


def main(argv: Sequence[str], program: str, make_demo: MakeDemo) -> int:
    """The command `serve`, with the options of app.py."""
    started = time.perf_counter()
    settings = load_settings_and_log(argv, program=program)
    return serve(settings, started, make_demo)


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

    from mllama_demo.web.connections import BACKLOG, KEEP_ALIVE_S, BoundedProtocol, connection_limit
    from mllama_demo.web.loading_app import LoadingApp
    from mllama_demo.web.placement import Placement
    from mllama_demo.web.request_ids import RequestIds

    BoundedProtocol.max_connections = connection_limit()
    address = f"http://{_display_host(settings.host)}:{listener.getsockname()[1]}"
    failures: list[str] = []

    def stop_with(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    def on_ready() -> None:
        announce(f"Ready in {time.perf_counter() - started:.1f} s. Open {address}")

    def on_down(reason: str) -> None:
        # A model that never loaded ends the program. A model that failed later leaves the page up, which tells the reason.
        if not demo.backend.loaded:
            stop_with(cause_of(reason))

    demo = make_demo(settings, on_ready, on_down)

    def build() -> App:
        app = demo.app()
        what = "API" if settings.api_only else "Page"
        announce(f"{what} up after {time.perf_counter() - started:.1f} s; {_model_source(settings)} …")
        demo.backend.start()
        return app

    loading = LoadingApp(settings.title, build, lambda error: stop_with(f"The page could not be built: {error}"))
    config = uvicorn.Config(
        RequestIds(Placement(loading, settings)),
        http=BoundedProtocol,
        backlog=BACKLOG,
        log_config=None,  # its lines go the way of all others
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
        forwarded_allow_ips=settings.trusted_proxies,  # None: uvicorn's default, 127.0.0.1
    )
    server = draining_server(config, demo.drain, settings.drain_time_limit_s)
    announce(f"{settings.title}: starting on {address}")
    if (warning := open_to_all(settings)) is not None:
        announce(warning)
    try:
        # uvicorn raises a repeated signal once more. SIGTERM would then end the process before close().
        with sigterm_as_interrupt():
            server.run(sockets=[listener])
        if not failures:
            announce("Stopped.")
    except KeyboardInterrupt:
        announce("Stopped.")
    finally:
        demo.close()
    if failures:
        raise DemoError(failures[0])
    return 0


def draining_server(
    config: uvicorn.Config, drain: Callable[[float], Coroutine[Any, Any, None]], limit_s: float
) -> uvicorn.Server:
    """A web server that ends the open requests in order before it ends.

    SIGTERM lets them go on for limit_s seconds at most. Ctrl-C ends them at once, and so does a second signal.

    Args:
        config: The configuration of the server.
        drain: Takes no new requests any more, and returns when all others have ended, at the latest soon after so many seconds.
        limit_s: The seconds after SIGTERM.
    """
    import uvicorn

    class DrainingServer(uvicorn.Server):
        draining: asyncio.Task[None] | None = None
        drain_s: float | None = None

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.drain_s is None:
                self.drain_s = limit_s if sig == signal.SIGTERM else 0.0
            elif self.drain_s:
                self.drain_s, self.draining = 0.0, None
            else:
                super().handle_exit(sig, frame)

        async def on_tick(self, counter: int) -> bool:
            if self.drain_s is not None and self.draining is None:
                self.draining = asyncio.create_task(drain(self.drain_s))
            if self.draining is not None and self.draining.done():
                self.should_exit = True
            return await super().on_tick(counter)

    return DrainingServer(config)


def open_to_all(settings: Settings) -> str | None:
    """What anybody who reaches this machine may use; None for a server that only this machine reaches, or that asks who comes."""
    try:
        is_local = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_local = settings.host == "localhost"
    page, api = settings.users is None and not settings.api_only, settings.api_keys is None and settings.users is None
    if is_local or not (page or api):
        return None
    what = "the page and the API" if page and api else "the page" if page else "the API"
    missing = "users and api_keys" if page and api else "users" if page else "api_keys"
    return f"Warning: everybody who reaches this machine may use {what}. The options {missing} let in only those who are known."


def _model_source(settings: Settings) -> str:
    if settings.backend == "openai":
        return f"asking the server at {settings.remote_url}"
    if settings.backend == "ray":
        return f"asking the replicas of {settings.ray_application} on the Ray cluster of {settings.ray_address or 'this machine'}"
    return f"loading the model from {_display_path(settings.model_path)}"


def open_port(host: str, port: int) -> socket.socket:
    """Returns a bound socket. A port in use is found before anything heavy is imported. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        # On Windows SO_REUSEADDR would share a port that another program uses.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1)
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
