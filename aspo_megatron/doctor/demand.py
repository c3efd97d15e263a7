"""How much memory and disk a run takes, from its configuration and the model's config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.wishes import Wishes
from aspo_megatron.errors import UserError


@dataclass(frozen=True)
class Demand:
    """Bytes.

    Attributes:
        host: that all ranks of this machine lock of its memory; of ranks on CPUs, their weights, gradients, optimizer.
        device: weights, gradients and optimizer of the fullest rank.
        state: one saved state of the whole run.
        weights: the model as a Hugging Face folder, which a run writes at its end.
    """

    host: int
    device: int
    state: int
    weights: int


def demand_of(host: Host, wishes: Wishes, on_gpu: bool) -> Demand | None:
    """What is known of it; None without a model or torch, or with a layout that the model cannot have."""
    if wishes.family is None or host.torch.problem:
        return None
    from aspo_megatron.plan.memory import optimizer_shards, resident
    from aspo_megatron.plan.parameters import model_elements, rank_parameters
    from aspo_megatron.plan.setting import setting_of

    run, family, parallel = wishes.run, wishes.family, wishes.run.parallel
    try:
        family.check_layout(parallel)
        setting = replace(setting_of(run, parallel), cpu=not on_gpu)
    except UserError:
        return None
    moments, fp32 = 8, 0 if setting.dtype == "float32" else 4
    dense, expert = optimizer_shards(parallel)
    locked, fullest = 0, 0
    for stage in range(parallel.pp):
        held = rank_parameters(family, parallel, stage)
        share = held.dense // dense + held.expert // expert
        weights = setting.bytes * held.total
        size = weights if setting.reference and setting.reference_on_host else 0
        size += moments * share if run.optimizer.offload else 0
        size += weights + (moments + fp32) * share if run.checkpoint.async_save and run.checkpoint.every else 0
        always = resident(family, parallel, setting, stage).total
        locked, fullest = max(locked, size if on_gpu else always), max(fullest, always)
    elements = model_elements(family)
    state = (setting.bytes + moments + fp32) * elements
    return Demand(locked * wishes.ranks_here, fullest, state, setting.bytes * elements)
