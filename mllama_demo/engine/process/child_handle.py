"""The web process's handle on one process of the model: starts it, passes messages, ends it, and says why it ended.

A handle serves one process. The supervisor makes a new one for each start.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any, cast

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.process.child import MakeBackend, run
from mllama_demo.engine.process.output import ProcessOutput
from mllama_demo.engine.process.protocol import Admitted, Batch, Cancel, Close, Down, Heartbeat, ImageWindow, Ready
from mllama_demo.runtime.logs import log_format

log = logging.getLogger(__name__)
Message = Admitted | Batch | Heartbeat | Ready | Down
# A new interpreter: a process that is forked after CUDA or the Neuron runtime was started cannot use the device. Tests replace
# the context by one that forks from a process which has only imported PyTorch.
CONTEXT: Any = multiprocessing.get_context("spawn")
# A process that has ended can leave messages, and another one that keeps the connection open.
_LAST_MESSAGES_S = 1.0
_DUMP_S = 0.5  # for the stack of a hanging process, which goes to the log


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that starts here is not interrupted by Ctrl-C: it inherits the blocked signal until it has left the terminal."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first start of a process would start it, and unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ChildProcess:
    """One process of the model. All methods but `send` and `submit` are called from the supervisor's thread.

    Args:
        make: Makes the backend in the process.
        keep_output: Whether the end of what the process writes is kept for last_output.

    Raises:
        OSError: The system cannot start another process.
    """

    def __init__(self, make: MakeBackend, keep_output: bool = False) -> None:
        self._connection, theirs = CONTEXT.Pipe()
        output, their_output = CONTEXT.Pipe(duplex=False) if keep_output else (None, None)
        arguments = (make, theirs, log_format(), their_output)
        self._process = CONTEXT.Process(target=run, args=arguments, name="mllama-demo-engine")
        with _interrupts_blocked():
            self._process.start()
        theirs.close()
        if their_output is not None:
            their_output.close()
        self._output = None if output is None else ProcessOutput(output)
        self._silent = threading.Event()
        self._outbox: queue.SimpleQueue[GenerationRequest | Cancel | Close | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="engine-outbox", daemon=True).start()

    @property
    def pid(self) -> int:
        return cast("int", self._process.pid)

    # --- from any thread ------------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> None:
        """Sends a request. Returns at once: a process that hangs does not read."""
        self._outbox.put(request)

    def send(self, message: Cancel | Close) -> None:
        """Sends a message. Returns at once."""
        self._outbox.put(message)

    def _write(self) -> None:
        images = ImageWindow()
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(images.pack(message) if isinstance(message, GenerationRequest) else message)
            except OSError:  # the process has ended
                return
            except Exception:
                log.exception("a request could not be sent to the process of the model; the process is started again")
                self._process.kill()
                return

    def _read(self, handle: Callable[[Message], None]) -> None:
        try:
            while True:
                handle(self._connection.recv())
        except (EOFError, OSError):  # the process has ended
            pass
        except Exception:
            log.exception("a message of the process of the model could not be read; the process is started again")
        finally:
            self._silent.set()

    # --- from the supervisor's thread -----------------------------------------------------------------------------------

    def listen(self, handle: Callable[[Message], None]) -> None:
        """Calls `handle` with each message of the process, from a thread of its own."""
        self._reader = threading.Thread(target=self._read, args=(handle,), name="engine-events", daemon=True)
        self._reader.start()

    def has_ended(self, timeout_s: float) -> bool:
        """Waits for the end of the process, at most timeout_s. Returns True when all of its messages were handled, too."""
        if self._silent.wait(timeout_s):
            return True
        if self.running:
            return False
        self._silent.wait(_LAST_MESSAGES_S)
        return True

    @property
    def running(self) -> bool:
        return self._process.exitcode is None

    def close(self, patience_s: float) -> None:
        """Asks the process to end in order, and kills it after patience_s."""
        self.send(Close())
        self.has_ended(patience_s)
        self.kill()

    def kill(self, dump: bool = False) -> None:
        """Ends the process and whatever it has started.

        Args:
            dump: Whether the process writes to the log first where it is.
        """
        if dump and self.running and hasattr(signal, "SIGUSR1"):
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGUSR1)
            time.sleep(_DUMP_S)
        self._process.kill()
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):  # a process that ended early has no group of its own
                os.killpg(self.pid, signal.SIGKILL)
        self._process.join()
        self._outbox.put(None)
        if self._silent.wait(_LAST_MESSAGES_S):
            self._connection.close()

    def last_output(self) -> str:
        """The end of what the process wrote, if it is kept; else empty."""
        return "" if self._output is None else self._output.last_lines(0.0 if self.running else _LAST_MESSAGES_S)

    def how_it_ended(self) -> str:
        """The end of the process, as the rest of a sentence. Waits for the end of a process that has closed its connection."""
        self._process.join(5)
        code = self._process.exitcode
        if code is None:
            return "closed its connection"
        if code >= 0:
            return f"ended with exit code {code}"
        if -code == getattr(signal, "SIGKILL", None):  # not on Windows
            return "was killed by the system (SIGKILL), probably for want of memory"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
