"""Brings an image from an address the user typed, and only from where the public may look: no private network, no metadata
service, not for longer or more than allowed. What it brings goes through images.load_image. Blocks; call it in a thread.
"""

from __future__ import annotations

import ipaddress
import re
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
from mllama_demo.images.loading import DEFAULT_LIMITS, ImageLimits, LoadedImage, clean_name, from_data_url, load_image, size_text

MAX_REDIRECTS = 3
_MAX_URL = 8000
_CHUNK = 64 * 2**10
_HEADERS = {"User-Agent": "mllama-demo", "Accept": "image/*", "Accept-Encoding": "identity"}

Resolve = Callable[[str, int], list[str]]
_Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


def resolve_host(host: str, port: int) -> list[str]:
    """The IP addresses of a host name as the system knows them; raises OSError or UnicodeError when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


# --- which addresses -----------------------------------------------------------------------------------------------------


def _networks(*blocks: str) -> _Networks:
    return tuple(ipaddress.ip_network(block) for block in blocks)


# IANA's special-purpose registries (RFC 6890). Written out, since what ipaddress calls global differs between Pythons.
_NOT_PUBLIC = _networks(
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4"),
    "168.63.129.16/32",  # Azure's host services, public by its number only
    *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # Teredo and others, documentation, 6to4
)
# Of IPv6 only this block is public; outside it lie loopback, unique local, link-local, multicast, IPv4-mapped and NAT64.
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
# What an operator may open by naming the host. Never link-local: nobody serves images from a metadata service.
_OPERATOR_MAY_OPEN = _networks(
    *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
_METADATA = _networks("100.100.100.200/32", "fd00:ec2::/32", "fd20:ce::254/128")  # Alibaba, AWS and Google; private, but not data


def is_public(address: str) -> bool:
    """Whether an IP address, in its usual notation, belongs to the public internet. Raises ValueError for anything else."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip not in _GLOBAL_IPV6:
        return False
    return not any(ip in network for network in _NOT_PUBLIC)


def _may_be_opened(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return any(ip in network for network in _OPERATOR_MAY_OPEN) and not any(ip in network for network in _METADATA)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_disguised_ipv4(host: str) -> bool:
    """127.1, 0177.0.0.1, 0x7f000001, 2130706433: what the C library takes for an IPv4 address though it is none in form."""
    return re.fullmatch(r"\d+|0x[0-9a-f]*", host.rstrip(".").rpartition(".")[2]) is not None and not _is_ip(host)


def _listed(host: str, allowed_hosts: Sequence[str]) -> tuple[bool, bool]:
    """(allowed, named): whether the list has the host at all, and whether by its own name rather than by a .suffix."""
    names = [name.lower().rstrip(".").strip("[]") for name in allowed_hosts]
    named = host in names
    return named or any(name.startswith(".") and host.endswith(name) for name in names), named


# --- time and connections ------------------------------------------------------------------------------------------------


class _Deadline:
    """The moment when a fetch must be over. A socket it watches is cut off then, even in the middle of a TLS handshake or
    of headers that come one byte a second, which time-outs of single reads would let live for days."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._expired = False

    def remaining(self) -> float:
        return max(0.001, self._end - time.monotonic())

    def passed(self) -> bool:
        return self._expired or time.monotonic() >= self._end

    def watch(self, connection: socket.socket) -> Callable[[], None]:
        """Starts watching; the returned function ends it. Works on a duplicate, since TLS takes the original apart."""
        twin = connection.dup()
        timer = threading.Timer(self.remaining(), self._cut, [twin])
        timer.daemon = True
        timer.start()

        def stop() -> None:
            timer.cancel()
            twin.close()

        return stop

    def _cut(self, twin: socket.socket) -> None:
        self._expired = True
        with suppress(OSError):  # already gone
            twin.shutdown(socket.SHUT_RDWR)


class _PinnedAdapter(HTTPAdapter):
    """Connects to the addresses that were checked and never asks the DNS again. The URL keeps its host name, and with it the
    Host header, the name sent in TLS and the name the certificate must bear."""

    def __init__(self, addresses: list[str], connect_timeout_s: float, deadline: _Deadline) -> None:
        super().__init__()
        self._addresses = addresses
        self._connect_timeout_s = connect_timeout_s
        self._deadline = deadline
        self._stop_watching: list[Callable[[], None]] = []

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        # _new_conn is where urllib3's own SOCKS support steps in too.
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


# --- fetching ------------------------------------------------------------------------------------------------------------


class _Problem(Exception):
    """Why a fetch failed, as the end of a sentence. Never contains an address or anything the server sent."""


def fetch_image(
    url: str,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    allowed_hosts: Sequence[str] | None = None,
    connect_timeout_s: float = 5.0,
    total_timeout_s: float = 15.0,
    ca_bundle: str | None = None,
    resolve: Resolve = resolve_host,
) -> LoadedImage:
    """The image behind an http, https or data: URL. Raises ImageError and nothing else.

    allowed_hosts: None for every public host, else these alone: a host name or IP address, or ".example.com" for all below
    it. A host listed by its own name may also be private; a suffix opens nothing private, since whoever may add names below
    it could point one anywhere. Each redirect, of at most MAX_REDIRECTS, is checked like the first address. Proxies, .netrc
    and cookies play no part. ca_bundle: a PEM file of authorities to trust instead of certifi's. resolve: host and port to
    IP addresses; asked once per host, and no other address is connected to.
    """
    url = url.strip()
    if url[:5].lower() == "data:":
        return from_data_url(url, limits=limits)
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
            raise TimeoutError  # a cut connection can pass for the end of a body of unknown length
    except Exception as error:
        problem = _describe(error, deadline, total_timeout_s)
        raise ImageError(f'The image at "{_label(url)}" cannot be fetched: {problem}.') from None
    name = unquote(PurePosixPath(parts.path).name) or parts.hostname or "image"
    return load_image(data, name, limits)


def _prepare(url: str, subject: str) -> tuple[requests.PreparedRequest, SplitResult]:
    """The request, and its URL as requests understands it, so that what is checked is what is sent."""
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
    """The IP addresses of the URL's host, if every one of them may be connected to."""
    host = (parts.hostname or "").rstrip(".")
    if _is_disguised_ipv4(host):
        raise _Problem(f"{subject} has an IP address in an unusual form; only host names and forms like 1.2.3.4 are allowed")
    allowed, named = (True, False) if allowed_hosts is None else _listed(host, allowed_hosts)
    if not allowed:
        raise _Problem(f"{subject} has a host that is not on this demo's list; only hosts that its operator chose are allowed")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = [host] if _is_ip(host) else _look_up(host, port, subject, resolve, deadline)
    if not all(is_public(address) or (named and _may_be_opened(address)) for address in addresses):
        raise _Problem(f"{subject} leads into a private or reserved network; only public hosts are allowed")
    return addresses


def _look_up(host: str, port: int, subject: str, resolve: Resolve, deadline: _Deadline) -> list[str]:
    """Asks in a thread of its own, since a look-up in the system's resolver cannot be given a time limit."""
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
    """The bytes of the answer, as they come over the wire: nothing is decompressed, so nothing can swell."""
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
    """The address for an error message: without user name, password and query, which may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "this address"
    return clean_name(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path)
