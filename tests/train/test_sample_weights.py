"""The weights of tokens that samples.jsonl shows."""

from __future__ import annotations

import numpy as np
import pytest

from aspo_megatron import losses
from aspo_megatron.data.samples import Sample
from aspo_megatron.train.step_metrics import sample_weights


@pytest.mark.parametrize(("name", "expected"), [("cispo", [0.9048, 6.144e-06, 0.0]), ("grpo", [0.9048, 0.0, 0.0])])
def test_a_small_weight_is_not_that_of_a_dropped_token(name: str, expected: list[float]) -> None:
    """Three tokens: near the old policy, e^12 times less likely, and not of the model's."""
    old = np.full(3, -1.0, dtype=np.float32)
    sample = Sample(
        problem_id="p",
        group=0,
        prompt_ids=np.array([1]),
        response_ids=np.array([2, 3, 4]),
        response_mask=np.array([True, True, False]),
        rollout_log_probs=old,
        weight_version=0,
        finish_reason="stop",
        advantage=-1.0,
        old_log_probs=old,
    )
    now = old + np.array([-0.1, -12.0, 0.0], dtype=np.float32)
    assert sample_weights(losses.build(name, {}), sample, now, np.zeros(3, dtype=np.float32)) == expected
