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
        "parallel/log_prob/chunk_kernels.py",
        "located",
        old="local < rows",
        new="local <= rows",
        tests=("parallel/test_log_prob.py::test_each_target_is_in_one_shard",),
    ),
    Mutant(
        "parallel/log_prob/vocabulary.py",
        "chunk_logits",
        old="return logits if temperature == 1.0 else logits.div_(temperature)",
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
        "parallel/log_prob/chunk_kernels.py",
        "EagerKernels.gradient",
        old="upstream.by_log_prob.to(exponentials.dtype) / self._temperature",
        new="upstream.by_log_prob.to(exponentials.dtype)",
        tests=("parallel/test_log_prob.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/log_prob/chunk_kernels.py",
        "EagerKernels._entropy_gradient",
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
        "token_objective",
        old="shard.parallel and sum_hidden_grad:",
        new="shard.parallel and sum_hidden_grad and grad_weight is None:",
        tests=("parallel/test_two_ranks.py::test_log_probs_of_a_vocabulary_over_two_ranks",),
    ),
    Mutant(
        "parallel/log_prob/autograd.py",
        "_zeros_for_sum",
        old="dtype=accumulation_dtype(weight)",
        new="dtype=weight.dtype",
        tests=("parallel/test_log_prob.py::test_bfloat16_inputs_in_float32",),
    ),
    Mutant(
        "parallel/log_prob/triton_kernels.py",
        "_rescale",
        old="weighted + below * total",
        new="weighted",
        tests=("parallel/test_triton_log_prob.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/log_prob/triton_kernels.py",
        "_add",
        old="tl.where(inside, tl.exp(t), 0.0)",
        new="tl.exp(t)",
        tests=("parallel/test_triton_log_prob.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/log_prob/triton_kernels.py",
        "_gradient",
        old="tl.where(p == 0.0, 0.0, p * (g + g_entropy * (log_p + entropy)))",
        new="tl.where(p > 0.0, p * (g + g_entropy * (log_p + entropy)), 0.0)",
        tests=("parallel/test_triton_log_prob.py::test_a_logit_that_is_no_number_is_felt",),
    ),
    Mutant(
        "parallel/log_prob/triton_ops.py",
        "_launch_gradient",
        old="by_log_prob.stride(0)",
        new="1",
        tests=("parallel/test_triton_log_prob.py::test_gradients_that_are_one_number_and_a_second_backward",),
    ),
    Mutant(
        "parallel/log_prob/vocabulary.py",
        "chunk_softmax",
        old="below /= space.kernels.undivided",
        new="pass",
        tests=("parallel/test_two_ranks.py::test_log_probs_of_a_vocabulary_over_two_ranks",),
    ),
)
