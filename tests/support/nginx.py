"""A real nginx in front of the demo, in the ways in which people put one there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.support.program import free_port, visitor
from tests.support.waiting import wait_until

_HOST = "proxy_set_header Host $http_host;"
_FORWARDED = "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;"


@dataclass(frozen=True)
class Place:
    """One server block. strips: whether nginx removes the path. headers: directives, besides those of every block."""

    strips: bool
    tls: bool
    headers: str


PLACES = {
    "plain, without buffering": Place(True, False, f"{_HOST} {_FORWARDED} proxy_buffering off; proxy_http_version 1.1;"),
    "TLS and HTTP/2, with buffering": Place(True, True, f"{_HOST} {_FORWARDED} proxy_buffering on; proxy_http_version 1.1;"),
    "plain, host of the server, HTTP/1.0": Place(True, False, "proxy_buffering on;"),
    "plain, path not stripped": Place(False, False, f"{_HOST} {_FORWARDED}"),
}


@contextmanager
def running_nginx(folder: Path, port: int, path: str) -> Iterator[dict[str, str]]:
    """nginx in front of the program on a port of this machine.

    Args:
        path: the path below which nginx serves the program, such as /demo.

    Yields:
        The address of each of PLACES, with the path and without a slash at its end.
    """
    nginx, openssl = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"), shutil.which("openssl")
    if nginx is None or openssl is None:
        pytest.skip("needs nginx and openssl: apt-get install nginx-light openssl")
    folder.mkdir(parents=True, exist_ok=True)
    certificate = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([openssl, "req", *certificate, *files], check=True, capture_output=True, timeout=60)
    blocks, addresses = "", {}
    for name, place in PLACES.items():
        own = free_port()
        listen = f"{own} ssl http2" if place.tls else str(own)
        target = f"http://127.0.0.1:{port}" + ("/" if place.strips else "")
        location = f"{path}/" if place.strips else path
        blocks += (
            f"server {{ listen 127.0.0.1:{listen}; ssl_certificate certificate.pem; ssl_certificate_key key.pem; "
            f"location {location} {{ proxy_pass {target}; {place.headers} }} }}\n"
        )
        addresses[name] = f"{'https' if place.tls else 'http'}://localhost:{own}{path}"
    temporary = "".join(f"{kind}_temp_path {folder / kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    configuration = folder / "nginx.conf"
    user = "user root; " if os.name == "posix" and os.geteuid() == 0 else ""  # its workers write into the folder
    configuration.write_text(
        f"{user}daemon off; worker_processes 1; pid {folder / 'pid'}; error_log {folder / 'error.log'};\n"
        f"events {{}}\nhttp {{ access_log off; client_max_body_size 100m; {temporary}\n{blocks}}}\n"
    )
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(configuration)], stdout=subprocess.DEVNULL)
    try:
        for address in addresses.values():
            wait_until(lambda address=address: _answers(address), lambda: (folder / "error.log").read_text())
        yield addresses
    finally:
        process.terminate()
        process.wait(20)


def browser_without_certificates() -> requests.Session:
    """An HTTP client that takes the certificate of running_nginx."""
    session = visitor()
    session.verify = False
    return session


def _answers(address: str) -> bool:
    try:
        with browser_without_certificates() as session:
            return session.get(f"{address}/health", timeout=20).ok
    except requests.RequestException:
        return False
