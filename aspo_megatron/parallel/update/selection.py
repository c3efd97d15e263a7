"""Which tokens of an update its loss treats in another way, where that depends on all of them."""

from __future__ import annotations

import numpy as np

from aspo_megatron.data.samples import FloatArray, Sample
from aspo_megatron.losses import UpdateTokens
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.micro_batches import PlannedGroups
from aspo_megatron.parallel.update.objective import Objective
from aspo_megatron.parallel.update.passes import PassLimits, planned_outputs


def select_tokens(
    model: PolicyModel, planned: PlannedGroups, objective: Objective, limits: PassLimits, seed: int
) -> None:
    """Give each sample its `selected`, by the objective's choice among the tokens of all replicas.

    A collective: a pass over the tokens, and three numbers (fp32) of each unmasked one to every rank, which all choose.

    Args:
        model: the policy before the update.
        planned: this replica's samples.
        objective: what the update minimises.
        limits: of the pass.
        seed: see `UpdateTokens`.
    """
    of_sample = {id(sample): log_probs for sample, log_probs, _ in planned_outputs(model, [planned], limits)}
    groups = {group[0].group: group for group in planned.groups}
    topology = model.topology
    counts = topology.rank == topology.ranks_of_replica(topology.dp.rank)[0]
    own = {}
    for number, group in groups.items():
        own[number] = np.concatenate([_of_unmasked(sample, of_sample[id(sample)]) for sample in group], axis=1)
    everywhere = dict(sorted(pair for part in gather(own if counts else {}) for pair in part.items()))
    if not everywhere:
        return
    log_probs, old_log_probs, advantages = np.concatenate(list(everywhere.values()), axis=1).astype(np.float64)
    found = objective.select(UpdateTokens(log_probs, old_log_probs, advantages, seed))
    ends = dict(zip(everywhere, np.cumsum([rows.shape[1] for rows in everywhere.values()]), strict=True))
    for number, group in groups.items():
        start = ends[number] - everywhere[number].shape[1]
        for sample in group:
            sample.selected = np.zeros(len(sample.response_mask), dtype=np.bool_)
            size = int(sample.response_mask.sum())
            sample.selected[sample.response_mask] = found[start : start + size]
            start += size


def _of_unmasked(sample: Sample, log_probs: FloatArray) -> FloatArray:
    """Log-probs, old ones and advantages of a sample's unmasked tokens, [3, tokens], fp32."""
    old = np.zeros_like(log_probs) if sample.old_log_probs is None else sample.old_log_probs  # on policy
    rows = np.stack([log_probs, old, np.full_like(log_probs, sample.advantage)])
    return rows[:, sample.response_mask]
