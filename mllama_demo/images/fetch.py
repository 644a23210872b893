"""Fetches an image from a web address, with limits on time, size, redirects and hosts (see addresses.py).

The bytes go through loading.load_image. fetch_image blocks; call it in a thread.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import closing, suppress
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from mllama_demo.errors import ImageError
from mllama_demo.images.addresses import host_refusal, is_ip_address, is_named, may_connect, resolve_host
from mllama_demo.images.loading import DEFAULT_LIMITS, ImageLimits, LoadedImage, clean_name, from_data_url, load_image, size_text

MAX_REDIRECTS = 3
_MAX_URL = 8000
_CHUNK = 64 * 2**10
_HEADERS = {"User-Agent": "mllama-demo", "Accept": "image/*", "Accept-Encoding": "identity"}

Resolve = Callable[[str, int], list[str]]


class _Deadline:
    """The time limit of one fetch.

    A watched socket is shut down at the deadline, even during a TLS handshake. Time-outs of single reads are not enough: a
    server that sends one byte a second would pass them for days.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._expired = False

    def remaining(self) -> float:
        return max(0.001, self._end - time.monotonic())

    def passed(self) -> bool:
        return self._expired or time.monotonic() >= self._end

    def watch(self, connection: socket.socket) -> Callable[[], None]:
        """Starts watching; the returned function ends it. Watches a duplicate, because TLS detaches the original socket."""
        duplicate = connection.dup()
        timer = threading.Timer(self.remaining(), self._cut, [duplicate])
        timer.daemon = True
        timer.start()

        def stop() -> None:
            timer.cancel()
            duplicate.close()

        return stop

    def _cut(self, duplicate: socket.socket) -> None:
        self._expired = True
        with suppress(OSError):  # already gone
            duplicate.shutdown(socket.SHUT_RDWR)


class _PinnedAdapter(HTTPAdapter):
    """Connects to the IP addresses that were checked, without a second DNS look-up.

    The URL keeps its host name, which the Host header, TLS's server name and the check of the certificate use.
    """

    def __init__(self, addresses: list[str], connect_timeout_s: float, deadline: _Deadline) -> None:
        super().__init__()
        self._addresses = addresses
        self._connect_timeout_s = connect_timeout_s
        self._deadline = deadline
        self._stop_watching: list[Callable[[], None]] = []

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        # urllib3 itself overrides _new_conn for SOCKS proxies.
        dial = self._dial
        pool.ConnectionCls = type("PinnedConnection", (pool.ConnectionCls,), {"_new_conn": lambda conn: dial(conn)})
        return pool

    def _dial(self, connection: Any) -> socket.socket:
        error: OSError = OSError("no address")
        for address in self._addresses:
            if self._deadline.passed():
                break
            try:
                dialled = socket.create_connection(
                    (address, connection.port), min(self._connect_timeout_s, self._deadline.remaining())
                )
            except OSError as e:
                error = e
                continue
            self._stop_watching.append(self._deadline.watch(dialled))
            return dialled
        if isinstance(error, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError("timed out") from error
        raise urllib3.exceptions.NewConnectionError(connection, "failed") from error

    def close(self) -> None:
        for stop in self._stop_watching:
            stop()
        super().close()


class _Problem(Exception):
    """Why a fetch failed, as the end of a sentence. Contains no address and nothing that the server sent."""


def fetch_image(url: str, limits: ImageLimits = DEFAULT_LIMITS, **options: Any) -> LoadedImage:
    """The image behind an http, https or data: URL, see fetch_bytes. Raises ImageError for every failure."""
    if url.strip()[:5].lower() == "data:":
        return from_data_url(url.strip(), limits=limits)
    data, name = fetch_bytes(url, limits, **options)
    return load_image(data, name, limits)


def fetch_bytes(
    url: str,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    allowed_hosts: Sequence[str] | None = None,
    connect_timeout_s: float = 5.0,
    total_timeout_s: float = 15.0,
    ca_bundle: str | None = None,
    resolve: Resolve = resolve_host,
) -> tuple[bytes, str]:
    """The file behind an http or https URL, which is not decoded yet, and its name.

    Each redirect, of at most MAX_REDIRECTS, is checked like the first address. Proxies, .netrc and cookies are not used.

    Args:
        allowed_hosts: None for every public host. Otherwise only these: a host name, an IP address, or ".example.com" for all
            hosts below it. A host listed by its own name may be in a private network. A suffix does not allow private
            networks, because whoever may add names below it could point one anywhere.
        ca_bundle: a PEM file of certificate authorities to trust instead of certifi's.
        resolve: host and port to IP addresses. It is called once for each host; no other address is connected to.
    Raises:
        ImageError: for every failure.
    """
    url = url.strip()
    deadline = _Deadline(total_timeout_s)
    target, subject = url, "the address"
    data = None
    try:
        for _ in range(MAX_REDIRECTS + 1):
            request, parts = _prepare(target, subject)
            addresses = _checked_addresses(parts, subject, allowed_hosts, resolve, deadline)
            adapter = _PinnedAdapter(addresses, connect_timeout_s, deadline)
            timeouts = (connect_timeout_s, deadline.remaining())
            with closing(adapter), adapter.send(request, stream=True, timeout=timeouts, verify=ca_bundle or True) as response:
                if not response.is_redirect:
                    data = _body(response, limits)
                    break
                location = response.headers["Location"].encode("latin-1").decode("utf-8", "replace")
                target, subject = urljoin(request.url or "", location), "the address it redirects to"
        else:
            raise _Problem(f"it redirects more than {MAX_REDIRECTS} times")
        if deadline.passed():
            raise TimeoutError  # a connection that was shut down looks like the end of a body of unknown length
    except Exception as error:
        problem = _describe(error, deadline, total_timeout_s)
        raise ImageError(f'The image at "{_label(url)}" cannot be fetched: {problem}.') from None
    name = unquote(PurePosixPath(parts.path).name) or parts.hostname or "image"
    return data, name


def _prepare(url: str, subject: str) -> tuple[requests.PreparedRequest, SplitResult]:
    """The request, and its URL as `requests` parses it, so that the URL that is checked is the URL that is sent."""
    try:
        raw = urlsplit(url)
        if raw.scheme not in ("http", "https"):
            raise _Problem(f"{subject} is of another kind; only http, https and data URLs are allowed")
        if "@" in raw.netloc:
            raise _Problem(f"{subject} contains a user name or password; only addresses without are allowed")
        if len(url) > _MAX_URL:
            raise _Problem(f"{subject} is too long; at most {_MAX_URL} characters are allowed")
        request = requests.Request("GET", url, headers=_HEADERS).prepare()
        parts = urlsplit(request.url or "")
        if not parts.hostname:
            raise ValueError
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError):
        raise _Problem(f"{subject} is malformed; something like https://example.com/photo.jpg is allowed") from None
    return request, parts


def _checked_addresses(
    parts: SplitResult, subject: str, allowed_hosts: Sequence[str] | None, resolve: Resolve, deadline: _Deadline
) -> list[str]:
    """The IP addresses of the URL's host. Raises _Problem unless all of them may be connected to."""
    host = (parts.hostname or "").rstrip(".")
    if refusal := host_refusal(host, allowed_hosts):
        raise _Problem(f"{subject} {refusal}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = [host] if is_ip_address(host) else _look_up(host, port, subject, resolve, deadline)
    named = is_named(host, allowed_hosts)
    if not all(may_connect(address, named) for address in addresses):
        raise _Problem(f"{subject} leads into a private or reserved network; only public hosts are allowed")
    return addresses


def _look_up(host: str, port: int, subject: str, resolve: Resolve, deadline: _Deadline) -> list[str]:
    """Resolves the host in a thread of its own, because the system's resolver takes no time limit."""
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            answer.set_result(resolve(host, port))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    failure = answer.exception(timeout=deadline.remaining())
    addresses = [] if failure else answer.result()
    if not addresses:
        raise _Problem(f"{subject} has a host that cannot be found; check its spelling")
    return addresses


def _body(response: requests.Response, limits: ImageLimits) -> bytes:
    """The body as it was sent. It is never decompressed, so that a small answer cannot become a large one."""
    if response.status_code != 200:
        raise _Problem(f"the server answered with HTTP status {response.status_code} instead of an image")
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise _Problem("the server compressed the answer although it was asked not to; only plain image files are allowed")
    too_large = _Problem(f"the file is too large; at most {size_text(limits.max_bytes)} are allowed")
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise too_large
    data = bytearray()
    for chunk in response.raw.stream(_CHUNK, decode_content=False):
        data += chunk
        if len(data) > limits.max_bytes:
            raise too_large
    return bytes(data)


def _describe(error: Exception, deadline: _Deadline, total_timeout_s: float) -> str:
    if isinstance(error, _Problem):
        return str(error)
    if deadline.passed():
        return f"it took too long; at most {total_timeout_s:g} seconds are allowed"
    if isinstance(error, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)):
        return "the server has no TLS certificate that proves its name; use an address with a valid one"
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, FutureTimeout, TimeoutError)):
        return "the server did not answer in time"
    if isinstance(error, (urllib3.exceptions.ProtocolError, requests.exceptions.ChunkedEncodingError)):
        return "the connection broke off before the whole image had come"
    return "the server cannot be reached or does not speak HTTP; check the address"


def _label(url: str) -> str:
    """The address for an error message, without user name, password and query, which may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "this address"
    return clean_name(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path)
