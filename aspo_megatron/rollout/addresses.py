"""Addresses and ports of this machine."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

_LOOPBACK = ("127.", "localhost", "::1")


def is_loopback(address: str) -> bool:
    """Whether a host, or the host of a URL, is this machine and cannot be reached from others."""
    host = urlsplit(address).hostname if "://" in address else address
    return (host or "").removeprefix("[").startswith(_LOOPBACK)


def address_towards(url: str) -> str:
    """This machine's address as the server at `url` sees it."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))  # sends nothing: it looks up the way
        return str(probe.getsockname()[0])


def free_ports(count: int, host: str = "") -> list[int]:
    """`count` different ports of `host` (all addresses: empty) that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]
