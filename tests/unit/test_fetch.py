"""Where fetch_image goes, where it refuses to go, and what it does with servers that misbehave. Only loopback is used."""

from __future__ import annotations

import inspect
import io
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mllama_demo.errors import ImageError
from mllama_demo.fetch import fetch_image, is_public
from mllama_demo.images import ImageLimits

PUBLIC = "93.184.216.34"


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


class Server:
    """An HTTP server on loopback. pages: path to a function that answers; seen: the requests that came."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                with suppress(OSError):
                    outer.pages[self.path](self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def url(self, path: str, host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"

    def page(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for key, value in headers.items():
                handler.send_header(key.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.pages[path] = answer
        return self.url(path)

    def redirect(self, path: str, target: str) -> str:
        return self.page(path, b"", 302, Location=target)

    def drip(self, path: str, start: bytes, drop: bytes) -> str:
        """Sends start, then drop after drop until somebody hangs up."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(start)
            while not self.over.wait(0.01):
                handler.wfile.write(drop)

        self.pages[path] = answer
        return self.url(path)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def local(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def never(*_: Any, **__: Any) -> Any:
    pytest.fail("this must not be called")  # no Exception, so that nothing catches it


def fetch(url: str, **options: Any) -> Any:
    return fetch_image(url, **{"allowed_hosts": ["localhost"], "resolve": local, **options})


def refused(url: str, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(url, **options)
    return str(caught.value)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch, server: Server) -> list[tuple[str, int]]:
    """Sends every connection to the local server and records where it would have gone."""
    connect, calls = socket.create_connection, []

    def create_connection(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        calls.append(address)
        return connect(("127.0.0.1", server.port), *args, **kwargs)

    monkeypatch.setattr("mllama_demo.fetch.socket.create_connection", create_connection)
    return calls


# --- what works ----------------------------------------------------------------------------------------------------------


def test_an_image_is_fetched_and_named_after_its_path(server):
    url = server.page("/a/red%20square.png?size=8", png())
    image = fetch(url)
    assert (image.format, image.width, image.name, image.data) == ("PNG", 8, "red square.png", png())


def test_an_image_at_the_root_is_named_after_its_host(server):
    assert fetch(server.page("/", png())).name == "localhost"


def test_a_data_url_is_loaded_without_any_network():
    gif = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    assert fetch_image(f" data:image/gif;base64,{gif}", allowed_hosts=[], resolve=never).format == "GIF"


def test_the_request_says_who_it_is_wants_no_compression_and_bears_no_secrets(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(server.page("/x.png", png()))
    headers = server.seen[0][1]
    assert headers["user-agent"] == "mllama-demo"
    assert headers["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "referer"} & set(headers)


def test_proxies_of_the_environment_are_ignored(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert fetch(server.page("/x.png", png())).width == 8


def test_the_checked_address_is_connected_to_and_the_server_still_hears_the_host_name(server, dialled):
    server.page("/x.png", png())
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    assert fetch("http://Pictures.Example:8080/x.png", allowed_hosts=None, resolve=resolve).width == 8
    assert asked == [("pictures.example", 8080)]
    assert dialled == [(PUBLIC, 8080)]
    assert server.seen[0][1]["host"].lower() == "pictures.example:8080"


def test_a_public_address_may_be_written_as_such(server, dialled):
    server.page("/x.png", png())
    for url in (f"http://{PUBLIC}/x.png", "http://[2606:4700::1111]/x.png"):
        assert fetch(url, allowed_hosts=None, resolve=never).width == 8
    assert dialled == [(PUBLIC, 80), ("2606:4700::1111", 80)]


def test_the_next_address_is_tried_when_the_first_does_not_answer(server):
    assert fetch(server.page("/x.png", png()), resolve=lambda *_: ["127.0.0.2", "127.0.0.1"]).width == 8


def test_three_redirects_are_followed_relative_ones_too(server):
    server.redirect("/1", "/2")
    server.redirect("/2", server.url("/3"))
    server.redirect("/3", "x.png")
    server.page("/x.png", png())
    assert fetch(server.url("/1")).name == "x.png"


# --- addresses that are refused ------------------------------------------------------------------------------------------

PRIVATE = [
    *("127.0.0.1", "127.255.255.255", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "169.254.0.1", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "198.19.255.255", "192.88.99.1"),
    *("::", "::1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::ffff:0:7f00:1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1"),
    *("2002:7f00:1::", "2002:808:808::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    *("2001:db8::1", "2001:10::1", "2001:20::1", "3fff::1", "100::1", "5f00::1", "4000::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_no_name_leads_to_an_address_that_is_not_public(address, monkeypatch):
    monkeypatch.setattr("mllama_demo.fetch.socket.create_connection", never)
    assert not is_public(address)
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        message = refused("http://pictures.example/x.png", allowed_hosts=None, resolve=lambda *_, answer=answer: answer)
        assert "private or reserved network" in message
        assert address not in message


@pytest.mark.parametrize("address", [a for a in PRIVATE if "%" not in a])
def test_no_address_that_is_not_public_may_be_written_into_the_url(address, monkeypatch):
    monkeypatch.setattr("mllama_demo.fetch.socket.create_connection", never)
    host = f"[{address}]" if ":" in address else address
    assert "private or reserved network" in refused(f"http://{host}/x.png", allowed_hosts=None, resolve=never)


@pytest.mark.parametrize("address", ["8.8.8.8", PUBLIC, "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"])
def test_ordinary_addresses_are_public(address):
    assert is_public(address)


@given(st.ip_addresses())
def test_nothing_that_python_knows_as_special_counts_as_public(ip):
    if is_public(str(ip)):
        assert ip.is_global
        assert not any((ip.is_private, ip.is_multicast, ip.is_reserved, ip.is_link_local, ip.is_loopback))
        assert not isinstance(ip, ipaddress.IPv6Address) or (ip.ipv4_mapped, ip.sixtofour, ip.teredo) == (None, None, None)


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0X7F.1", "0177.0.0.1", "127.1", "127.0.1", "0", "0x", "00000177.1", "017700000001"),
        *(
            "127.0.0.01",
            "1.2.3.4.5",
            "256.256.256.256",
            "2852039166",
            "0xa9fea9fe",
            "8.8.2056",
            "example.1",
            "127.1.",
            "１２７.1",
        ),
    ],
)
def test_an_ip_address_in_decimal_octal_hex_or_short_form_is_refused(host, monkeypatch):
    monkeypatch.setattr("mllama_demo.fetch.socket.create_connection", never)
    message = refused(f"http://{host}/x.png", allowed_hosts=None, resolve=never)
    assert "unusual form" in message or "malformed" in message


@pytest.mark.parametrize(
    "host", ["127.0.0.1.", "１２７.０.０.１", "127。0。0。1", "①②⑦.0.0.1", "localhost", "LOCALHOST.", "[::1]"]
)
def test_other_spellings_of_loopback_are_refused(host, monkeypatch):
    monkeypatch.setattr("mllama_demo.fetch.socket.create_connection", never)
    refused(f"http://{host}/x.png", allowed_hosts=None)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://localhost/x.png", "only http, https and data URLs"),
        ("file:///etc/passwd", "only http, https and data URLs"),
        ("gopher://localhost/", "only http, https and data URLs"),
        ("//localhost/x.png", "only http, https and data URLs"),
        ("x.png", "only http, https and data URLs"),
        ("", "only http, https and data URLs"),
        ("http://user:secret@localhost/x.png", "user name or password"),
        ("http://user@localhost/x.png", "user name or password"),
        ("http://localhost\\@example.com/x.png", "user name or password"),
        ("http://localhost:secret\\@example.com/x.png", "user name or password"),
        ("http:///x.png", "malformed"),
        ("http://", "malformed"),
        ("http://[::1/x.png", "malformed"),
        ("http://localhost:99999/x.png", "malformed"),
        ("http://localhost:http/x.png", "malformed"),
        ("http://a..b/x.png", ""),
        ("http://\ud800/x.png", "malformed"),
        ("http://" + "a" * 300 + ".example/x.png", ""),
        ("http://localhost/" + "x" * 8000, "too long"),
    ],
)
def test_an_address_that_is_no_plain_web_address_is_refused(url, reason, monkeypatch):
    monkeypatch.setattr("mllama_demo.fetch.socket.create_connection", never)
    message = refused(url)
    assert reason in message
    assert "secret@" not in message


def test_an_error_message_repeats_neither_query_nor_password():
    message = refused("http://user:hunter2@localhost/x.png?token=abc123")
    assert "localhost/x.png" in message
    assert "hunter2" not in message
    assert "abc123" not in message


# --- allowed hosts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed", "ok"),
    [
        ("pictures.example", ["pictures.example"], True),
        ("PICTURES.example.", ["Pictures.Example"], True),
        ("pictures.example", [".example"], True),
        ("a.b.pictures.example", [".pictures.example"], True),
        ("pictures.example", [".pictures.example"], False),
        ("evilpictures.example", [".pictures.example", "pictures.example"], False),
        ("a.pictures.example", ["pictures.example"], False),
        ("pictures.example.evil", ["pictures.example", ".pictures.example"], False),
        ("pictures.example", [], False),
        (PUBLIC, [PUBLIC], True),
        (PUBLIC, ["pictures.example"], False),
        ("[2606:4700::1111]", ["2606:4700::1111"], True),
    ],
)
def test_only_listed_hosts_and_names_below_listed_suffixes_are_asked(host, allowed, ok, server, dialled):
    server.page("/x.png", png())
    url = f"http://{host}/x.png"
    if ok:
        assert fetch(url, allowed_hosts=allowed, resolve=lambda *_: [PUBLIC]).width == 8
    else:
        assert "not on this demo's list" in refused(url, allowed_hosts=allowed, resolve=never)
        assert dialled == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.0.9", "172.20.0.1", "100.64.0.1", "::1", "fd12::1"])
def test_a_host_listed_by_name_may_be_private_but_one_below_a_suffix_may_not(address, server, dialled):
    server.page("/x.png", png())
    url = "http://pictures.example/x.png"
    assert fetch(url, allowed_hosts=["pictures.example"], resolve=lambda *_: [address]).width == 8
    assert dialled == [(address, 80)]
    assert "private" in refused(url, allowed_hosts=[".example"], resolve=lambda *_: [address])


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "0.0.0.0"])
def test_not_even_a_listed_host_leads_to_a_metadata_service(address, monkeypatch):
    monkeypatch.setattr("mllama_demo.fetch.socket.create_connection", never)
    message = refused("http://pictures.example/x", allowed_hosts=["pictures.example"], resolve=lambda *_: [address])
    assert "private or reserved" in message


# --- redirects -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["http://10.0.0.1/s", "http://127.0.0.1/s", "http://169.254.169.254/s", "//[::1]/s", "http://intern/s"]
)
def test_a_redirect_into_a_private_network_is_refused_without_naming_it(target, server, dialled):
    server.redirect("/x.png", target)

    def resolve(host: str, port: int) -> list[str]:
        return [PUBLIC] if host == "pictures.example" else ["192.168.7.7"]

    message = refused("http://pictures.example/x.png", allowed_hosts=None, resolve=resolve)
    assert "redirects to leads into a private" in message
    assert not any(part in message for part in ("10.0.0.1", "127.0.0.1", "169.254", "::1", "intern/", "192.168"))
    assert len(dialled) == len(server.seen) == 1


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "data:image/gif;base64,QQ==", "ftp://localhost/", "http://a:b@localhost/"]
)
def test_a_redirect_to_something_else_than_a_plain_web_address_is_refused(target, server):
    assert "the address it redirects to" in refused(server.redirect("/x.png", target))


def test_a_redirect_to_a_host_that_is_not_listed_is_refused(server):
    server.page("/secret.png", png())
    message = refused(server.redirect("/x.png", server.url("/secret.png", host="127.0.0.1")))
    assert "not on this demo's list" in message
    assert [path for path, _ in server.seen] == ["/x.png"]


def test_a_fourth_redirect_is_not_followed(server):
    assert "more than 3 times" in refused(server.redirect("/x.png", "/x.png"))
    assert len(server.seen) == 4


# --- servers that misbehave ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"", b""),
        (b"", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"[:1]),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ],
    ids=["silence", "endless status", "endless headers", "endless body", "slow body", "endless chunk header"],
)
def test_a_server_that_takes_too_long_is_left_however_it_dawdles(start, drop, server):
    message = refused(server.drip("/x.png", start, drop), total_timeout_s=0.3)
    assert "too long" in message
    assert "0.3 seconds" in message


def test_the_time_limit_holds_over_all_redirects_together(server):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        server.over.wait(0.2)
        handler.send_response(302)
        handler.send_header("Location", "/x.png")
        handler.end_headers()

    server.pages["/x.png"] = answer
    assert "too long" in refused(server.url("/x.png"), total_timeout_s=0.5)


def test_a_tls_handshake_that_never_ends_is_cut_off(server):
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dawdle() -> None:
            with suppress(OSError), listener.accept()[0] as client:
                client.sendall(b"\x16\x03\x03\x40\x00")
                while not over.wait(0.01):
                    client.sendall(b"\x02")

        thread = threading.Thread(target=dawdle, daemon=True)
        thread.start()
        message = refused(f"https://localhost:{listener.getsockname()[1]}/x.png", total_timeout_s=0.3)
        over.set()
        thread.join(5)
    assert "too long" in message


def test_a_name_server_that_does_not_answer_is_given_up():
    over = threading.Event()
    message = refused("http://localhost/x.png", resolve=lambda *_: [str(over.wait(60))], total_timeout_s=0.1)
    over.set()
    assert "too long" in message


def test_no_thread_and_no_connection_is_left_behind(server):
    url = server.drip("/x.png", b"HTTP/1.1 200 OK\r\n\r\n", bytes(10_000))
    before = set(threading.enumerate())
    refused(url, total_timeout_s=0.1)
    refused(url, limits=ImageLimits(max_bytes=3))
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # the server's threads end when they notice that the client has gone
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "answer", [OSError("no such host: 10.9.8.7"), UnicodeError("label too long"), TimeoutError(), RuntimeError("10.9.8.7"), []]
)
def test_a_host_that_cannot_be_resolved_is_refused(answer):
    def resolve(host: str, port: int) -> list[str]:
        if isinstance(answer, Exception):
            raise answer
        return answer

    message = refused("http://localhost/x.png", resolve=resolve)
    assert "cannot be found" in message
    assert "10.9.8.7" not in message


def test_every_address_has_five_seconds_to_answer_and_all_together_what_is_left_of_fifteen(server, monkeypatch):
    waits: list[float] = []

    def create_connection(address: Any, timeout: float) -> socket.socket:
        waits.append(timeout)
        raise TimeoutError

    monkeypatch.setattr("mllama_demo.fetch.socket.create_connection", create_connection)
    assert "did not answer in time" in refused(server.url("/x.png"), resolve=lambda *_: ["127.0.0.1", "127.0.0.2"])
    assert waits == [5.0, 5.0]
    refused(server.url("/x.png"), total_timeout_s=3)
    assert 0 < waits[2] <= 3
    assert inspect.signature(fetch_image).parameters["total_timeout_s"].default == 15.0


def test_a_body_above_the_limit_is_refused_whether_announced_or_not(server):
    limits = ImageLimits(max_bytes=1000)
    endless = b"x" * 1000
    assert "at most 1,000 bytes" in refused(server.drip("/a", b"HTTP/1.1 200 OK\r\n\r\n", 100 * endless), limits=limits)
    chunk = 100 * (b"3e8\r\n" + endless + b"\r\n")
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert "too large" in refused(server.drip("/b", start, chunk), limits=limits)
    silent = server.drip("/c", b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", b"")
    assert "too large" in refused(silent, limits=limits)


def test_a_body_of_just_the_limit_is_taken(server):
    assert fetch(server.page("/x.png", png()), limits=ImageLimits(max_bytes=len(png()))).width == 8


def test_an_image_limit_holds_for_what_was_fetched(server):
    assert "too many pixels" in refused(server.page("/x.png", png((30, 30))), limits=ImageLimits(max_pixels=899))


def test_a_compressed_answer_is_refused_unread(server):
    assert "compressed" in refused(server.page("/x.png", b"\x1f\x8b" + bytes(100), Content_Encoding="gzip"))


@pytest.mark.parametrize("status", [204, 206, 304, 400, 404, 500])
def test_an_answer_without_success_is_refused_by_its_status(status, server):
    assert f"status {status}" in refused(server.page("/x.png", png() if status >= 400 else b"", status))


def test_a_body_that_breaks_off_is_refused(server):
    assert "broke off" in refused(server.page("/x.png", png(), Content_Length=str(len(png()) + 1)))
    assert "broke off" in refused(server.page("/y.png", b"ff\r\nabc", Transfer_Encoding="chunked"))


def test_what_is_no_image_is_refused_whatever_its_type_says(server):
    page = server.page("/x.png", b"<html><body>log in first</body></html>", Content_Type="image/png")
    assert "looks like a web page" in refused(page)
    assert '"x.png" is empty' in refused(server.page("/x.png", b"", Content_Type="image/png"))


def test_a_server_that_is_not_there_or_speaks_another_language_is_reported(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "cannot be reached" in refused(f"http://localhost:{port}/x.png")

    def banner(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")

    server.pages["/x.png"] = banner
    message = refused(server.url("/x.png"))
    assert "cannot be reached or does not speak HTTP" in message
    assert "127.0.0.1" not in message


# --- TLS -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate of pictures.example in one PEM file."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=pictures.example"
    command += " -addext subjectAltName=DNS:pictures.example -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def names_sent(server: Server, certificate: Path) -> list[str]:
    """Turns the server to TLS; the server names (SNI) that clients send."""
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    return names


def test_tls_sends_and_checks_the_host_name_though_it_connects_to_an_address(server, certificate, names_sent):
    server.page("/x.png", png())
    url = f"https://pictures.example:{server.port}/x.png"
    assert fetch(url, allowed_hosts=["pictures.example"], ca_bundle=str(certificate)).width == 8
    assert names_sent == ["pictures.example"]
    assert server.seen[0][1]["host"] == f"pictures.example:{server.port}"


def test_a_certificate_for_another_name_is_refused(server, certificate, names_sent):
    url = f"https://other.example:{server.port}/x.png"
    assert "TLS certificate" in refused(url, allowed_hosts=["other.example"], ca_bundle=str(certificate))
    assert names_sent == ["other.example"]
    assert server.seen == []


def test_a_certificate_that_nobody_vouches_for_is_refused(server, names_sent, monkeypatch, certificate):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert "TLS certificate" in refused(f"https://pictures.example:{server.port}/x.png", allowed_hosts=["pictures.example"])
    assert server.seen == []
