"""What responses are worth (reward, over-long penalty, KL in the reward), and their advantages, across all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import UserError
from aspo_megatron.losses import advantages, kl
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.rewards.shaping import overlong_penalty


def set_advantages(
    groups: Sequence[Sequence[Sample]],
    config: RunConfig,
    charge: Callable[[Sample], float] = lambda sample: 0.0,
    *,
    counts: bool = True,
) -> None:
    """Give every sample its advantage. A collective, as an estimate may look at the whole batch.

    Args:
        groups: those that this rank has.
        config: of the run; `shaping` and `advantage` count.
        charge: what is taken off a response's worth.
        counts: False where another rank has the same groups, and speaks for them.
    """
    shaping, limit = config.shaping, config.rollout.sampling.max_response_tokens

    def worth(sample: Sample) -> float:
        penalty = overlong_penalty(len(sample.response_ids), limit, shaping.overlong_tokens)
        return sample.reward + shaping.overlong_penalty * penalty - charge(sample)

    own = [(group[0].group, [worth(sample) for sample in group]) for group in groups] if counts else []
    everywhere = sorted(pair for part in gather(own) for pair in part)  # in an order that the ranks do not decide
    numbers = [number for number, values in everywhere for _ in values]
    found = advantages.estimate(
        np.array([value for _, values in everywhere for value in values]),
        np.array(numbers, dtype=np.int64),
        config.advantage.baseline,
        config.advantage.scale,
    )
    of_group: dict[int, list[float]] = {}
    for number, advantage in zip(numbers, found.tolist(), strict=True):
        of_group.setdefault(number, []).append(advantage)
    for group in groups:
        for sample, advantage in zip(group, of_group[group[0].group], strict=True):
            sample.advantage = advantage


def charge_kl(batches: Sequence[Sequence[Sequence[Sample]]], config: RunConfig, topology: Topology) -> dict[str, float]:
    """Take `shaping.kl_coef` times each response's KL off its worth, and set advantages anew. A collective.

    The KL is the estimate of KL(pi_old || pi_ref), summed over the response's unmasked tokens: a reward of the whole
    response, as in RLHF with PPO. It has no gradient of its own.

    Args:
        batches: this replica's groups of each mini-batch, with old and reference log-probs.
        config: of the run.
        topology: this rank's place; all ranks of a replica have the same samples.

    Returns:
        `reward/kl`: the mean over the responses that are trained on, in nats.

    Raises:
        UserError: a KL is not finite.
    """
    groups = [group for batch in batches for group in batch]
    speaks = topology.rank == topology.ranks_of_replica(topology.dp.rank)[0]
    kls = {id(sample): response_kl(sample, config.shaping.kl_estimator) for group in groups for sample in group}
    coefficient = config.shaping.kl_coef
    set_advantages(groups, config, lambda sample: coefficient * kls[id(sample)], counts=speaks)
    parts = gather((sum(kls.values()), len(kls)) if speaks else (0.0, 0))
    return {"reward/kl": sum(total for total, _ in parts) / max(1, sum(count for _, count in parts))}


def response_kl(sample: Sample, estimator: kl.Estimator) -> float:
    """The estimate of KL(pi_old || pi_ref) of a response, summed over its unmasked tokens, in nats.

    Raises:
        UserError: it is not finite.
    """
    assert sample.old_log_probs is not None
    assert sample.ref_log_probs is not None
    total = float(
        kl.estimate(
            estimator,
            torch.from_numpy(sample.old_log_probs).double(),
            torch.from_numpy(sample.ref_log_probs).double(),
            mask=torch.from_numpy(sample.response_mask),
        ).sum()
    )
    if not math.isfinite(total):
        raise UserError(
            f"problem {sample.problem_id}: the KL of a response to the starting model is {total} by {estimator}; "
            "choose another shaping.kl_estimator, or shaping.kl_coef=0"
        )
    return total
