"""Faults in losses, aggregation, advantages, KL and the over-long penalty."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "losses/aspo.py",
        "aspo_weights",
        old="tokens.advantages > 0, clipped.reciprocal()",
        new="tokens.advantages < 0, clipped.reciprocal()",
        tests=("losses/test_policy_losses.py",),
    ),
    Mutant(
        "losses/ppo_clip.py",
        "ppo_weights",
        old="dropped = outside | capped | tokens.beyond",
        new="dropped = outside | tokens.beyond",
        tests=("losses/test_policy_losses.py",),
    ),
    Mutant(
        "losses/surrogate.py",
        "ClipRange.outside",
        old="tokens.ratio > self.upper",
        new="tokens.ratio >= self.upper",
        tests=("losses/test_policy_losses.py",),
    ),
    Mutant(
        "losses/surrogate.py",
        "RatioTokens.of",
        old="(inputs.log_probs.detach() - ",
        new="(inputs.log_probs - ",
        tests=("losses/test_policy_losses.py",),
    ),
    Mutant(
        "losses/surrogate.py",
        "surrogate",
        old="log_probs - log_probs.detach()",
        new="log_probs.detach() - log_probs",
        tests=("losses/test_policy_losses.py",),
    ),
    Mutant(
        "losses/responses.py",
        "response_mean",
        old="mask.to(values.dtype)",
        new="torch.ones_like(values)",
        tests=(
            "losses/test_responses.py",
            "losses/test_rival_losses.py",
        ),
    ),
    Mutant(
        "losses/entropy.py",
        "response_quantile",
        old="(counts - 1)",
        new="counts",
        tests=("losses/test_kl_and_entropy.py",),
    ),
    Mutant(
        "losses/aggregation.py",
        "denominator_share",
        old="return float(max_response_tokens)",
        new="return float(num_tokens)",
        tests=("losses/test_aggregation.py",),
    ),
    Mutant(
        "losses/advantage_estimators.py",
        "estimate_advantages",
        old="squares / np.maximum(sizes - 1, 1)",
        new="squares / sizes",
        tests=("losses/test_advantage_estimators.py",),
    ),
    Mutant(
        "losses/kl.py",
        "estimate_kl",
        old="ref_log_probs.detach() - log_probs",
        new="log_probs - ref_log_probs.detach()",
        tests=("losses/test_kl_and_entropy.py",),
    ),
    Mutant(
        "losses/largest_ratio.py",
        "bounded",
        old="log_ratio.clamp(max=MOST_NATS)",
        new="log_ratio.clamp(-MOST_NATS, MOST_NATS)",
        tests=("losses/test_largest_ratio.py::test_beyond_the_bound_as_under_a_clamp",),
    ),
    Mutant(
        "losses/rollout_correction.py",
        "correction_weights",
        old="old_log_probs - rollout_log_probs",
        new="rollout_log_probs - old_log_probs",
        tests=("losses/test_rollout_correction.py",),
    ),
)
