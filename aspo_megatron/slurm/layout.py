"""Where in a job ranks and SGLang servers are: nodes, tasks on each, and GPUs, which servers take as well.

What does not fit is refused with settings that do: each that a refusal names has been tried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from aspo_megatron.config import RunConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

_USUAL_GPUS = 8
"""More GPUs than these a node seldom has, so that no advice asks for them."""

_TYPE = r"[\w.-]*[A-Za-z_.-][\w.-]*|\w+(?=[:=])"
_GRES = re.compile(rf"(?P<what>(?:gres[/:])?gpu)(?:[:=](?P<type>{_TYPE}))?(?:[:=](?P<number>\d+))?")
"""GPUs in a list of resources: `gpu`, `gpu:8`, `gpu:h100:8`, `gpu:3090:8`. A single part of digits is the number."""

_OWN_KEYS = {
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node"), "nodes and tasks follow from slurm.nodes and parallel"),
    "array": "all tasks of the array would be the same run; give each its own line in the file of --array",
}
"""Options of sbatch that no directive may set, and why."""


def has_own_servers(run: RunConfig) -> bool:
    """Whether the run starts SGLang servers itself, on the machine of its first rank."""
    elsewhere = run.rollout.servers.addresses or run.slurm.server_nodes or run.slurm.servers_of
    return run.rollout.engine == "sglang" and not elsewhere


def gpus_beside(run: RunConfig) -> int:
    """GPUs of the ranks' machine that the run's own servers have for themselves."""
    servers = run.rollout.servers
    return servers.count * servers.tp if has_own_servers(run) and not servers.colocate else 0


def shape(run: RunConfig) -> tuple[int, int]:
    """Nodes of the ranks, and ranks on each. Nodes of `slurm.server_nodes` come on top.

    Raises:
        ConfigError: ranks and servers do not fill the nodes' GPUs, or are more than these; names settings that do.
    """
    try:
        return _shape(run)
    except ConfigError as error:
        tried = [f"set {' '.join(advice)}" for advice in _advice(run)]
        ways = ", or ".join(tried) or "change parallel, rollout.servers, slurm.nodes or slurm.gpus_per_node"
        raise ConfigError(f"{error}; {ways}") from error


def cores_per_task(run: RunConfig) -> int:
    """CPU cores of each task: servers that rank 0 starts have theirs from the ranks' tasks, as many for each GPU."""
    ranks = run.parallel.world_size
    return -(-run.slurm.cpus_per_task * (ranks + gpus_beside(run)) // ranks)


def says_gpus(directives: Sequence[str]) -> bool:
    """Whether options of sbatch ask for GPUs by themselves, as sites want it that know `--gres` alone."""
    return any(_gpus_said(line) for line in directives)


def _shape(run: RunConfig) -> tuple[int, int]:
    ranks, slurm = run.parallel.world_size, run.slurm
    gpus, beside = slurm.gpus_per_node, gpus_beside(run)
    nodes = slurm.nodes or (-(-ranks // gpus) if gpus else 1)
    _refuse_own_keys(run)
    if ranks % nodes:
        raise ConfigError(
            f"slurm.nodes={nodes}: tp x cp x dp x pp = {ranks} ranks do not divide evenly over them{_counted(run)}"
        )
    if has_own_servers(run) and nodes > 1:
        raise ConfigError(
            f"rollout.engine=sglang on several nodes ({nodes} for {ranks} ranks): set slurm.server_nodes for servers "
            "in the same job, or start them with slurm/serve.sbatch and set slurm.servers_of"
        )
    if gpus:
        _refuse_gpus(run, nodes, ranks, beside)
        _refuse_directives(run, ranks // nodes)
    return nodes, ranks // nodes


def _refuse_gpus(run: RunConfig, nodes: int, ranks: int, beside: int) -> None:
    slurm, servers = run.slurm, run.rollout.servers
    gpus, each = slurm.gpus_per_node, f"rollout.servers.count={servers.count} x tp={servers.tp}"
    if beside and ranks + beside != gpus:
        raise ConfigError(
            f"slurm: a node has {gpus} GPUs, but tp x cp x dp x pp = {ranks} ranks and {each} = {beside} GPUs for "
            f"servers take {ranks + beside} in total"
        )
    if not beside and ranks != nodes * gpus:
        raise ConfigError(
            f"slurm: {nodes} nodes with {gpus} GPUs each hold {nodes * gpus} ranks, but tp x cp x dp x pp = {ranks}"
            f"{_counted(run)}"
        )
    if slurm.server_nodes or (has_own_servers(run) and servers.colocate):
        there = _gpus_for_servers(run)
        if servers.count * servers.tp > there:
            where = "each node of slurm.server_nodes" if slurm.server_nodes else "the node"
            raise ConfigError(f"slurm: {each} = {servers.count * servers.tp} GPUs on {where}, which has {there}")


def _refuse_own_keys(run: RunConfig) -> None:
    for key, lines in (("directives", run.slurm.directives), ("server_directives", run.slurm.server_directives)):
        for line in lines:
            if reason := _OWN_KEYS.get(_name(line)):
                raise ConfigError(f"slurm.{key}: {one_line(line)}: {reason}")


def _refuse_directives(run: RunConfig, ranks: int) -> None:
    """See that GPUs which `slurm.directives` asks for are those of the nodes, and that servers see theirs."""
    slurm = run.slurm
    for line in slurm.directives:
        name = _name(line)
        kind, number = _gpus_said(line) or ("", 0)
        if kind == "job":
            raise ConfigError(
                f"slurm.directives: {one_line(line)}: request the GPUs of each node, as --gpus-per-node=N"
            )
        binds = kind == "task" or (name == "gpu-bind" and not line.endswith("=none"))
        if binds and has_own_servers(run):
            raise ConfigError(
                f"slurm.directives: {one_line(line)}: rank 0 would not see the GPUs of the servers that it starts"
            )
        if binds and slurm.server_nodes and not slurm.server_directives:  # a node's servers are of one task
            raise ConfigError(
                f"slurm.directives: {one_line(line)}: the servers on slurm.server_nodes would not see all their GPUs"
            )
        found = {"node": number, "task": number * ranks}.get(kind, slurm.gpus_per_node)
        if found != slurm.gpus_per_node:
            raise ConfigError(
                f"slurm.directives: {one_line(line)}: {found} GPUs per node, but slurm.gpus_per_node="
                f"{slurm.gpus_per_node}"
            )


def _name(line: str) -> str:
    """Of an option of sbatch, without its dashes."""
    return line.removeprefix("--").partition("=")[0]


def _gpus_for_servers(run: RunConfig) -> int:
    """Of a node that ranks have nothing of, or that its ranks and servers take turns on."""
    said = [found[1] for line in run.slurm.server_directives if (found := _gpus_said(line))]
    return said[-1] if said else run.slurm.gpus_per_node


def _gpus_said(line: str) -> tuple[str, int] | None:
    """What an option of sbatch asks for: of a `node`, a `task`, the `job` or a `socket`, and the number of GPUs."""
    name, _, text = line.removeprefix("--").partition("=")
    kinds = {"gpus": "job", "gpus-per-node": "node", "gpus-per-task": "task", "gpus-per-socket": "socket"}
    parts = text.strip("\"'").split(",")
    if name in kinds:
        found = [_GRES.fullmatch(f"gpu:{part}") for part in parts]
    elif name in ("gres", "tres-per-node", "tres-per-task"):
        kinds[name] = "task" if name == "tres-per-task" else "node"
        found = [_GRES.fullmatch(part) for part in parts]
    else:
        return None
    numbers = [int(part["number"] or 1) for part in found if part]
    return (kinds[name], sum(numbers)) if numbers else None


def _counted(run: RunConfig) -> str:
    """What `slurm.nodes` does not count, where that may have been meant."""
    slurm = run.slurm
    if slurm.nodes is None or not slurm.server_nodes:
        return ""
    return f" (slurm.nodes counts the ranks' nodes; the {slurm.server_nodes} of slurm.server_nodes are added to them)"


def _advice(run: RunConfig) -> Iterator[list[str]]:
    """Settings each of which makes the run fit, as words of the command line."""
    for changes in _candidates(run):
        try:
            _shape(_changed(run, changes))
        except (ConfigError, ValidationError):
            continue
        yield [_word(key, value) for key, value in changes.items()]


def _candidates(run: RunConfig) -> Iterator[dict[str, Any]]:
    """What may be meant, the least change first."""
    slurm, servers, ranks = run.slurm, run.rollout.servers, run.parallel.world_size
    gpus, beside = slurm.gpus_per_node, gpus_beside(run)
    nodes = slurm.nodes or (-(-ranks // gpus) if gpus else 1)
    if slurm.nodes:
        yield {"slurm.nodes": -(-ranks // gpus) if gpus else 1}
    for other in _with_gpus(slurm.directives, gpus):
        yield {"slurm.directives": other}
    for key, lines in (("directives", slurm.directives), ("server_directives", slurm.server_directives)):
        if lines:
            yield {f"slurm.{key}": [line for line in lines if not _may_hinder(line)]}
    if not gpus:
        return
    fit = gpus - ranks if beside else _gpus_for_servers(run)
    if servers.tp <= fit and run.rollout.engine == "sglang":
        yield {"rollout.servers.count": fit // servers.tp}
    if not ranks % nodes and (ranks + beside) // nodes <= max(gpus, _USUAL_GPUS):
        yield {"slurm.gpus_per_node": (ranks + beside) // nodes}
    if has_own_servers(run):
        on_each = max(1, min(servers.count, gpus // servers.tp))
        away: dict[str, Any] = {"slurm.server_nodes": -(-servers.count // on_each)}
        away |= {"rollout.servers.count": on_each} if on_each < servers.count else {}
        yield away
        if ranks < gpus:
            yield away | {"slurm.gpus_per_node": ranks}
    unit, room = ranks // run.parallel.dp, nodes * gpus - beside
    if room > 0 and room % unit == 0:
        yield {"parallel.dp": room // unit}


def _may_hinder(line: str) -> bool:
    return _name(line) in (*_OWN_KEYS, "gpu-bind", "gpus", "gpus-per-task", "tres-per-task")


def _with_gpus(directives: Sequence[str], gpus: int) -> Iterator[list[str]]:
    """The options with another number of GPUs for a node."""
    if any((_gpus_said(line) or ("",))[0] == "node" for line in directives):
        yield [_with_number(line, gpus) for line in directives]


def _with_number(line: str, gpus: int) -> str:
    option, _, text = line.partition("=")
    if (_gpus_said(line) or ("",))[0] != "node":
        return line
    lead = "gpu:" if option == "--gpus-per-node" else ""
    parts = []
    for part in text.split(","):
        found = _GRES.fullmatch(lead + part)
        named = [found["what"], *filter(None, [found["type"]]), str(gpus)] if found else [part]
        parts.append(":".join(named).removeprefix(lead))
    return f"{option}={','.join(parts)}"


def _changed(run: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    tree = run.model_dump(mode="json")
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = tree
        for inner in sections:
            section = section[inner]
        section[name] = value
    return RunConfig.model_validate_json(json.dumps(tree))


def _word(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}" if isinstance(value, int) else f"'{key}={json.dumps(value)}'"
