"""The figures of a step, from samples and updates."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aspo_megatron.data.samples import Sample
from aspo_megatron.losses import Stat
from aspo_megatron.parallel.statistics import StepStatistics
from aspo_megatron.parallel.step import UpdateResult


def rollout_metrics(groups: Sequence[Sequence[Sample]], failed: Sequence[bool]) -> dict[str, float]:
    """Means over all responses of the step, on all ranks. `failed`: which of this rank's could not be scored."""
    samples = [sample for group in groups for sample in group]

    def over_samples(values: Sequence[float]) -> Stat:
        return Stat(torch.tensor(values, dtype=torch.float64), torch.ones(len(values)))

    agree = [float(len({sample.reward for sample in group}) == 1) for group in groups]
    statistics = StepStatistics()
    statistics.add(
        {
            "reward/mean": over_samples([sample.reward for sample in samples]),
            "reward/failed": over_samples([float(value) for value in failed]),
            "groups/all_agree": over_samples(agree),
            "response_tokens/mean": over_samples([float(len(sample.response_ids)) for sample in samples]),
            "response_tokens/cut": over_samples([float(sample.finish_reason == "length") for sample in samples]),
            "tokens_per_sample": over_samples([float(sample.num_tokens) for sample in samples]),
            "samples_per_rank": Stat(torch.tensor([float(len(samples))]), torch.ones(1)),
        }
    )
    metrics = statistics.reduce()
    total = metrics.pop("samples_per_rank") * torch.distributed.get_world_size()
    return metrics | {"tokens": metrics.pop("tokens_per_sample") * total}


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
    return metrics | {
        "loss/total": sum(result.loss for result in done) / len(done),
        "grad_norm": sum(result.grad_norm for result in done) / len(done),
        "lr": done[-1].lr,
    }
