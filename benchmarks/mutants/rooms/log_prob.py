"""Faults in log-probs and entropies over a split vocabulary, and in their gradients."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "parallel/log_prob/vocabulary.py",
        "VocabularyShard.of",
        old="min(max(vocab_size - first, 0), padded_rows)",
        new="padded_rows",
        tests=("parallel/test_log_prob.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/log_prob/vocabulary.py",
        "VocabularyShard.locate",
        old="local < self.rows",
        new="local <= self.rows",
        tests=("parallel/test_log_prob.py::test_each_target_is_in_one_shard",),
    ),
    Mutant(
        "parallel/log_prob/vocabulary.py",
        "chunk_logits",
        old="return logits if shard.temperature == 1.0 else logits.div_(shard.temperature)",
        new="return logits",
        tests=("parallel/test_log_prob.py::test_bfloat16_inputs_in_float32",),
    ),
    Mutant(
        "parallel/log_prob/vocabulary.py",
        "chunk_softmax",
        old="weighted + below * sums",
        new="weighted",
        tests=("parallel/test_two_ranks.py::test_log_probs_of_a_vocabulary_over_two_ranks",),
    ),
    Mutant(
        "parallel/log_prob/logit_gradient.py",
        "add_gradients",
        old="upstream.by_log_prob.to(exponentials.dtype) / shard.temperature",
        new="upstream.by_log_prob.to(exponentials.dtype)",
        tests=("parallel/test_log_prob.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/log_prob/logit_gradient.py",
        "_add_entropy_gradient",
        old="log_scale + entropy",
        new="log_scale - entropy",
        tests=("parallel/test_log_prob.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/log_prob/autograd.py",
        "_TokenLogProbs.backward",
        old="in reversed(list(_chunks(len(targets), ctx.size))):",
        new="in _chunks(len(targets), ctx.size):",
        tests=("parallel/test_log_prob.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/log_prob/autograd.py",
        "_objective_chunks",
        old="shard.parallel:",
        new="shard.parallel and grad_weight is None:",
        tests=("parallel/test_two_ranks.py::test_log_probs_of_a_vocabulary_over_two_ranks",),
    ),
    Mutant(
        "parallel/log_prob/autograd.py",
        "_zeros_for_sum",
        old="dtype=accumulation_dtype(weight)",
        new="dtype=weight.dtype",
        tests=("parallel/test_log_prob.py::test_bfloat16_inputs_in_float32",),
    ),
)
