"""What an update minimises: the loss alone, as it is taken chunk by chunk, is the loss that is reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from aspo_megatron import losses
from aspo_megatron.config import LossConfig
from aspo_megatron.config.words import KlEstimator, KlTokens, RolloutCorrection
from aspo_megatron.data.packing import PackedBatch, pack
from aspo_megatron.losses import LossOutput
from aspo_megatron.parallel.update.objective import PlainObjective, PolicyObjective, gradient_at_tokens, weighted_sum

from .samples import make_groups

CONFIGS: dict[str, dict[str, Any]] = {
    "loss alone": {"kl_coef": 0.0},
    "KL": {"kl_coef": 0.05},
    "KL of some tokens": {"kl_coef": 0.05, "kl_tokens": "low-entropy"},
    "entropy": {"kl_coef": 0.0, "entropy_coef": 0.01},
    "k1": {"kl_coef": 0.05, "kl_estimator": "k1"},
    "k2": {"kl_coef": 0.05, "kl_estimator": "k2"},
    "corrected": {"kl_coef": 0.05, "rollout_correction": "tis", "rollout_ratio_max": 1.2, "entropy_coef": 0.01},
    "left out": {"kl_coef": 0.0, "rollout_correction": "icepop"},
    "KL of two outcomes": {"kl_coef": 0.0, "rollout_correction": "kpop"},
    "weight of a response": {"kl_coef": 0.0, "rollout_correction": "sequence-tis", "rollout_ratio_max": 1.2},
    "masked by a product": {"kl_coef": 0.0, "rollout_correction": "sequence-mask"},
    "masked by a mean": {"kl_coef": 0.0, "rollout_correction": "geometric-mask", "rollout_ratio_max": 1.2},
    "masked by a divergence": {"kl_coef": 0.0, "rollout_correction": "k3-mask", "rollout_ratio_max": 0.3},
}
OF_RESPONSES = {
    "KL of some tokens", "weight of a response", "masked by a product", "masked by a mean", "masked by a divergence"
}  # fmt: skip


def test_every_word_is_in_a_config() -> None:
    for key, words in (
        ("kl_estimator", KlEstimator),
        ("kl_tokens", KlTokens),
        ("rollout_correction", RolloutCorrection),
    ):
        assert {getattr(LossConfig(**config), key) for config in CONFIGS.values()} == set(get_args(words)), key


def scored() -> tuple[PackedBatch, Tensor, Tensor]:
    """A batch with its log-probs and entropy; some tokens are masked."""
    groups = make_groups([(5, (1, 2, 9, 14, 3)), (1, (4, 4))])
    generator = np.random.default_rng(0)
    for sample in (sample for group in groups for sample in group):
        size = len(sample.response_ids)
        sample.response_mask = generator.random(size) < 0.8
        sample.old_log_probs, sample.ref_log_probs = generator.normal(-2.0, 1.0, (2, size)).astype(np.float32)
    batch = pack(groups, [[0.1 + index for index in range(len(group))] for group in groups])
    values = torch.randn(2, len(batch.targets), generator=torch.Generator().manual_seed(0))
    return batch, values[0] - 2.0, values[1].abs()


@pytest.mark.parametrize("on_policy", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_alone_is_the_loss(name: str, on_policy: bool) -> None:
    objective = PolicyObjective(losses.build("aspo", {}), LossConfig(**CONFIGS[name]), on_policy)
    batch, log_probs, entropy = scored()
    whole = objective(batch, log_probs, entropy).per_token
    assert torch.equal(objective.per_token(batch, log_probs, entropy), whole)


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - OF_RESPONSES))
def test_gradient_of_some_tokens_is_theirs_of_the_whole(name: str) -> None:
    objective = PolicyObjective(losses.build("aspo", {}), LossConfig(**CONFIGS[name]))
    assert objective.token_wise
    batch, log_probs, entropy = scored()
    inputs = log_probs.requires_grad_(), entropy.requires_grad_()
    wanted = torch.autograd.grad(weighted_sum(objective(batch, *inputs), batch), inputs, allow_unused=True)
    for part in (slice(0, 7), slice(7, 30)):
        found = gradient_at_tokens(objective, batch.of_tokens(part), log_probs[part], entropy[part])
        for got, want in zip(found, wanted, strict=True):
            assert (got is None) == (want is None)
            assert got is None or want is None or torch.equal(got, want[part])


@pytest.mark.parametrize("name", sorted(OF_RESPONSES))
def test_what_needs_whole_responses_says_so(name: str) -> None:
    assert not PolicyObjective(losses.build("aspo", {}), LossConfig(**CONFIGS[name])).token_wise


@dataclass(frozen=True)
class WithoutFigures:
    """An objective of which nobody may ask what to log."""

    objective: PolicyObjective
    token_wise = True
    selects = False

    def select(self, tokens: losses.UpdateTokens) -> npt.NDArray[np.bool_]:
        raise AssertionError("a choice that nobody reads")

    def __call__(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> LossOutput:
        raise AssertionError("figures that nobody reads")

    def per_token(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> Tensor:
        return self.objective.per_token(batch, log_probs, entropy)


def test_gradient_makes_no_figures() -> None:
    objective = PolicyObjective(losses.build("aspo", {}), LossConfig())
    batch, log_probs, entropy = scored()
    by_log_prob, by_entropy = gradient_at_tokens(WithoutFigures(objective), batch, log_probs, entropy)
    assert by_log_prob.any()
    assert by_entropy is None


def test_plain_objective() -> None:
    batch, log_probs, entropy = scored()
    plain = PlainObjective(lambda _, log_p, entr: LossOutput(2 * log_p + entr), token_wise=True)
    by_log_prob, by_entropy = gradient_at_tokens(plain, batch, log_probs, entropy)
    assert by_entropy is not None
    assert torch.equal(by_log_prob, 2 * by_entropy)
