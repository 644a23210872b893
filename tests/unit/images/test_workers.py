"""The processes that decode images: a hostile file costs a worker at most, and the memory of all images is bounded."""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from mllama_demo.assembly import Demo
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ImageError, ServerBusy
from mllama_demo.images import threads, worker_pool
from mllama_demo.images.decoding import DecodingError
from mllama_demo.images.loading import DEFAULT_LIMITS, IMAGE_MEMORY, ImageLimits, load_image, longest_turn_s
from mllama_demo.images.threads import set_image_limits
from mllama_demo.images.worker import Channel
from mllama_demo.images.worker_pool import Worker, WorkerPool
from tests.support.image_files import corners, encode
from tests.support.paths import ROOT
from tests.support.waiting import wait_until


@pytest.fixture
def pool():
    pool = WorkerPool(1)
    yield pool
    pool.close()


def png(width: int, height: int, bits: int = 8, colour: int = 2, rows: bytes | None = None) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    channels = {0: 1, 2: 3, 6: 4}[colour]
    pixels = bytes(height * (1 + width * channels * bits // 8)) if rows is None else rows
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


# --- a worker that ends --------------------------------------------------------------------------------------------------


def test_a_worker_that_needs_too_much_cpu_time_is_ended_and_the_next_image_is_read(pool, monkeypatch):
    hostile = png(6000, 6000)
    with pool.open(hostile, 1) as file:
        monkeypatch.setattr(worker_pool, "_CPU_S", -9)  # so that the limit is 0 s
        monkeypatch.setattr(worker_pool, "_WALL_PER_CPU_S", -60)  # of the negative limit
        with pytest.raises(DecodingError) as caught:
            file.decode(2**30)
        file._worker.process.wait()
        assert file._worker.process.returncode == -signal.SIGXCPU
    monkeypatch.undo()
    assert caught.value.problem == "time"
    with pool.open(encode(corners()), 1) as file:
        assert file.decode(2**30).size == (40, 20)


def test_a_worker_that_does_not_answer_is_killed(pool, monkeypatch):
    with pool.open(encode(corners()), 1) as file:
        process = file._worker.process
        os.kill(process.pid, signal.SIGSTOP)
        monkeypatch.setattr(worker_pool, "_WALL_PER_CPU_S", 0.1)
        with pytest.raises(DecodingError) as caught:
            file.decode(2**30)
    assert caught.value.problem == "time"
    assert process.returncode == -signal.SIGKILL


def test_others_wait_as_long_as_the_slowest_image_may_keep_a_worker(monkeypatch):
    """The time limits that a worker really gets, added up, are within the wait that is made from the limits."""
    allowed: list[float] = []
    ask = Worker.ask

    def note(self: Worker, content: bytes, cpu_s: int, memory: int) -> dict[str, Any]:
        allowed.append(worker_pool._WALL_PER_CPU_S * cpu_s)
        return ask(self, content, cpu_s, memory)

    monkeypatch.setattr(Worker, "ask", note)
    data = png(4000, 4000) + bytes(9 * 2**20)
    load_image(data)
    assert len(allowed) == 2
    assert sum(allowed) == 5 * (3 + 2) + 5 * (3 + 2 + 3), "of the file, and of the file and its pixels"
    assert worker_pool.longest_use_s(len(data), 16_000_000) == sum(allowed)
    assert threads._DECODING.wait_s == longest_turn_s(DEFAULT_LIMITS) > 100
    settings = Settings(backend="openai", api_only=True, max_image_bytes=len(data), max_image_pixels=16_000_000)
    try:
        Demo(settings, on_ready=lambda: None, on_down=lambda _: None).close()
        assert threads._DECODING.wait_s == longest_turn_s(settings.image_limits) >= sum(allowed)
    finally:
        set_image_limits(DEFAULT_LIMITS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits an address space")
def test_an_image_gets_no_more_memory_than_was_counted_for_it(pool):
    with pool.open(png(4000, 4000, 16, 6), 1) as file, pytest.raises(DecodingError) as caught:
        file.decode(2**20)
    assert caught.value.problem == "memory"
    with pool.open(encode(corners()), 1) as file:
        assert file.decode(2**28).size == (40, 20)


class UntilThePeerHasEnded:
    """A socket whose writes return after the other end was closed, as between two processes by chance."""

    def __init__(self, own: socket.socket, peer: socket.socket, answer: bytes) -> None:
        self._own, self._peer, self._answer = own, peer, answer

    def sendall(self, content: bytes) -> None:
        self._own.sendall(content)
        if self._peer.fileno() >= 0:
            self._peer.recv(1000)
            self._peer.sendall(self._answer)
            self._peer.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def test_the_answer_of_a_worker_that_ends_at_once_is_read():
    """A worker ends when the memory did not suffice. The request for pixels has no bytes after its message."""
    ours, its = socket.socketpair()
    there, back = socket.socketpair()
    Channel(there).send({"problem": "memory"})
    connection: Any = UntilThePeerHasEnded(ours, its, back.recv(1000))
    channel = Channel(connection)
    channel.send({"cpu_s": 1, "memory": 1})
    assert channel.receive() == ({"problem": "memory"}, b"")


def test_a_killed_worker_is_replaced(pool):
    with pool.open(encode(corners()), 1) as file:
        first = file._worker.process
    first.kill()
    first.wait()
    with pool.open(encode(corners()), 1) as file:
        assert file._worker.process.pid != first.pid
        assert file.decode(2**28).size == (40, 20)


def test_a_worker_knows_no_secret_of_its_program(pool, monkeypatch):
    monkeypatch.setenv("MLLAMA_DEMO_API_KEYS", "a secret of this deployment")
    with pool.open(encode(corners()), 1) as file:
        environment = subprocess.run(["cat", f"/proc/{file._worker.process.pid}/environ"], capture_output=True, check=True).stdout
    assert b"PYTHONPATH" in environment
    assert b"secret" not in environment


def test_a_worker_needs_no_avif_plugin():
    """Pillow has it from 11.2 on."""
    code = (
        "import socket, sys\n"
        "sys.modules['PIL.AvifImagePlugin'] = None\n"
        "from mllama_demo.images.worker import main\n"
        "main(socket.socket(fileno=int(sys.argv[1])))\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        process = subprocess.Popen([sys.executable, "-c", code, str(fd)], cwd=ROOT, pass_fds=[fd])
        theirs.close()
        channel = Channel(ours)
        channel.deadline = time.monotonic() + 60
        assert channel.receive()[0] == {"ready": True}
    process.wait(60)


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="needs a virtual environment")
@pytest.mark.skipif(
    getattr(sys, "_base_executable", "") == sys.executable,
    reason="Python 3.10 knows the executable outside of the environment on Windows only",
)
def test_on_windows_a_worker_is_no_child_of_the_launcher_of_the_environment():
    """A socket is shared with one process, by its id, and that process has to be the worker."""

    class Shared(socket.socket):  # socket.share is there on Windows only
        def share(self, pid: int) -> bytes:
            return str(pid).encode()

    with Shared() as connection:
        process = worker_pool._start(connection)
    process.wait(60)
    base = sys._base_executable  # pyright: ignore[reportAttributeAccessIssue]
    assert base != sys.executable
    assert process.args == [base, "-m", "mllama_demo.images.worker"]
    code = "import PIL.Image, mllama_demo.images.worker"  # the packages of the environment
    subprocess.run([base, "-c", code], env=worker_pool._environment(), check=True)


def test_workers_end_with_their_program():
    code = (
        "import os, signal\n"
        "from mllama_demo.images.worker_pool import WORKERS\n"
        "WORKERS.start_one()\n"
        "print(WORKERS._idle[0].process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    worker = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    def state() -> str:
        return subprocess.run(["ps", "-o", "stat=", "-p", worker], capture_output=True, text=True).stdout

    wait_until(lambda: state()[:1] in ("", "Z"), "the worker has ended")


# --- busy ----------------------------------------------------------------------------------------------------------------


def test_a_file_waits_for_a_free_worker_and_is_refused_when_there_is_none(pool):
    def decode() -> tuple[int, int]:
        with pool.open(encode(corners()), 60) as file:
            return file.decode(2**28).size

    with ThreadPoolExecutor(1) as threads:
        with pool.open(encode(corners()), 1):
            with pytest.raises(ServerBusy, match="too many images"), pool.open(encode(corners()), 0):
                pass
            waiting = threads.submit(decode)
        assert waiting.result() == (40, 20)


def test_many_threads_share_the_workers():
    files = [encode(Image.new("RGB", (30, 30), (i, 0, 0))) for i in range(24)]
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda data: load_image(data).pixels.getpixel((5, 5)), files))
    assert found == [(i, 0, 0) for i in range(24)]


# --- memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_memory_of_an_image_is_counted_while_it_exists():
    gc.collect()
    before = IMAGE_MEMORY.used
    data = encode(Image.new("RGB", (500, 400)))
    image = load_image(data)
    assert IMAGE_MEMORY.used - before == image.memory == 500 * 400 * 4 + len(data)
    pixels = image.pixels
    del image
    assert IMAGE_MEMORY.used > before
    del pixels
    assert IMAGE_MEMORY.used == before


@pytest.mark.slow
def test_a_refused_image_is_not_counted():
    gc.collect()
    before = IMAGE_MEMORY.used
    for data in (encode(corners())[:60], png(6000, 10), b"hello"):
        with pytest.raises(ImageError):
            load_image(data)
    assert IMAGE_MEMORY.used == before


@pytest.mark.slow
def test_images_beyond_the_memory_for_all_are_refused_until_one_is_gone(monkeypatch):
    monkeypatch.setattr("mllama_demo.images.loading._WAIT_S", 0.2)
    gc.collect()
    limits = ImageLimits(max_memory=IMAGE_MEMORY.used + 64 * 2**20 + 16 * 9_000_000 + 2**20)
    first = load_image(png(3000, 3000), limits=limits)
    with pytest.raises(ServerBusy, match="try again"):
        load_image(png(3000, 3000), limits=limits)
    del first
    assert load_image(png(3000, 3000), limits=limits).width == 3000


def test_an_image_that_needs_more_than_the_memory_for_all_is_refused_by_name():
    with pytest.raises(ImageError, match=r'"big.png" needs .* of memory; at most 128 MiB are allowed'):
        load_image(png(3000, 3000), "big.png", ImageLimits(max_memory=128 * 2**20))


def test_the_largest_image_that_is_allowed_fits_the_memory_that_is_allowed_by_default():
    assert 16 * DEFAULT_LIMITS.max_pixels + 64 * 2**20 + 2 * DEFAULT_LIMITS.max_bytes < DEFAULT_LIMITS.max_memory
