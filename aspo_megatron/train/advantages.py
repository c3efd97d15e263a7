"""From rewards (with over-long penalty and KL) to advantages, across all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from aspo_megatron.config import RunConfig, ShapingConfig
from aspo_megatron.config.words import KlEstimator
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import UserError
from aspo_megatron.losses import advantage_estimators, kl
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.rewards.shaping import overlong_penalty

T = TypeVar("T")


def set_advantages(
    batches: Sequence[Sequence[Sequence[Sample]]], config: RunConfig, topology: Topology
) -> dict[str, float]:
    """Give every sample its advantage. A collective, as an estimate may look at the whole batch.

    Args:
        batches: this replica's groups of each mini-batch; with `shaping.kl_coef`, with old and reference log-probs.
        config: of the run; `shaping` and `advantage` count.
        topology: this rank's place; all ranks of a replica have the same samples, and one of them counts.

    Returns:
        What to log: with `shaping.kl_coef` the `reward/kl` of `subtract_kl`, else nothing.

    Raises:
        UserError: a reward or a KL is not finite.
    """
    groups = [group for batch in batches for group in batch]
    counts = topology.rank == topology.ranks_of_replica(topology.dp.rank)[0]
    metrics: dict[str, float] = {}
    if config.advantage.of == "parts":
        numbers, found = _of_parts(groups, config, counts=counts)
    else:
        rewards = [[shaped_reward(sample, config) for sample in group] for group in groups]
        if config.shaping.kl_coef:
            metrics = subtract_kl(rewards, groups, config.shaping, counts=counts)
        numbers, values = _everywhere(groups, rewards, counts=counts)
        given = np.array(values), np.array(numbers, dtype=np.int64)
        found = advantage_estimators.estimate_advantages(*given, config.advantage.baseline, config.advantage.scale)
    of_group: dict[int, list[float]] = {}
    for number, advantage in zip(numbers, found.tolist(), strict=True):
        of_group.setdefault(number, []).append(advantage)
    for group in groups:
        for sample, advantage in zip(group, of_group[group[0].group], strict=True):
            sample.advantage = advantage
    return metrics


def _everywhere(
    groups: Sequence[Sequence[Sample]], values: Sequence[Sequence[T]], *, counts: bool
) -> tuple[list[int], list[T]]:
    """Of the samples of all replicas, the group and the value: in an order that the ranks do not decide."""
    own = [(group[0].group, list(each)) for group, each in zip(groups, values, strict=True)] if counts else []
    pairs = sorted((pair for part in gather(own) for pair in part), key=lambda pair: pair[0])
    return [number for number, each in pairs for _ in each], [value for _, each in pairs for value in each]


def _of_parts(
    groups: Sequence[Sequence[Sample]], config: RunConfig, *, counts: bool
) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Of the samples of all replicas, the group and the advantage by the parts of the mixture.

    A response that could not be scored has parts of 0, as its reward is; a part whose `when` a group does not meet
    counts nothing in it.
    """
    own = [[sample.reward_parts for sample in group] for group in groups]
    numbers, of_samples = _everywhere(groups, own, counts=counts)
    member = np.array(numbers, dtype=np.int64)
    names_of_group: dict[int, set[str]] = {}
    for number, parts in zip(numbers, of_samples, strict=True):
        names_of_group.setdefault(number, set()).update(parts)
    values = {}
    for name in config.reward.components:
        places = [place for place, number in enumerate(numbers) if name in names_of_group[number]]
        if places:
            values[name] = np.array(places), np.array([of_samples[place].get(name, 0.0) for place in places])
    weights = {name: component.weight for name, component in config.reward.components.items()}
    setting = config.advantage
    return numbers, advantage_estimators.advantages_of_parts(values, weights, member, setting.baseline, setting.scale)


def shaped_reward(sample: Sample, config: RunConfig) -> float:
    """The reward of a response, less the penalty for one that is too long. The KL comes off later."""
    shaping, limit = config.shaping, config.rollout.sampling.max_response_tokens
    penalty = overlong_penalty(len(sample.response_ids), limit, shaping.overlong_tokens)
    return sample.reward + shaping.overlong_penalty * penalty


def subtract_kl(
    rewards: Sequence[list[float]], groups: Sequence[Sequence[Sample]], shaping: ShapingConfig, *, counts: bool
) -> dict[str, float]:
    """Take `shaping.kl_coef` times its KL off each reward, in place. A collective.

    The KL is the estimate of KL(pi_old || pi_ref), summed over the response's unmasked tokens: a reward of the whole
    response, as in RLHF with PPO. It has no gradient of its own.

    Args:
        rewards: of the samples in `groups`.
        groups: of this replica, with old and reference log-probs.
        shaping: coefficient and estimator.
        counts: False where another rank has the same groups, so that they count once in the mean.

    Returns:
        `reward/kl`: the mean over the responses that are trained on, in nats.

    Raises:
        UserError: a KL is not finite.
    """
    kls = []
    for values, group in zip(rewards, groups, strict=True):
        for place, sample in enumerate(group):
            kls.append(response_kl(sample, shaping.kl_estimator))
            values[place] -= shaping.kl_coef * kls[-1]
    parts = gather((sum(kls), len(kls)) if counts else (0.0, 0))
    return {"reward/kl": sum(total for total, _ in parts) / max(1, sum(count for _, count in parts))}


def response_kl(sample: Sample, estimator: KlEstimator) -> float:
    """The estimate of KL(pi_old || pi_ref) of a response, summed over its unmasked tokens, in nats.

    Raises:
        UserError: it is not finite.
    """
    assert sample.old_log_probs is not None
    assert sample.ref_log_probs is not None
    total = float(
        kl.estimate_kl(
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
