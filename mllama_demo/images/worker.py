"""A process that decodes image files for the program: python -m mllama_demo.images.worker [DESCRIPTOR].

The operating system ends the process when a file takes more CPU time than was allowed, and refuses memory beyond the allowed.
Only JSON and pixels come back, and the process has no secret in its environment.

The protocol, over the socket with the number DESCRIPTOR, which on Windows comes through the standard input instead: the program
sends a file; the worker answers with its header; the program asks for the pixels, or sends the next file; the worker answers with
the size of the image and its pixels. Instead of an answer a problem may come.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows, where the time limit of the program is the only limit
    resource = None

_SIZES = struct.Struct(">IQ")
_BAND_BYTES = 4 * 2**20
_MAX_MESSAGE_BYTES = 64 * 2**10


class Channel:
    """Messages over a socket: a JSON object, and bytes that may be empty.

    Raises:
        EOFError: the other side has closed the socket.
        TimeoutError: the deadline has passed.
        OSError: the connection failed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.deadline: float | None = None  # time.monotonic()

    def send(self, message: dict[str, Any], content: bytes = b"") -> None:
        text = json.dumps(message).encode()
        self._socket.settimeout(self._left())
        self._socket.sendall(_SIZES.pack(len(text), len(content)) + text)
        if content:  # else the other side may have answered already and ended, and even an empty write to it fails
            self.send_bytes(content)

    def send_bytes(self, content: bytes) -> None:
        self._socket.settimeout(self._left())
        self._socket.sendall(content)

    def receive(self, max_bytes: int | None = None) -> tuple[dict[str, Any], bytearray]:
        """Returns a message and its bytes. Raises OSError for a message that is too large."""
        text_size, size = _SIZES.unpack(self.receive_bytes(_SIZES.size))
        if text_size > _MAX_MESSAGE_BYTES or (max_bytes is not None and size > max_bytes):
            raise OSError("the message is too large")
        return json.loads(self.receive_bytes(text_size)), self.receive_bytes(size)

    def receive_bytes(self, size: int) -> bytearray:
        content = bytearray(size)
        view, position = memoryview(content), 0
        while position < size:
            self._socket.settimeout(self._left())
            read = self._socket.recv_into(view[position:])
            if not read:
                raise EOFError
            position += read
        return content

    def close(self) -> None:
        self._socket.close()

    def _left(self) -> float | None:
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def main(connection: socket.socket) -> None:
    """Decodes files until the program closes its end of the connection."""
    from PIL import Image

    from mllama_demo.images.decoding import DecodingError, ImageFileReader

    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # the program checks the size before it asks for the pixels
    with contextlib.suppress(ImportError):  # Pillow before 11.2
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    _be_modest()
    channel = Channel(connection)
    channel.send({"ready": True})
    reader = None
    with contextlib.suppress(EOFError):
        while True:
            message, content = channel.receive()
            _limit(message["cpu_s"], message["memory"])
            try:
                if content:
                    reader = None
                    reader = ImageFileReader(bytes(content))
                    channel.send(reader.header._asdict())
                elif reader is not None:
                    image = reader.decode()
                    reader = None
                    channel.send({"width": image.width, "height": image.height})
                    rows = max(1, _BAND_BYTES // (3 * image.width))
                    for top in range(0, image.height, rows):
                        band = image.crop((0, top, image.width, min(top + rows, image.height)))
                        channel.send_bytes(band.tobytes())
                    del image
            except DecodingError as error:
                reader = None
                channel.send({"problem": error.problem})
                if error.problem == "memory":
                    return  # what the decoder left behind is unknown


def _be_modest() -> None:
    """Lowers the priority, forbids files and core dumps, and silences the warnings of the decoders."""
    if resource is not None:
        os.nice(5)
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _limit(cpu_s: int, memory: int) -> None:
    """Allows so many more seconds of CPU time, and so many more bytes than the process has now."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_s)
    with contextlib.suppress(OSError):  # no Linux, where an address space has no enforced limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _set_soft_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + memory)


def _set_soft_limit(kind: int, value: int) -> None:
    assert resource is not None
    hard = resource.getrlimit(kind)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(socket.socket(fileno=int(sys.argv[1])))
    else:
        main(socket.fromshare(sys.stdin.buffer.read()))  # type: ignore[attr-defined]  # Windows has it
