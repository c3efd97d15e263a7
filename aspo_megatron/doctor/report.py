"""All checks of a machine, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

from aspo_megatron.doctor.environment import environment_lines
from aspo_megatron.doctor.gpus import gpu_lines, torch_lines
from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.inputs import input_lines
from aspo_megatron.doctor.kernels import kernel_lines
from aspo_megatron.doctor.limits import limit_lines
from aspo_megatron.doctor.lines import Line, LineGroup, Mark, count, unknown
from aspo_megatron.doctor.memory import memory_lines
from aspo_megatron.doctor.nccl import nccl_lines
from aspo_megatron.doctor.nvidia import Gpus, read_gpus
from aspo_megatron.doctor.packages import package_lines
from aspo_megatron.doctor.requirements import Requirements, placed
from aspo_megatron.doctor.servers import Sglang, read_sglang, server_lines
from aspo_megatron.doctor.slurm import slurm_lines
from aspo_megatron.foreign_text import counted, one_line

_SHOWN: dict[Mark, str] = {"ok": "ok", "warn": "WARN", "wrong": "WRONG", "unknown": "?", "unneeded": "-"}
_NAME_WIDTH = 20
_T = TypeVar("_T")

Check = Callable[[], Iterable[Line]]


def examine(host: Host, needs: Requirements) -> list[LineGroup]:
    """Every check. One that fails by itself is a line that says so, and ends no other."""
    _ = host.torch  # by one thread: an import that fails in two at once says something else in each
    with ThreadPoolExecutor() as pool:
        gpus_read = pool.submit(_or, Gpus(problem="the query failed"), lambda: read_gpus(host))
        failed = Sglang(problem="the query failed")
        sglang_read = pool.submit(_or, failed, lambda: read_sglang(host, needs))
        gpus, sglang = gpus_read.result(), sglang_read.result()
        needs = placed(needs, host, gpus.there)
        checks: dict[str, tuple[Check, ...]] = {
            "Python and packages": (
                lambda: package_lines(host, needs),
                lambda: torch_lines(host, needs, gpus),
            ),
            "GPUs": (lambda: gpu_lines(host, needs, gpus),),
            "Kernels": (lambda: kernel_lines(host, needs, gpus),),
            "NCCL and network": (lambda: nccl_lines(host, needs, gpus, sglang),),
            "SGLang": (lambda: server_lines(host, needs, gpus, sglang),),
            "Memory": (lambda: memory_lines(host, needs, gpus),),
            "Limits and disks": (lambda: limit_lines(host, needs, gpus),),
            "Slurm": (lambda: slurm_lines(host, needs, gpus),),
            "Environment variables": (lambda: environment_lines(host, needs, gpus),),
            "The run": (lambda: input_lines(host, needs),),
        }
        done = {name: [pool.submit(_lines, check) for check in parts] for name, parts in checks.items()}
        groups = [
            LineGroup(name, tuple(line for part in parts for line in part.result())) for name, parts in done.items()
        ]
    return [group for group in groups if group.lines]


def exit_code(groups: Sequence[LineGroup]) -> int:
    """1 if the run could not work."""
    return 1 if count(groups, "wrong") else 0


def text(groups: Sequence[LineGroup], needs: Requirements) -> str:
    """For people."""
    shown: list[str] = []
    for group in groups:
        shown += ["", group.name]
        for line in group.lines:
            shown.append(f"  {_SHOWN[line.mark]:<6}{one_line(line.what):<{_NAME_WIDTH}} {one_line(line.found)}")
            if line.todo:
                shown.append(f"  {'':<6}{'':<{_NAME_WIDTH}} -> {one_line(line.todo)}")
    return "\n".join([*shown[1:], "", f"{_counts(groups)}; {one_line(_next(groups, needs))}"])


def as_json(groups: Sequence[LineGroup], needs: Requirements) -> dict[str, Any]:
    """The same for programs."""
    return {
        "lines": [{"group": group.name} | asdict(line) for group in groups for line in group.lines],
        "counts": {mark: count(groups, mark) for mark in _SHOWN},
        "next": _next(groups, needs),
        "exit_code": exit_code(groups),
    }


def _counts(groups: Sequence[LineGroup]) -> str:
    warnings = count(groups, "warn")
    return f"{count(groups, 'ok')} ok, {counted(warnings, 'warning')}, {count(groups, 'wrong')} wrong"


def _next(groups: Sequence[LineGroup], needs: Requirements) -> str:
    """What to do after this."""
    if exit_code(groups):
        return f"fix what is WRONG, then run again: aspo doctor{needs.words}"
    if needs.config is None:
        return "next: aspo recipes tiny, aspo train tiny/run.yaml, then aspo doctor YOUR.yaml"
    submits = needs.away or (needs.slurm and needs.nodes > 1)
    return f"next: aspo {'slurm' if submits else 'train'}{needs.words}"


def _lines(check: Check) -> list[Line]:
    """A check's lines; those before a mistake in it, and the mistake, if it makes one."""
    found: list[Line] = []
    try:
        found.extend(check())
    except Exception as error:  # what a machine answers is not foreseen in full, and the other checks are wanted
        found.append(unknown("a check", f"failed: {type(error).__name__}: {error}"))
    return found


def _or(otherwise: _T, read: Callable[[], _T]) -> _T:
    """What is read, or `otherwise` if that fails."""
    try:
        return read()
    except Exception:  # as in `_lines`
        return otherwise
