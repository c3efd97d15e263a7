"""`sample_tokens`: which token a uniform number picks, and the log-prob it comes with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aspo_megatron.config import SamplingConfig
from aspo_megatron.rollout.embedded.sampling import sample_tokens


def draw(probs: list[float], uniforms: list[float], **sampling: float) -> tuple[list[int], Tensor]:
    """Tokens and log-probs for one distribution and many uniform numbers."""
    logits = torch.tensor(probs).log().expand(len(uniforms), -1)
    config = SamplingConfig(**{"max_response_tokens": 1, **sampling})
    tokens, log_probs = sample_tokens(logits, torch.tensor(uniforms, dtype=torch.float64), config)
    return tokens.tolist(), log_probs


ALMOST_ONE = 1.0 - 2.0**-53


def test_a_token_owns_the_interval_of_its_probability() -> None:
    tokens, log_probs = draw([0.25, 0.25, 0.5], [0.0, 0.24, 0.26, 0.49, 0.51, ALMOST_ONE])
    assert tokens == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(log_probs.exp(), torch.tensor([0.25, 0.25, 0.25, 0.25, 0.5, 0.5]))


@pytest.mark.parametrize("probs", [[0.0, 1.0, 0.0], [0.0, 0.3, 0.7, 0.0], [0.0, 0.0, 1e-6, 1.0, 0.0, 0.0]])
def test_an_impossible_token_is_never_picked(probs: list[float]) -> None:
    tokens, _ = draw(probs, [0.0, 1e-300, 0.3, 0.5, ALMOST_ONE])
    assert all(probs[token] > 0 for token in tokens)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_log_probs_are_the_tempered_ones_before_truncation(temperature: float) -> None:
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    config = SamplingConfig(max_response_tokens=1, temperature=temperature, top_k=7, top_p=0.8)
    tokens, log_probs = sample_tokens(logits, uniforms, config)
    full = torch.log_softmax(logits.double() / temperature, dim=-1)
    expected = full.gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(log_probs.double(), expected, rtol=0, atol=1e-6)
    assert log_probs.dtype == torch.float32
    assert tokens.dtype == torch.int64


def test_greedy_is_the_likeliest_with_log_probs_at_temperature_one() -> None:
    tokens, log_probs = draw([0.2, 0.5, 0.3], [0.0, 0.9], temperature=0.0)
    assert tokens == [1, 1]
    torch.testing.assert_close(log_probs.exp(), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"top_k": 1}, {3}),
        ({"top_k": 2}, {2, 3}),
        ({"top_k": 40}, {0, 1, 2, 3}),
        ({"top_p": 0.001}, {3}),
        ({"top_p": 0.39}, {3}),
        ({"top_p": 0.41}, {2, 3}),
        ({"top_p": 0.95}, {0, 1, 2, 3}),
        ({"top_p": 0.71, "top_k": 2}, {2, 3}),
        ({"top_p": 0.5, "top_k": 3}, {2, 3}),
    ],
)  # fmt: skip
def test_what_is_kept(sampling: dict[str, float], kept: set[int]) -> None:
    probs = [0.1, 0.2, 0.3, 0.4]
    tokens, _ = draw(probs, [i / 200 for i in range(200)], **sampling)
    assert set(tokens) == kept
    for token in kept:  # in the proportions they had
        share = probs[token] / sum(probs[other] for other in kept)
        assert tokens.count(token) / 200 == pytest.approx(share, abs=0.011)


def test_ties_at_the_edge_of_top_k_do_not_add_tokens() -> None:
    tokens, _ = draw([0.2] * 5, [i / 100 for i in range(100)], top_k=2)
    assert len(set(tokens)) == 2


def test_a_large_vocabulary_is_not_summed_in_single_precision() -> None:
    """In fp32 the sums are off by more than a token's share, and neighbours are picked."""
    size = 150_000
    picked = torch.arange(0, size, 997)
    uniforms = (picked.double() + 0.5) / size
    tokens, _ = sample_tokens(torch.zeros(len(picked), size), uniforms, SamplingConfig(max_response_tokens=1))
    assert tokens.tolist() == picked.tolist()


def test_half_precision_logits_are_raised_first() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    _, log_probs = sample_tokens(logits, torch.tensor([0.99], dtype=torch.float64), SamplingConfig())
    torch.testing.assert_close(log_probs, torch.log_softmax(logits.float(), dim=-1)[:, 2])
