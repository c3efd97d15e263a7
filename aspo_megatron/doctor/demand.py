"""How much memory and disk a run takes, from its configuration and the model's config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.errors import UserError


@dataclass(frozen=True)
class Demand:
    """Bytes.

    Attributes:
        host: that all ranks of this machine lock of its memory; of ranks on CPUs, what they take at their worst moment.
        device: weights, gradients and optimizer of the fullest rank.
        state: one saved state of the whole run.
        weights: the model as a Hugging Face folder, which a run writes at its end.
    """

    host: int
    device: int
    state: int
    weights: int


def demand_of(host: Host, needs: Requirements, on_gpu: bool) -> Demand | None:
    """What is known of it; None without a model or torch, or with a layout that the model cannot have."""
    if needs.family is None or host.torch.problem:
        return None
    from aspo_megatron.models.counts import model_elements
    from aspo_megatron.plan.cpu_ranks import training_bytes
    from aspo_megatron.plan.memory.host import locked_on_node
    from aspo_megatron.plan.memory.rank import resident
    from aspo_megatron.plan.memory.setting import setting_of

    run, family, parallel = needs.run, needs.family, needs.run.parallel
    try:
        family.check_layout(parallel)
        setting = replace(setting_of(run, parallel), cpu=not on_gpu)
        on_cpu = 0 if on_gpu else max(training_bytes(run, family, longest_prompt=1))
    except UserError:
        return None
    fullest = max(resident(family, parallel, setting, stage).total for stage in range(parallel.pp))
    ranks = needs.ranks_here
    host_bytes = locked_on_node(run, family, parallel, setting, ranks) if on_gpu else on_cpu * ranks
    elements = model_elements(family)
    state = (setting.bytes + setting.state_bytes) * elements
    return Demand(host_bytes, fullest, state, setting.bytes * elements)
