"""The figures of a step, from samples and updates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from aspo_megatron.data.samples import Sample
from aspo_megatron.losses import Loss, Stat
from aspo_megatron.losses.gradient_weight import gradient_weights
from aspo_megatron.metrics.dynamics import repetition_rate
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.update.statistics import StepStatistics
from aspo_megatron.parallel.update.step import UpdateResult
from aspo_megatron.train.collector import Rollout


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Means over all responses of the step, on all ranks."""
    samples = [sample for group in rollout.asked for sample in group.samples]
    failed = [reward.error is not None for group in rollout.asked for reward in group.rewards]

    def over_samples(values: Sequence[float]) -> Stat:
        return Stat(torch.tensor(values, dtype=torch.float64), torch.ones(len(values)))

    parts = [reward.parts for group in rollout.asked for reward in group.rewards]
    part_names = sorted({name for names in gather({name for part in parts for name in part}) for name in names})
    agree = [float(group.has_equal_rewards) for group in rollout.asked]
    statistics = StepStatistics()
    statistics.add(
        {
            "reward/mean": over_samples([sample.reward for sample in samples]),
            **{
                f"reward/part/{name}": over_samples([part[name] for part in parts if name in part])
                for name in part_names
            },
            "reward/failed": over_samples([float(value) for value in failed]),
            "groups/all_agree": over_samples(agree),
            "response_tokens/mean": over_samples([float(len(sample.response_ids)) for sample in samples]),
            "repetition/mean": over_samples([repetition_rate(sample.response_ids) for sample in samples]),
            "response_tokens/cut": over_samples([float(sample.finish_reason == "length") for sample in samples]),
            "tokens_per_sample": over_samples([float(sample.num_tokens) for sample in samples]),
            **{
                name: Stat(torch.tensor([float(count)]), torch.ones(1))
                for name, count in (
                    ("samples_per_rank", len(samples)),
                    ("groups/asked", len(rollout.asked)),
                    ("groups/trained", len(rollout.groups)),
                )
            },
        }
    )
    metrics = statistics.reduce()
    ranks = torch.distributed.get_world_size()
    metrics |= {name: metrics[name] * ranks for name in ("groups/asked", "groups/trained")}
    return metrics | {"tokens": metrics.pop("tokens_per_sample") * metrics.pop("samples_per_rank") * ranks}


def staleness_metrics(rollout: Rollout, version: int) -> dict[str, float]:
    """How old the weights are that made the tokens which a step trains on, in syncs, over all ranks.

    Args:
        rollout: this rank's share.
        version: of the trainer's weights before the updates.

    Returns:
        Mean and largest age of a token, the share of responses made by more than one version, and how many groups and
        responses the step left to the next one, unfinished.
    """
    spans = [span for group in rollout.groups for sample in group for span in sample.versions]
    mixed = [float(len(sample.versions) > 1) for group in rollout.groups for sample in group]
    left = [sample.finish_reason == "abort" for slot in rollout.left for sample in slot.begun]
    age = Stat(
        torch.tensor([float(version - made_by) for made_by, _ in spans]),
        torch.tensor([float(tokens) for _, tokens in spans]),
    )
    statistics = StepStatistics()
    statistics.add(
        {
            "staleness/mean": age,
            "staleness/mixed": Stat(torch.tensor(mixed), torch.ones(len(mixed))),
            "cut_off/groups": Stat(torch.tensor([float(len(rollout.left))]), torch.ones(1)),
            "cut_off/responses": Stat(torch.tensor([float(sum(left))]), torch.ones(1)),
        }
    )
    statistics.add_peaks({"staleness/max": age})
    metrics = statistics.reduce()
    ranks = torch.distributed.get_world_size()
    return metrics | {name: metrics[name] * ranks for name in ("cut_off/groups", "cut_off/responses")}


def update_metrics(results: Sequence[UpdateResult]) -> dict[str, float]:
    """The figures of a step's updates, averaged over those that were not skipped."""
    done = [result for result in results if not result.skipped]
    metrics = {"updates/skipped": float(len(results) - len(done))}
    if not done:
        return metrics
    for name in sorted({name for result in done for name in result.stats}):
        values = [result.stats[name] for result in done if name in result.stats]
        # Engine and trainer hold the same weights in the first update only.
        metrics[name] = values[0] if name.startswith("engine_log_prob_diff/") else sum(values) / len(values)
    rooms = [result.room_used for result in done if result.room_used is not None]
    if rooms:
        metrics["experts/room_used"] = max(rooms)
    return metrics | {
        "loss/total": sum(result.loss for result in done) / len(done),
        "grad_norm": sum(result.grad_norm for result in done) / len(done),
    }


def sample_weights(loss: Loss, sample: Sample, log_probs: np.ndarray, entropy: np.ndarray) -> list[float]:
    """The weight that `loss` gives the gradient of each token of a response, as the policy now is, to four digits.

    Small ones are not rounded to 0, which is the weight of a token that the loss drops.
    """
    assert sample.old_log_probs is not None
    size = len(log_probs)
    weights = gradient_weights(
        loss,
        torch.tensor(log_probs),
        torch.tensor(sample.old_log_probs),
        torch.full((size,), sample.advantage),
        torch.tensor(sample.response_mask),
        torch.tensor(entropy),
        torch.tensor([0, size]),
    )
    return [float(f"{weight:.4g}") for weight in weights.tolist()]
