"""The process of the model: runs a backend and passes requests and events between it and the web process.

The process ends with the web process, however that ends. It knows neither torch nor the web; the backend does the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import aclosing
from multiprocessing.connection import Connection
from typing import NoReturn

from mllama_demo.engine.base import NOT_LOADED, SHUTTING_DOWN, Event, GenerationRequest, SteppedBackend, TokenEvent
from mllama_demo.engine.process.output import redirect_output
from mllama_demo.engine.process.protocol import (
    HEARTBEAT_S,
    Admitted,
    Batch,
    Cancel,
    Close,
    Down,
    Heartbeat,
    ImageWindow,
    Ready,
    Submit,
)
from mllama_demo.errors import DemoError, Failure, cause_of
from mllama_demo.runtime.console import tolerate_every_character
from mllama_demo.runtime.logs import REQUEST_ID, LogFormat, set_up_logging
from mllama_demo.runtime.process import exit_process
from mllama_demo.runtime.with_parent import end_with_parent

log = logging.getLogger(__name__)
# Makes the backend, with callbacks for "ready" and "down". The process unpickles it, so it is a function of a module or a
# functools.partial of one.
MakeBackend = Callable[[Callable[[], None], Callable[[str], None]], SteppedBackend]


def run(make: MakeBackend, connection: Connection, log_format: LogFormat, output: Connection | None = None) -> None:
    """The whole life of the process. Does not return.

    Args:
        make: Makes the backend. A DemoError of it is the reason why the model could not be loaded.
        connection: To the web process. The process ends when it is closed.
        log_format: That of the web process.
        output: Where standard output and standard error go; None for those of the web process.
    """
    if output is not None:
        redirect_output(output)
    _leave_terminal()
    end_with_parent()  # where the kernel cannot do it, the closed connection ends this process
    faulthandler.enable(all_threads=False)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)  # for a step that hangs
    tolerate_every_character()
    set_up_logging(log_format)
    try:
        asyncio.run(_Service(make, connection).run())
    except OSError:  # nobody is at the other end
        exit_process(1)
    exit_process(0)


def _leave_terminal() -> None:
    """Ctrl-C reaches the web process only, which then ends this one. The web process ends whatever this process starts."""
    if hasattr(os, "setsid"):
        with contextlib.suppress(OSError):
            os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fail() -> NoReturn:
    """Ends the process, so that it is started again: without the thread that fails it would look healthy and get no request."""
    log.exception("the requests of the web process can no longer be read")
    os._exit(1)


class _Service:
    def __init__(self, make: MakeBackend, connection: Connection) -> None:
        self._make = make
        self._connection = connection
        self._send_lock = threading.Lock()
        self._images = ImageWindow()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._outbox: list[tuple[str, Event | DemoError]] = []
        self._down: str | None = None
        self._estimated_wait_s: float | None = None

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        try:
            self._backend = self._make(self._on_ready, self._on_down)
        except Exception as error:
            if not isinstance(error, DemoError):
                log.exception("the backend could not be made")
            cause = cause_of(error) or type(error).__name__
            self._send(Down(Failure(NOT_LOADED, f"The model could not be loaded: {cause}")))
            return
        self._backend.on_admit = lambda request_id: self._send(Admitted(request_id))
        threading.Thread(target=self._receive, name="engine-requests", daemon=True).start()
        self._backend.start()
        while not self._ended.is_set():
            self._beat()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), HEARTBEAT_S)
        if self._down is None:
            await asyncio.to_thread(self._backend.close)
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=1)
        self._flush()
        self._send(Down(self._down or SHUTTING_DOWN))

    # --- from the backend's thread --------------------------------------------------------------------------------------

    def _on_ready(self) -> None:
        info = self._backend.info
        self._loop.call_soon_threadsafe(lambda: self._send(Ready(info)))

    def _on_down(self, reason: str) -> None:
        def end() -> None:
            self._down = reason
            self._ended.set()

        self._loop.call_soon_threadsafe(end)

    # --- from the web process -------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Reads messages in a thread of its own, because an image takes a while."""
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, Submit):
                    self._loop.call_soon_threadsafe(self._submit, self._images.unpack(message))
                elif isinstance(message, Cancel):
                    self._loop.call_soon_threadsafe(self._cancel, message.request_id)
                elif isinstance(message, Close):
                    self._loop.call_soon_threadsafe(self._ended.set)
        except (EOFError, OSError):
            os._exit(1)  # the web process has ended: nobody waits for anything
        except RuntimeError:  # the event loop is closed
            if self._loop.is_closed():
                return
            _fail()
        except BaseException:
            _fail()

    def _submit(self, request: GenerationRequest) -> None:
        task = self._loop.create_task(self._stream(request))
        self._tasks[request.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request.id, None))

    def _cancel(self, request_id: str) -> None:
        # Later in the loop, because the task of a request that was just received has not called the backend yet.
        self._loop.call_soon(self._backend.cancel, request_id)

    # --- to the web process ---------------------------------------------------------------------------------------------

    def _send(self, message: Admitted | Batch | Heartbeat | Ready | Down) -> None:
        with self._send_lock:
            self._connection.send(message)

    async def _stream(self, request: GenerationRequest) -> None:
        REQUEST_ID.set(request.request_id)
        try:
            async with aclosing(self._backend.generate(request)) as events:
                async for event in events:
                    self._put(request.id, event)
        except DemoError as error:
            self._put(request.id, error)
        except Exception as error:
            log.exception("request %s failed", request.id)
            self._put(request.id, DemoError(f"{type(error).__name__}: {error}"))

    def _put(self, request_id: str, item: Event | DemoError) -> None:
        """Collects the events of a step: the tasks of all requests run before the next callback of the event loop."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append((request_id, item))

    def _flush(self) -> None:
        if self._outbox:
            events, self._outbox = self._outbox, []
            # The estimate reads the whole queue, which tokens do not change.
            if not all(isinstance(item, TokenEvent) for _, item in events):
                self._estimated_wait_s = self._backend.status().estimated_wait_s
            self._send(Batch(events, self._estimated_wait_s))

    def _beat(self) -> None:
        status = self._backend.status()
        self._estimated_wait_s = status.estimated_wait_s
        self._send(Heartbeat(status.state, status.detail, status.estimated_wait_s, self._backend.step_seconds()))
