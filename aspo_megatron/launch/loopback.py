"""What stays on this machine: its loopback addresses, the interface that has them, and sockets that listen there."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

import psutil

LOOPBACK = "127.0.0.1"


def is_loopback(address: str) -> bool:
    """Whether a host, or the host of a URL, is this machine and cannot be reached from others.

    By address, or by the one name that stands for it everywhere; names that only begin like one are others' names.
    """
    try:
        host = urlsplit(address).hostname if "://" in address else address.removeprefix("[").removesuffix("]")
    except ValueError:  # half of a bracketed address
        return False
    if (host or "").lower() == "localhost":
        return True
    found = _numeric(host or "")
    return found is not None and found.is_loopback


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens at this address alone.

    Raises:
        OSError: it is no address of this machine, or somebody else listens there.
    """
    host = str(_numeric(address) or address)
    family, _, _, _, (host, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]  # type: ignore[assignment]
    return socket.create_server((host, port), family=family)


def _numeric(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is, in any spelling that whoever connects to it takes (127.1, 0x7f.1); None for a name.

    An IPv4 address in an IPv6 one is itself.
    """
    if not (host and host.isascii() and host.isprintable()):
        return None
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        address = ipaddress.ip_address(found[0][4][0])
    except (OSError, ValueError):
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def loopback_interface() -> str | None:
    """The name of the network interface that no other machine reaches; None where there is none."""
    interfaces = psutil.net_if_addrs()
    return next((name for name, found in interfaces.items() if any(one.address == LOOPBACK for one in found)), None)
