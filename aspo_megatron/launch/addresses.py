"""Addresses and ports of this machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from aspo_megatron.launch.loopback import LOOPBACK, is_loopback

__all__ = ["address_towards", "free_ports", "in_url", "is_loopback", "reserved_port"]


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


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A loopback port that nobody else is given while this lasts, and that rank 0 can listen on.

    The socket is bound but does not listen: the kernel then hands the port to no one who asks for any free port, but
    lets a listener with SO_REUSEADDR, such as torch's store, bind it too.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, 0))
        yield holder.getsockname()[1]
