"""Whether this machine bears what a run is about to do on it: the ranks that start, and a model that is drawn."""

from __future__ import annotations

import os

import psutil

from aspo_megatron.config import RunConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.family import Family
from aspo_megatron.plan.cpu_ranks import (
    SMALLER,
    SMALLER_MODEL,
    Ranks,
    crowding,
    evaluating_bytes,
    on_cpus,
    refuse_beyond_gpus,
    training_bytes,
)
from aspo_megatron.plan.machine import ThisMachine, memory_limit
from aspo_megatron.plan.memory.rank import resident
from aspo_megatron.plan.memory.setting import FP32_BYTES, setting_of
from aspo_megatron.versions import refuse_outside

_GIB = 1 << 30


def refuse_ranks_beyond(
    config: RunConfig, family: Family | None = None, *, evaluates: bool = False, longest_prompt: int = 1
) -> str:
    """Refuse ranks that are more than this machine bears; asked before any is started here.

    Args:
        config: of the run.
        family: of the model, where it is read already.
        evaluates: they do not train.
        longest_prompt: tokens of it, once problems are read.

    Returns:
        What is to be said of their sharing cores; empty if they do not.

    Raises:
        UserError: names what is asked for, and what there is; or the model cannot be used.
    """
    from aspo_megatron.checkpoint.usable import usable_config

    refuse_outside()
    ranks, platform = config.parallel.world_size, config.platform
    what = f"--processes {ranks}" if evaluates else "parallel (tp x cp x dp x pp)"
    asks_servers = evaluates and config.rollout.engine == "sglang"
    if not on_cpus(platform.device) and not asks_servers:
        refuse_beyond_gpus(what, ranks, platform.device)
        return ""
    family = family or usable_config(config.model.path)
    if config.model.init == "random":
        refuse_beyond_memory(config, family)  # its sizes are named then, whatever the ranks
    sizes = evaluating_bytes(config, family, ranks) if evaluates else training_bytes(config, family, longest_prompt)
    flag = "platform.more_ranks_than_cores=true"
    smaller = SMALLER_MODEL if evaluates else SMALLER
    return crowding(Ranks(what, sizes, platform.threads_per_rank, platform.more_ranks_than_cores, flag, smaller))


def refuse_beyond_memory(config: RunConfig, family: Family) -> None:
    """Refuse random weights of sizes that no machine like this one holds; `aspo plan` knows what fits.

    Counted is the least that the ranks on this machine take: weights, gradients and the optimizer's state. On GPUs one
    rank is compared with the host's memory, which is larger than a GPU's.

    Raises:
        ConfigError: names what is asked for, and what there is.
    """
    parallel, there = config.parallel, machine_memory()
    setting = setting_of(config, parallel)
    least = min(resident(family, parallel, setting, stage).total for stage in range(parallel.pp))
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    ranks = int(told) if told.isdecimal() else parallel.world_size
    asked = max(least * (ranks if setting.cpu else 1), FP32_BYTES * _largest(family))
    if asked > there:
        path, elements = one_line(config.model.path / "config.json"), model_elements(family)
        raise ConfigError(
            f"{path}: asks for {elements:,} parameters, which take {asked / _GIB:,.0f} GiB here, and the machine has "
            f"{there / _GIB:,.0f}; see num_hidden_layers and the sizes"
        )


def machine_memory() -> int:
    """Bytes that this machine has, or that its control groups leave of them; swap does not count as memory."""
    total: int = psutil.virtual_memory().total
    limit = memory_limit(ThisMachine())
    return total if limit is None else min(total, limit)


def _largest(family: Family) -> int:
    """Elements of the largest tensor: each is drawn whole."""
    shape = family.shape(tp=1)
    sizes = (size for row in family.rows for size in row.sizes(shape))
    return max(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)
