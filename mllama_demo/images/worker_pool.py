"""The processes that decode images, as the program sees them: started when they are needed, killed when they take too long.

Each worker has a socket of its own, and one thread at a time uses a worker. So a worker can be killed at any moment without harm
to another. (The pools of multiprocessing and pebble share queues among their workers, return pickles, and run the main module of
the program again in each worker.)
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from PIL import Image

import mllama_demo
from mllama_demo.errors import DemoError, ServerBusy
from mllama_demo.images.decoding import DecodingError, Header, Problem
from mllama_demo.images.worker import Channel

log = logging.getLogger(__name__)

BUSY = "The demo is reading too many images at the moment. Please try again in a moment."
_START_S = 60.0
_SIGKILL, _SIGXCPU = 9, 24  # not all in the module signal on Windows
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "TMPDIR", "TEMP")
# What a worker may take, besides what its file and its pixels need.
_CPU_S, _MEMORY = 3, 256 * 2**20
_BYTES_PER_CPU_S = _PIXELS_PER_CPU_S = 4 * 2**20
_WALL_PER_CPU_S = 5  # the machine may be busy with a model, which goes first


class Worker:
    """One worker process. Used by one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = _start(theirs)
        self._channel = Channel(ours)
        self._channel.deadline = time.monotonic() + _START_S
        try:
            self._channel.receive()
        except (EOFError, OSError):
            self.kill()
            log.error("A process that decodes images could not be started; exit code %s.", self.process.returncode)
            raise DemoError("Images cannot be read by this server at the moment; its log has the cause.") from None

    def ask(self, content: bytes, cpu_s: int, memory: int) -> dict[str, Any]:
        """Sends a file, or asks for the pixels of the last one, and returns the answer.

        Args:
            content: the file; empty to ask for the pixels.
            cpu_s: seconds of CPU time that the worker may take.
            memory: bytes that the worker may take in addition to those that it has.
        Raises:
            DecodingError: the worker has a problem with the file, or had to be ended.
        """
        self._channel.deadline = time.monotonic() + _WALL_PER_CPU_S * cpu_s
        with self._ended_if_it_fails():
            self._channel.send({"cpu_s": cpu_s, "memory": memory}, content)
            answer, _ = self._channel.receive(max_bytes=0)
        if problem := answer.get("problem"):
            if problem == "memory":
                self.kill()
            raise DecodingError(problem if problem in get_args(Problem) else "damaged")
        return answer

    def receive_pixels(self, count: int) -> bytearray:
        with self._ended_if_it_fails():
            return self._channel.receive_bytes(count)

    @property
    def usable(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self._channel.close()
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def _ended_if_it_fails(self) -> Iterator[None]:
        """Kills the worker unless the exchange with it succeeds: nothing that it sends later belongs to another file."""
        complete = False
        try:
            yield
            complete = True
        except TimeoutError:
            raise DecodingError("time") from None
        except (EOFError, OSError, ValueError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
            code = self.process.returncode
            problem: Problem = "time" if code == -_SIGXCPU else "memory" if code == -_SIGKILL else "damaged"
            raise DecodingError(problem) from None
        finally:
            if not complete:
                self.kill()


class OpenImage:
    """A file that a worker has opened and not yet decoded."""

    def __init__(self, worker: Worker, size: int, header: Header) -> None:
        self.header = header
        self._worker, self._size = worker, size

    def decode(self, memory: int) -> Image.Image:
        """The pixels: upright, in the mode RGB. Call it once.

        Args:
            memory: bytes that the pixels may take in the worker.
        Raises:
            DecodingError: the file is damaged, or takes more memory or time than is allowed.
        """
        _, width, height = self.header
        answer = self._worker.ask(b"", _cpu_s(self._size, width * height), memory)
        found = answer["width"], answer["height"]
        if found not in ((width, height), (height, width)):  # the memory is counted by the size in the header
            self._worker.kill()
            raise DecodingError("damaged")
        pixels: Any = self._worker.receive_pixels(3 * width * height)  # Pillow takes a bytearray, too
        return Image.frombuffer("RGB", found, pixels, "raw", "RGB", 0, 1)


class WorkerPool:
    """At most `size` workers. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._idle: list[Worker] = []
        self._count = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def open(self, data: bytes, wait_s: float) -> Iterator[OpenImage]:
        """Opens a file in a worker, which belongs to the caller until the end of the block.

        Args:
            wait_s: how long to wait for a free worker.
        Raises:
            ServerBusy: all workers are in use.
            DecodingError: the bytes are no image file, or take too long to open.
        """
        worker = self._borrow(wait_s)
        try:
            answer = worker.ask(data, _cpu_s(len(data)), _MEMORY + 4 * len(data))
            yield OpenImage(worker, len(data), Header(str(answer["format"]), int(answer["width"]), int(answer["height"])))
        finally:
            self._give_back(worker)

    def start_one(self) -> None:
        """Starts a worker unless there is one, so that the first image need not wait for it."""
        with contextlib.suppress(DemoError):
            self._give_back(self._borrow(0.0))

    def close(self) -> None:
        """Ends the workers that are not in use."""
        with self._changed:
            idle, self._idle = self._idle, []
            self._count -= len(idle)
        for worker in idle:
            worker.kill()

    def _borrow(self, wait_s: float) -> Worker:
        end = time.monotonic() + wait_s
        with self._changed:
            while not self._idle and self._count >= self._size:
                left = end - time.monotonic()
                if left <= 0:
                    raise ServerBusy(BUSY, "image_workers")
                self._changed.wait(left)
            worker = self._idle.pop() if self._idle else None
            if worker is not None and worker.usable:
                return worker
            self._count += worker is None
        try:
            return Worker()
        except BaseException:
            self._forget()
            raise

    def _give_back(self, worker: Worker) -> None:
        if not worker.usable:
            self._forget()
            return
        with self._changed:
            self._idle.append(worker)
            self._changed.notify()

    def _forget(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify()


def longest_use_s(size: int, pixels: int) -> float:
    """How long a file of so many bytes and pixels may keep a worker, to be opened and to be decoded."""
    return _WALL_PER_CPU_S * (_cpu_s(size) + _cpu_s(size, pixels))


def _cpu_s(size: int, pixels: int = 0) -> int:
    return _CPU_S + size // _BYTES_PER_CPU_S + pixels // _PIXELS_PER_CPU_S


def _start(connection: socket.socket) -> subprocess.Popen[bytes]:
    share = getattr(connection, "share", None)
    # On Windows the executable of a virtual environment is a launcher: its process is another one than that of the worker.
    python = sys.executable if share is None else getattr(sys, "_base_executable", sys.executable)
    command, environment = [python, "-m", "mllama_demo.images.worker"], _environment()
    if share is None:
        return subprocess.Popen(
            [*command, str(connection.fileno())],
            pass_fds=[connection.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the program only; the worker ends with its socket
        )
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)  # Windows
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(share(process.pid))
    return process


def _environment() -> dict[str, str]:
    """The way to the same packages, and nothing else: the keys of a deployment may stand in the environment."""
    root = str(Path(mllama_demo.__file__).parent.parent)
    path = os.pathsep.join([root, *(str(Path(entry).resolve()) for entry in sys.path if entry)])
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


WORKER_COUNT = max(2, min(4, os.cpu_count() or 2))
WORKERS = WorkerPool(WORKER_COUNT)


def _replace_pool() -> None:
    """A forked process shares the sockets of its parent, and must not use them."""
    global WORKERS
    WORKERS = WorkerPool(WORKER_COUNT)


atexit.register(lambda: WORKERS.close())
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_replace_pool)
