"""Checks of NCCL: its versions on both sides, and the network that ranks and servers meet over."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, ok, unknown, unneeded, warn, wrong
from aspo_megatron.doctor.nvidia import Gpus
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.doctor.servers import Sglang
from aspo_megatron.launch.loopback import is_loopback

_ASK_SECONDS = 60.0
_CUDA = "13"
"""Of a build that does not name it: that of PyPI."""
_NETWORK = "/sys/class/net"
_VIRTUAL = ("lo", "docker", "veth", "virbr", "br-", "cni", "flannel", "cali", "ifb", "tap", "tun", "dummy")
_UP = ("up", "unknown")
"""Not all kinds of interfaces tell."""
_BY_NAME = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def nccl_lines(host: Host, needs: Requirements, gpus: Gpus, sglang: Sglang) -> Iterator[Line]:
    """NCCL here and in the servers' environment, interfaces, the machine's name."""
    yield from _versions(host, needs, gpus, sglang)
    interfaces = [
        name
        for name in host.names(_NETWORK)
        if not name.startswith(_VIRTUAL) and (host.read(f"{_NETWORK}/{name}/operstate") or "").strip() in _UP
    ]
    yield from _named_interfaces(host)
    yield _interfaces(host, needs, interfaces)
    yield _own_name(host, needs)


def _versions(host: Host, needs: Requirements, gpus: Gpus, sglang: Sglang) -> Iterator[Line]:
    ours = host.torch.nccl
    if host.torch.problem:
        return
    if not gpus.usable:
        yield unneeded("NCCL", f"{ours or 'none in this torch'}; on CPUs gloo connects the ranks")
        return
    if ours is None:
        say = warn if needs.run.platform.device == "cpu" else wrong
        yield say("NCCL", "this torch has none", "install a build of torch for Linux with CUDA")
        return
    servers = needs.run.rollout.servers
    if not needs.own_servers or sglang.problem:
        yield ok("NCCL", ours)
        return
    if servers.colocate or servers.sync not in ("auto", "distributed"):
        yield ok("NCCL", f"{ours}; weights reach the servers without it")
        return
    from aspo_megatron.rollout.weight_sync.transport_choice import version_command, version_said, versions_apart

    answer = host.run(version_command(servers.python), _ASK_SECONDS)
    theirs = version_said(answer.out)
    reason = versions_apart(ours, theirs, servers.python)
    if theirs is None:
        yield unknown("NCCL", f"{ours} here; that of {servers.python} is not known: {answer.complaint}")
    elif reason is None:
        yield ok("NCCL", f"{ours}, in the servers' environment too")
    elif servers.sync == "distributed":
        yield wrong(
            "NCCL", f"rollout.servers.sync=distributed: {reason}", _one_version(host, needs, sglang, ours, theirs)
        )
    else:
        found = f"{reason.partition('; ')[0]}: rollout.servers.sync=auto uses `tensor`, through shared GPU memory"
        yield warn(
            "NCCL", found, f"{_one_version(host, needs, sglang, ours, theirs)}; docs/gpu.md, Processes and servers"
        )


def _one_version(host: Host, needs: Requirements, sglang: Sglang, ours: str, theirs: str) -> str:
    """PyTorch works with an NCCL that is newer than its own, not always with an older one."""

    def key(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    newer = max(ours, theirs, key=key)
    if newer == theirs:
        return f"pip install --no-deps nvidia-nccl-cu{(host.torch.cuda or _CUDA).partition('.')[0]}=={newer}"
    build = re.search(r"\+cu(\d\d)\d$", sglang.torch)
    of_cuda = build[1] if build else _CUDA
    return f"{needs.run.rollout.servers.python} -m pip install --no-deps nvidia-nccl-cu{of_cuda}=={newer}"


def _named_interfaces(host: Host) -> Iterator[Line]:
    """Interfaces that the environment names and the machine does not have."""
    there = host.names(_NETWORK)
    for variable in _BY_NAME:
        value = host.env.get(variable, "")
        if not value or not there:
            continue
        # NCCL takes beginnings of names, `=` for whole ones, and `^` for all but these; gloo takes whole names.
        exact = variable.startswith("GLOO") or value.startswith(("=", "^="))
        names = [name for name in value.lstrip("^=").split(",") if name]
        known = [name for name in names if any(each == name if exact else each.startswith(name) for each in there)]
        if value.startswith("^") or known:
            yield ok(variable, value)
        else:
            todo = f"export {variable}=... with one of {', '.join(name for name in there if name != 'lo')}"
            yield wrong(variable, f"{value}: there is no such interface", todo)


def _interfaces(host: Host, needs: Requirements, interfaces: list[str]) -> Line:
    cards = host.names("/sys/class/infiniband")
    found = f"{', '.join(interfaces) or 'none but loopback'}" + (f"; InfiniBand {', '.join(cards)}" if cards else "")
    lacking = [name for name in _BY_NAME if not host.env.get(name)]
    if len(interfaces) > 1 and lacking and needs.nodes > 1:
        todo = f"export {' '.join(f'{name}={interfaces[0]}' for name in lacking)}, with the one that all nodes share"
        return warn("interfaces", f"{found}; ranks on different nodes may pick different ones", todo)
    return ok("interfaces", found)


def _own_name(host: Host, needs: Requirements) -> Line:
    """Gloo, and Slurm's nodes, find each other by the machine's name."""
    name = host.name()
    answer = host.run(["getent", "hosts", name], 5.0)
    address = answer.out.split()[0] if answer.good and answer.out.split() else None
    todo = "make /etc/hosts or DNS give the address that other nodes see, or set GLOO_SOCKET_IFNAME"
    if answer.code is None:
        return unknown("host name", f"{name}: getent: {answer.problem}")
    several = needs.nodes > 1 and not host.env.get("GLOO_SOCKET_IFNAME")
    if address is None:
        say = wrong if several else warn
        return say("host name", f"{name} has no address", todo)
    if several and is_loopback(address):
        return wrong("host name", f"{name} is {address}, which other nodes cannot reach", todo)
    return ok("host name", f"{name} is {address}")
