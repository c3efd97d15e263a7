"""Whether this machine bears the ranks that a command is about to start on its CPUs: their memory, its cores.

GPUs are compared with the number of ranks alone; what a rank takes of one, `aspo plan` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.config.words import Recompute
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import counted
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.family import Family
from aspo_megatron.plan.machine import Machine, ThisMachine, available_memory, usable_cores
from aspo_megatron.plan.memory.parameters import bytes_per_weight
from aspo_megatron.plan.memory.rank import passing, resident
from aspo_megatron.plan.memory.setting import FP32_BYTES, Setting, setting_of
from aspo_megatron.plan.memory.workload import local_batch, update_batch

PROCESS_BYTES = 500 << 20
"""What a rank has of memory before it holds a model (Python, torch, megatron-core, transformers), as measured with
`examples/tiny`: its own pages, and its share of those that ranks have together."""
MOST_PER_CORE = 4
"""Threads of ranks for each core, beyond which nobody starts them by mistake."""
SMALLER = (
    "set a smaller train.max_tokens_per_micro_batch or rollout.sampling.max_response_tokens, or model.recompute=full"
)
"""What makes a rank that trains on a CPU take less."""
SMALLER_MODEL = "use a smaller model"
"""The same of one that does not train."""
_GIB = 1 << 30


@dataclass(frozen=True)
class Ranks:
    """Ranks that are about to be started on this machine.

    Attributes:
        what: what asks for so many, e.g. `--processes 8`.
        bytes: what each takes of memory, `PROCESS_BYTES` included.
        threads: of each.
        asked_for: so many are wanted, however few cores there are.
        flag: what says so, as it is written.
        smaller: what to do that a rank takes less.
    """

    what: str
    bytes: Sequence[int]
    threads: int
    asked_for: bool
    flag: str
    smaller: str = SMALLER_MODEL


def on_cpus(device: str) -> bool:
    """Whether `platform.device` puts ranks on CPUs here."""
    return device == "cpu" or (device == "auto" and not torch.cuda.device_count())


def refuse_beyond_gpus(what: str, ranks: int, device: str) -> None:
    """Refuse more ranks than this machine has GPUs, one for each.

    Raises:
        ConfigError: says both numbers.
    """
    gpus = torch.cuda.device_count()
    if ranks > gpus:
        raise ConfigError(
            f"{what}: {ranks} ranks need a GPU each, but this machine has {gpus} (device={device}); start fewer, or "
            "set device=cpu"
        )


def crowding(ranks: Ranks, machine: Machine | None = None) -> str:
    """What is to be said of ranks that share this machine's cores; empty where each thread has one.

    Raises:
        ConfigError: they take more memory than there is, or are more than four times the cores and nobody has asked
            for that.
    """
    machine = machine or ThisMachine()
    count, there = len(ranks.bytes), available_memory(machine)
    if there is not None and sum(ranks.bytes) > there:
        raise ConfigError(_too_large(ranks, there))
    threads, cores = count * ranks.threads, max(usable_cores(machine), 1.0)  # one thread is the least
    if threads <= cores:
        return ""
    told = f"{counted(count, 'rank')} x {counted(ranks.threads, 'thread')}"
    if threads > MOST_PER_CORE * cores and not ranks.asked_for:
        raise ConfigError(
            f"{ranks.what}: {told} are more than {MOST_PER_CORE} times the {cores:g} CPU cores here; start at most "
            f"{max(int(MOST_PER_CORE * cores / ranks.threads), 1)}, or set {ranks.flag} to start them anyway"
        )
    fewer_threads = " or threads" if ranks.threads > 1 else ""
    return f"{told} share {cores:g} CPU cores, which is slow; fewer ranks{fewer_threads}, or more cores, are faster"


def _too_large(ranks: Ranks, there: int) -> str:
    count, most = len(ranks.bytes), max(ranks.bytes)
    total = sum(ranks.bytes) / _GIB
    each = f", {most / _GIB:.1f} GiB each" if count > 1 else ""
    fit = there // most
    todo = f"start at most {fit}" if fit else ranks.smaller
    return (
        f"{ranks.what if fit else 'memory'}: {counted(count, 'rank')} would take about {total:.1f} GiB of memory{each} "
        f"({PROCESS_BYTES / _GIB:.1f} of it for the process itself), but only {there / _GIB:.1f} GiB is available; "
        f"{todo}, end other programs, or use a machine with more"
    )


def training_bytes(config: RunConfig, family: Family, longest_prompt: int) -> list[int]:
    """What each rank of a run on CPUs takes at its worst moment, in the order of ranks.

    `longest_prompt`: no prompt has more tokens.

    That is an update's, or when the embedded engine has its weights. The engine's cache is not counted: how large it
    gets depends on how long responses are. Nor are workers of the reward.

    Raises:
        ConfigError: the model cannot be split as configured, or there is no such loss.
    """
    config = config.model_copy(update={"platform": config.platform.model_copy(update={"device": "cpu"})})
    parallel = config.parallel
    family.check_layout(parallel)
    setting = setting_of(config, parallel)
    batch = update_batch(config, parallel, longest_prompt)
    engine = 0
    if config.rollout.engine == "embedded":
        engine = setting.bytes * model_elements(family)
    of_stage = []
    for stage in range(parallel.pp):
        most = max(passing(family, parallel, setting, batch, stage).peak, engine)
        of_stage.append(PROCESS_BYTES + resident(family, parallel, setting, stage).total + most)
    per_stage = parallel.world_size // parallel.pp
    return [size for size in of_stage for _ in range(per_stage)]


def evaluating_bytes(config: RunConfig, family: Family, processes: int) -> list[int]:
    """The least that each process of an evaluation takes on a CPU: the model, or beside servers nothing of it."""
    held = 0
    if config.rollout.engine == "embedded":
        held = bytes_per_weight(config.model.dtype) * model_elements(family)
    return [PROCESS_BYTES + held] * processes


def checking_bytes(family: Family, parallel: ParallelConfig, recompute: Recompute) -> list[int]:
    """What each rank of a layout takes in `aspo check`: fp32, short lengths, and on the leader what it compares."""
    setting = Setting(
        dtype="float32",
        recompute=recompute,
        token_wise=True,
        reference=False,
        log_prob_chunk=None,
        micro_batches=8,
        offload=False,
        cpu=True,
    )
    batch = local_batch(((19, (24,)),), parallel.cp, parallel.tp if parallel.sequence_parallel else 1)
    per_stage = parallel.world_size // parallel.pp
    found = []
    for stage in range(parallel.pp):
        moments = passing(family, parallel, setting, batch, stage).peak
        found += [PROCESS_BYTES + resident(family, parallel, setting, stage).total + moments] * per_stage
    found[0] += 2 * FP32_BYTES * model_elements(family)  # gradients and weights of the whole model
    return found
