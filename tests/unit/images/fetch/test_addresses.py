"""Which addresses an image may be fetched from, and that nothing else is ever connected to."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama_demo.images.addresses import is_public
from mllama_demo.images.fetch import fetch_image
from tests.support.web_server import Server, fetch, png, refused

PUBLIC = "93.184.216.34"


def never(*_: Any, **__: Any) -> Any:
    pytest.fail("this must not be called")  # no Exception, so that nothing catches it


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch, server: Server) -> list[tuple[str, int]]:
    """Sends every connection to the local server and records where it would have gone."""
    connect, calls = socket.create_connection, []

    def create_connection(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        calls.append(address)
        return connect(("127.0.0.1", server.port), *args, **kwargs)

    monkeypatch.setattr("mllama_demo.images.fetch.socket.create_connection", create_connection)
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
    monkeypatch.setattr("mllama_demo.images.fetch.socket.create_connection", never)
    assert not is_public(address)
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        message = refused("http://pictures.example/x.png", allowed_hosts=None, resolve=lambda *_, answer=answer: answer)
        assert "private or reserved network" in message
        assert address not in message


@pytest.mark.parametrize("address", [a for a in PRIVATE if "%" not in a])
def test_no_address_that_is_not_public_may_be_written_into_the_url(address, monkeypatch):
    monkeypatch.setattr("mllama_demo.images.fetch.socket.create_connection", never)
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
    monkeypatch.setattr("mllama_demo.images.fetch.socket.create_connection", never)
    message = refused(f"http://{host}/x.png", allowed_hosts=None, resolve=never)
    assert "unusual form" in message or "malformed" in message


@pytest.mark.parametrize(
    "host", ["127.0.0.1.", "１２７.０.０.１", "127。0。0。1", "①②⑦.0.0.1", "localhost", "LOCALHOST.", "[::1]"]
)
def test_other_spellings_of_loopback_are_refused(host, monkeypatch):
    monkeypatch.setattr("mllama_demo.images.fetch.socket.create_connection", never)
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
    monkeypatch.setattr("mllama_demo.images.fetch.socket.create_connection", never)
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
    monkeypatch.setattr("mllama_demo.images.fetch.socket.create_connection", never)
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
