"""Which hosts and IP addresses an image may be fetched from: public ones, and those that the operator names.

Pure, except for resolve_host, which asks the system's resolver.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence

_Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


def _networks(*blocks: str) -> _Networks:
    return tuple(ipaddress.ip_network(block) for block in blocks)


# IANA's special-purpose registries (RFC 6890). They are listed here because ipaddress.is_global differs between Python versions.
_NOT_PUBLIC = _networks(
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4"),
    "168.63.129.16/32",  # Azure's host services, in public address space
    *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # Teredo and others, documentation, 6to4
)
# All public IPv6 addresses are in this block. Loopback, unique local, link-local, multicast, IPv4-mapped and NAT64 are outside.
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
# The private networks that an operator opens by naming a host in them. Link-local is not among them: metadata services are there.
_OPERATOR_MAY_OPEN = _networks(
    *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
_METADATA = _networks("100.100.100.200/32", "fd00:ec2::/32", "fd20:ce::254/128")  # Alibaba, AWS and Google, in private networks


def resolve_host(host: str, port: int) -> list[str]:
    """The IP addresses of a host name. Raises OSError or UnicodeError when the system finds none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet. Raises ValueError for anything but an IP address."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip not in _GLOBAL_IPV6:
        return False
    return not any(ip in network for network in _NOT_PUBLIC)


def is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_refusal(host: str, allowed_hosts: Sequence[str] | None) -> str | None:
    """Why nothing may be fetched from the host, as the end of a sentence about its address; None when it is allowed.

    Args:
        allowed_hosts: host names, IP addresses and ".example.com" for all hosts below it; None allows all hosts.
    """
    if _is_disguised_ipv4(host):
        return "has an IP address in an unusual form; only host names and forms like 1.2.3.4 are allowed"
    if allowed_hosts is None or is_named(host, allowed_hosts):
        return None
    if any(name.startswith(".") and host.endswith(name) for name in _normalised(allowed_hosts)):
        return None
    return "has a host that is not on this demo's list; only hosts that its operator chose are allowed"


def is_named(host: str, allowed_hosts: Sequence[str] | None) -> bool:
    """Whether the list has the host by its own name, not by a suffix."""
    return host in _normalised(allowed_hosts or ())


def may_connect(address: str, named: bool) -> bool:
    """Whether a connection to the IP address is allowed.

    Args:
        named: the operator allowed the host by its own name, so that it may be in a private network.
    """
    return is_public(address) or (named and _may_be_opened(address))


def _may_be_opened(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return any(ip in network for network in _OPERATOR_MAY_OPEN) and not any(ip in network for network in _METADATA)


def _normalised(hosts: Iterable[str]) -> list[str]:
    return [host.lower().rstrip(".").strip("[]") for host in hosts]


def _is_disguised_ipv4(host: str) -> bool:
    """True for 127.1, 0177.0.0.1, 0x7f000001 and 2130706433, which the C library takes for IPv4 addresses."""
    return re.fullmatch(r"\d+|0x[0-9a-f]*", host.rstrip(".").rpartition(".")[2]) is not None and not is_ip_address(host)
