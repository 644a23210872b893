"""Fetching from servers that are slow, misbehave, break off or have no valid certificate."""

from __future__ import annotations

import inspect
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.images.fetch import fetch_bytes
from mllama_demo.images.loading import ImageLimits
from tests.support.web_server import Server, fetch, png, refused

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
def test_a_slow_server_is_given_up_at_the_time_limit(start, drop, server):
    message = refused(server.drip("/x.png", start, drop), total_timeout_s=0.3)
    assert "too long" in message
    assert "0.3 seconds" in message


@pytest.mark.slow
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


def test_a_dns_server_that_does_not_answer_is_given_up():
    over = threading.Event()
    message = refused("http://localhost/x.png", resolve=lambda *_: [str(over.wait(60))], total_timeout_s=0.1)
    over.set()
    assert "too long" in message


def test_a_fetch_leaves_no_thread_and_no_connection(server):
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

    monkeypatch.setattr("mllama_demo.images.fetch.socket.create_connection", create_connection)
    assert "did not answer in time" in refused(server.url("/x.png"), resolve=lambda *_: ["127.0.0.1", "127.0.0.2"])
    assert waits == [5.0, 5.0]
    refused(server.url("/x.png"), total_timeout_s=3)
    assert 0 < waits[2] <= 3
    assert inspect.signature(fetch_bytes).parameters["total_timeout_s"].default == 15.0


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


def test_a_missing_server_or_another_protocol_is_reported(server):
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


def test_a_certificate_of_an_unknown_authority_is_refused(server, names_sent, monkeypatch, certificate):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert "TLS certificate" in refused(f"https://pictures.example:{server.port}/x.png", allowed_hosts=["pictures.example"])
    assert server.seen == []
