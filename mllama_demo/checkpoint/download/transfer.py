"""Fetches files into partial files that a later run continues, several at a time, and checks their digests.

huggingface_hub from 1.x on removes a partial file when a download ends early. A file of the weights has 5 GB, so that this module
keeps the part and asks for the rest with the HTTP header Range.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import requests

from mllama_demo.checkpoint.download.hub import RemoteFile, Repository, refusal, unreachable
from mllama_demo.errors import DownloadError

THREADS = 8
ATTEMPTS = 5  # without a new byte
PAUSE_S = 1.0  # before the second attempt; each later pause is as much longer
_CHUNK = 1 << 20  # bytes; what is lost of an interrupted answer
_TIMEOUT_S = (10, 30)  # to connect, and without a byte
_RETRIED = (408, 429, 500, 502, 503, 504)


class _Stopped(Exception):
    """The download ends; the partial file is kept."""


def partial_bytes(path: Path) -> int:
    """The size of a partial file, 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def fetch_all(
    files: Sequence[RemoteFile], fetch: Callable[[RemoteFile, threading.Event], None], done: Callable[[RemoteFile], None]
) -> None:
    """Calls `fetch` for all files in several threads. The first exception ends all.

    The threads are daemons, so that Ctrl-C ends the process at once and not when the network next answers.

    Args:
        files: the files, in the order in which they are begun.
        fetch: fetches a file. Gives up when the event is set.
        done: called in this thread for each file that is whole.
    """
    todo: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
    outcomes: queue.SimpleQueue[RemoteFile | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    for file in files:
        todo.put(file)

    def work() -> None:
        while not stop.is_set():
            try:
                file = todo.get_nowait()
            except queue.Empty:
                return
            try:
                fetch(file, stop)
                outcomes.put(file)
            except BaseException as error:  # raised again in the main thread
                outcomes.put(error)

    for number in range(min(THREADS, len(files))):
        threading.Thread(target=work, name=f"download-{number}", daemon=True).start()
    try:
        for _ in files:
            outcome = outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            done(outcome)
    finally:
        stop.set()


def fetch_file(
    repository: Repository, file: RemoteFile, partial: Path, advance: Callable[[int], None], stop: threading.Event
) -> None:
    """Completes a partial file.

    Args:
        repository: where the file is.
        file: the file.
        partial: the partial file; made when it does not exist.
        advance: called with the number of bytes that have come; negative when they have to come again.
        stop: ends the download with the next piece of data.

    Raises:
        DownloadError: the hub refuses, breaks off again and again, or sends something else than it announced.
    """
    failures = 0
    while True:
        before = partial_bytes(partial)
        try:
            with disk_errors_explained(partial):
                _receive(repository, file, partial, advance, stop)
            return
        except _BrokenOff as broken:
            failures = 1 if partial_bytes(partial) > before else failures + 1
            if failures >= ATTEMPTS:
                raise DownloadError(broken.args[0]) from None
            if stop.wait(PAUSE_S * failures):
                raise _Stopped from None


class _BrokenOff(Exception):
    """An attempt failed in a way that may pass. The argument is the sentence to end with when it does not."""


def _receive(
    repository: Repository, file: RemoteFile, partial: Path, advance: Callable[[int], None], stop: threading.Event
) -> None:
    """One attempt: continues the partial file and checks the digest of the whole."""
    digest = file.new_digest()
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("a+b") as stream:
        if stream.tell() > file.bytes:
            advance(-file.bytes)
            stream.truncate(0)
        stream.seek(0)
        while piece := stream.read(_CHUNK):
            digest.update(piece)
            if stop.is_set():
                raise _Stopped
        start = size = stream.tell()
        if size < file.bytes:
            with _answer(repository, file, size) as answer:
                if size and answer.status_code != 206:  # the server ignores Range
                    advance(-size)
                    stream.truncate(0)
                    digest, size = file.new_digest(), 0
                for piece in _pieces(answer, repository, file, partial):
                    if stop.is_set():
                        raise _Stopped
                    stream.write(piece)
                    digest.update(piece)
                    advance(len(piece))
                    size += len(piece)
        if size < file.bytes:
            raise _BrokenOff(_broken_off(file, size))
    if size > file.bytes or digest.hexdigest() != file.digest:
        partial.unlink()
        advance(-size)
        text = f"{file.name} arrives damaged: its checksum is not that of the hub; run the command again."
        raise _BrokenOff(text) if start else DownloadError(text)


@contextmanager
def _answer(repository: Repository, file: RemoteFile, start: int) -> Iterator[requests.Response]:
    """The hub's answer with the content of a file from the byte `start` on."""
    address = f"{repository.endpoint}/{repository.name}/resolve/{repository.commit}/{quote(file.name)}"
    plain = {key: value for key, value in repository.headers.items() if key.lower() != "authorization"}
    plain["Accept-Encoding"] = "identity"
    if start:
        plain["Range"] = f"bytes={start}-"
    token = {key: value for key, value in repository.headers.items() if key not in plain}

    def authorise(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As `auth`, because requests would otherwise prefer a password in ~/.netrc. It removes the header when another host is
        # to send the data.
        request.headers.update(token)
        return request

    try:
        answer = requests.get(address, headers=plain, auth=authorise, stream=True, timeout=_TIMEOUT_S)
    except requests.RequestException:
        raise _BrokenOff(unreachable(repository.endpoint)) from None
    with answer:
        if answer.status_code >= 400:
            error = refusal(repository, answer.status_code, answer.headers)
            raise _BrokenOff(str(error)) if answer.status_code in _RETRIED else error
        yield answer


def _pieces(answer: requests.Response, repository: Repository, file: RemoteFile, partial: Path) -> Iterator[bytes]:
    try:
        yield from answer.iter_content(_CHUNK)
    except requests.RequestException:
        raise _BrokenOff(_broken_off(file, partial_bytes(partial))) from None


def _broken_off(file: RemoteFile, size: int) -> str:
    return (
        f"The connection breaks off at {size:,} of the {file.bytes:,} bytes of {file.name}; run the command again, and it "
        "resumes there."
    )


@contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """Turns an error of the disk into a DownloadError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"The disk of {path.parent} is full; make room, run the command again, and it resumes."
        else:
            reason = error.strerror or error
            text = f"{error.filename or path} cannot be written ({reason}); check its permissions, or name another folder."
        raise DownloadError(text) from None
