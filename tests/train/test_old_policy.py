"""Whose log-probs are the old ones: what a run is told of its loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from aspo_megatron import losses
from aspo_megatron.config import RunConfig
from aspo_megatron.train.learner import old_policy_advice


def config(name: str, engine: str, old_log_probs: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "output_dir": Path("unused"),
            "model": {"path": Path("unused")},
            "data": {"train": {"kind": "jsonl", "path": "unused"}},
            "rollout": {"engine": engine},
            "train": {"old_log_probs": old_log_probs},
            "loss": {"name": name},
        }
    )


@pytest.mark.parametrize("name", losses.names())
def test_a_loss_that_is_stated_for_the_engines_policy_says_so(name: str) -> None:
    loss = losses.build(name, {})
    told = old_policy_advice(loss, config(name, "sglang", "auto"))
    if loss.old_policy == "engine":
        assert told.startswith(
            f"loss.name={name} is stated for ratios to the policy that sampled: train.old_log_probs="
        )
    else:
        assert told == ""


@pytest.mark.parametrize(
    ("engine", "old_log_probs"), [("sglang", "rollout"), ("sglang", "recompute"), ("embedded", "auto")]
)
def test_a_run_that_has_chosen_or_has_them_is_not_told(engine: str, old_log_probs: str) -> None:
    """The embedded engine's in fp32 are the old ones by default."""
    assert old_policy_advice(losses.build("vespo", {}), config("vespo", engine, old_log_probs)) == ""
