"""Addresses and ports of this machine."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

from aspo_megatron.launch.loopback import is_loopback

__all__ = ["address_towards", "free_ports", "in_url", "is_loopback"]


def address_towards(url: str) -> str:
    """This machine's address as the server at `url` sees it."""
    parts = urlsplit(url)
    found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # sends nothing: it looks up the way
        return str(probe.getsockname()[0])


def in_url(host: str) -> str:
    """A host as URLs have it: an address with colons is in brackets there."""
    return f"[{host}]" if ":" in host else host


def free_ports(count: int, host: str = "") -> list[int]:
    """`count` different ports of `host` (all addresses: empty) that nobody listens on."""
    with contextlib.ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        probes = [stack.enter_context(socket.socket(family)) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]
