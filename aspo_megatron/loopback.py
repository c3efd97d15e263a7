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
    try:
        found = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens at this address alone.

    Raises:
        OSError: it is no address of this machine, or somebody else listens there.
    """
    family, _, _, _, (host, *_) = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server((str(host), port), family=family)


def loopback_interface() -> str | None:
    """The name of the network interface that no other machine reaches; None where there is none."""
    interfaces = psutil.net_if_addrs()
    return next((name for name, found in interfaces.items() if any(one.address == LOOPBACK for one in found)), None)
