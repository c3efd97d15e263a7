"""Triton's kernels for log-probs, interpreted on the CPU: the same numbers as log_softmax of whole logits in fp64.

In small: the interpreter takes milliseconds for each token and block of columns. `test_triton_compiles.py` has what a
compiler makes of the same kernels for a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.parallel.log_prob import triton_ops
from aspo_megatron.parallel.log_prob.autograd import token_log_probs
from aspo_megatron.parallel.log_prob.chunk_kernels import Probabilities, TritonKernels, Upstream
from aspo_megatron.parallel.log_prob.vocabulary import VocabularyShard, Workspace
from distributed import Ranks

from .test_log_prob import (
    HIDDEN,
    PADDING,
    VOCAB,
    WAYS,
    Answer,
    Problem,
    Way,
    assert_equal,
    assert_split_answers,
    both_ways,
    computed,
    expected,
    make_problem,
    on_a_gpu,
    padding_shard_answer,
    shard_answers,
)

BLOCK = 16
"""Of 41 columns, two blocks and a rest."""
T = 0.7


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1) as grid:
        yield grid


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ops, "_BLOCK", BLOCK)


def small_problem(tokens: int = 5, scale: float = 1.0, with_entropy: bool = True) -> Problem:
    problem = make_problem(tokens, scale)
    return replace(problem, upstream=(problem.upstream[0], problem.upstream[1] * with_entropy))


@pytest.mark.parametrize(
    ("chunk", "temperature", "factors"),
    [(3, 0.6, (1.0, 1.0)), (9, 1.7, (1.0, 1.0)), (3, 1.0, (1.0, 0.0)), (2, 0.6, (0.0, 1.0))],
    ids=["chunks", "one-chunk", "log-probs", "entropy"],
)
@both_ways
def test_value_and_gradient_in_float64(
    topology: Topology, chunk: int, temperature: float, factors: tuple[float, float], way: Way
) -> None:
    problem = make_problem(5)
    problem = replace(problem, upstream=(problem.upstream[0] * factors[0], problem.upstream[1] * factors[1]))
    answer = computed(problem, temperature, chunk, topology.tp.group, way, triton=True)
    assert_equal(answer, expected(problem, temperature), 1e-9)
    assert not answer.grad_weight[VOCAB:].any()


@pytest.mark.parametrize("with_entropy", [True, False])
@both_ways
def test_float32_is_as_good_as_plain_kernels(topology: Topology, way: Way, with_entropy: bool) -> None:
    problem = small_problem(with_entropy=with_entropy).to(torch.float32)
    by_triton, plain = (computed(problem, 0.8, 3, topology.tp.group, way, triton=triton) for triton in (True, False))
    assert_equal(by_triton, plain, 1e-6)


@pytest.mark.parametrize("with_entropy", [True, False])
@both_ways
def test_bfloat16_inputs_in_float32(topology: Topology, way: Way, with_entropy: bool) -> None:
    problem = small_problem(8, 0.3, with_entropy).to(torch.bfloat16)
    want = expected(replace(problem, upstream=(problem.upstream[0].double(), problem.upstream[1].double())), T)
    got = computed(problem, T, 3, topology.tp.group, way, triton=True)
    assert got.log_probs.dtype == got.entropy.dtype == torch.float32
    torch.testing.assert_close(got.log_probs.double(), want.log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.entropy.double(), want.entropy, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.grad_hidden.double(), want.grad_hidden, rtol=2.0**-8, atol=1e-5)
    torch.testing.assert_close(got.grad_weight.double(), want.grad_weight, rtol=2.0**-8, atol=1e-3)


@both_ways
def test_no_tokens(topology: Topology, way: Way) -> None:
    answer = computed(make_problem(0), 1.0, 8, topology.tp.group, way, triton=True)
    assert answer.log_probs.shape == answer.entropy.shape == (0,)
    assert answer.grad_hidden.shape == (0, HIDDEN)
    assert not answer.grad_weight.any()


def test_target_out_of_the_vocabulary(topology: Topology) -> None:
    problem = make_problem(5)
    problem.targets[3] = VOCAB
    with pytest.raises(ValueError, match=rf"target {VOCAB} at position 3 is not in 0\.\.{VOCAB - 1}"):
        computed(problem, 1.0, 4, topology.tp.group, triton=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_entropy", [True, False])
@both_ways
def test_huge_logits(topology: Topology, dtype: torch.dtype, with_entropy: bool, way: Way) -> None:
    """Logits of +-1e4 leave most of the vocabulary with probability exactly 0."""
    problem = small_problem(4, 2000.0, with_entropy)
    assert (problem.hidden @ problem.weight[:VOCAB].t()).abs().max() > 1e4
    answer = computed(problem.to(dtype), 1.0, 3, topology.tp.group, way, triton=True)
    for values in (answer.log_probs, answer.entropy, answer.grad_hidden, answer.grad_weight):
        assert values.isfinite().all()
    assert (answer.log_probs <= 0).all()
    assert (answer.entropy >= 0).all()


@pytest.mark.parametrize("shift", [0.0, -1e2, 1e4])
def test_size_of_the_logits_costs_no_digits(topology: Topology, shift: float) -> None:
    """Logits that fp32 holds exactly, all moved by the same amount: values and gradients must not feel it."""
    tokens = 5
    generator = torch.Generator().manual_seed(3)
    logits = torch.randint(-64, 64, (tokens, VOCAB), generator=generator).double() / 16 + shift
    weight = torch.zeros(VOCAB + PADDING, tokens, dtype=torch.float64)
    weight[:VOCAB] = logits.t()
    problem = replace(make_problem(tokens), hidden=torch.eye(tokens, dtype=torch.float64), weight=weight)
    got = computed(problem.to(torch.float32), T, 3, topology.tp.group, triton=True)
    want = expected(problem, T)
    for name in ("log_probs", "entropy", "grad_weight"):
        torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=0, atol=1e-6)


def test_weight_gradient_added_to_a_buffer(topology: Topology) -> None:
    problem = small_problem()
    buffer = torch.full((VOCAB + PADDING, HIDDEN), 0.25, dtype=torch.float64)
    computed(problem, T, 3, topology.tp.group, "token-wise", weight_grad=buffer, triton=True)
    torch.testing.assert_close(buffer, 0.25 + expected(problem, T).grad_weight, rtol=0, atol=1e-9)


def test_gradients_that_are_one_number_and_a_second_backward(topology: Topology) -> None:
    """Of a sum autograd hands down a single number in place of a row of them. The kept logits are used up once."""
    problem = replace(make_problem(5), upstream=(torch.ones(5).double(), torch.zeros(5).double()))
    hidden = problem.hidden.clone().requires_grad_()
    options: dict[str, Any] = {"temperature": T, "vocab_size": VOCAB, "tp_group": topology.tp.group, "chunk": 3}
    log_probs, _ = token_log_probs(hidden, problem.weight, problem.targets, triton=True, **options)
    for _ in range(2):
        (grad,) = torch.autograd.grad(log_probs.sum(), hidden, retain_graph=True)
        torch.testing.assert_close(grad, expected(problem, T).grad_hidden, rtol=0, atol=1e-9)


@pytest.mark.distributed
@pytest.mark.timeout(120)
def test_split_vocabulary(ranks: Ranks) -> None:
    """Over two ranks: the last shard ends in a padding row."""
    problems = [small_problem(), small_problem(with_entropy=False)]
    by_rank = ranks.run(2, shard_answers, 2, problems, 0.8, 3, True)
    assert len(by_rank[0]) == len(problems) * len(WAYS)
    assert_split_answers(by_rank, problems, 1e-9)


@pytest.mark.distributed
@pytest.mark.timeout(120)
def test_rank_that_holds_padding_alone(ranks: Ranks) -> None:
    problem = make_problem(tokens=4)
    answers: list[Answer] = ranks.run(3, padding_shard_answer, problem, "whole", True)
    want = expected(problem, 1.0)
    for answer in answers:
        torch.testing.assert_close(answer.log_probs, want.log_probs, rtol=0, atol=1e-9)
        torch.testing.assert_close(answer.entropy, want.entropy, rtol=0, atol=1e-9)
        torch.testing.assert_close(answer.grad_hidden, want.grad_hidden, rtol=0, atol=1e-9)
    assert not answers[2].grad_weight.any()


@dataclass(frozen=True)
class Rows:
    """Logits as a part of a wider buffer, targets of which two are another rank's, and what is to come of them."""

    logits: Tensor
    local: Tensor
    upstream: Upstream
    stats: Tensor
    gradient: Tensor

    @classmethod
    def draw(cls, dtype: torch.dtype, with_entropy: bool) -> Rows:
        generator = torch.Generator().manual_seed(5)
        buffer = 3 * torch.randn(6, 48, generator=generator, dtype=torch.float64).to(dtype)
        logits, local = buffer[1:, :VOCAB], torch.tensor([0, VOCAB - 1, 16, -1, VOCAB])
        g, g_entropy = torch.randn(2, 5, generator=generator, dtype=torch.float64).to(dtype)
        t = (logits.double() - logits.double().amax(dim=1, keepdim=True)) / T
        log_p = t.log_softmax(dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1)
        chosen = torch.nn.functional.one_hot(local.clamp(0, VOCAB), VOCAB + 1)[:, :VOCAB].double()
        chosen[3] = 0.0
        gradient = g.double()[:, None] * (chosen - log_p.exp())
        if with_entropy:
            gradient -= g_entropy.double()[:, None] * log_p.exp() * (log_p + entropy[:, None])
        sums = (logits.double().amax(dim=1), t.exp().sum(dim=1), (t.exp() * t).sum(dim=1), (chosen * t).sum(dim=1))
        upstream = Upstream(g, g_entropy if with_entropy else None, entropy.to(dtype))
        return cls(logits, local, upstream, torch.stack(sums), gradient / T)

    def probabilities(self) -> Probabilities:
        base, total = self.stats[0].to(self.logits.dtype), self.stats[1]
        return Probabilities(self.logits, base, -total.log().to(self.logits.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_a_part_of_a_buffer(dtype: torch.dtype) -> None:
    rows = Rows.draw(dtype, with_entropy=False)
    before, stats = rows.logits.clone(), torch.full((4, 5), torch.nan, dtype=dtype)
    TritonKernels(T, short=None).sums(rows.logits, rows.local, stats)
    torch.testing.assert_close(stats.double(), rows.stats, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-12)
    assert torch.equal(rows.logits, before)


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradient_in_16_bits_is_that_of_float32_rounded_once(dtype: torch.dtype, with_entropy: bool) -> None:
    """Into a part of a wider buffer, whose rest is left alone. The interpreter cuts off what bf16 cannot hold."""
    rows = Rows.draw(torch.float32, with_entropy)
    before = rows.logits.clone()
    short = torch.full((7, 48), 9.0, dtype=dtype)
    out, factors = TritonKernels(T, short=short[:, :VOCAB]).gradient(rows.probabilities(), rows.upstream, rows.local)
    assert factors is None
    assert out.data_ptr() == short.data_ptr()
    step = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}[dtype]
    assert ((out.double() - rows.gradient).abs() <= step * rows.gradient.abs() + 1e-6).all()
    assert (short[5:] == 9.0).all()
    assert (short[:, VOCAB:] == 9.0).all()
    assert torch.equal(rows.logits, before)


@pytest.mark.parametrize("with_entropy", [False, True])
def test_gradient_in_place(with_entropy: bool) -> None:
    rows = Rows.draw(torch.float64, with_entropy)
    out, _ = TritonKernels(T, short=None).gradient(rows.probabilities(), rows.upstream, rows.local)
    assert out is rows.logits
    torch.testing.assert_close(out, rows.gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("column", [0, 20, VOCAB - 1])  # the first, one of a whole block, one of the rest
def test_a_logit_that_is_no_number_is_felt(column: int) -> None:
    """In its own row: in the sums, and then everywhere in the gradient."""
    rows = Rows.draw(torch.float32, with_entropy=True)
    rows.logits[2, column] = torch.nan
    stats = torch.zeros(4, 5)
    kernels = TritonKernels(T, short=None)
    kernels.sums(rows.logits, rows.local, stats)
    assert stats[1:3].isnan().all(dim=0).tolist() == [False, False, True, False, False]
    found = Probabilities(rows.logits, stats[0], -stats[1].log())
    out, _ = kernels.gradient(found, rows.upstream, rows.local)
    assert out.isnan().all(dim=1).tolist() == [False, False, True, False, False]
    assert out.isnan().any(dim=1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize(("short", "most"), [(True, 14), (False, 16)])
def test_bytes_that_a_logit_costs(short: bool, most: int, with_entropy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the kernels load and store, and the 4 that the product writes; a token's own numbers come on top."""
    from triton.runtime.interpreter import interpreter_builder

    moved: Counter[str] = Counter()
    load, store = interpreter_builder.create_masked_load, interpreter_builder.create_masked_store

    def loaded(pointers: Any, mask: Any, *rest: Any) -> Any:
        value = load(pointers, mask, *rest)
        moved["loaded"] += int(np.count_nonzero(mask.data)) * value.data.itemsize
        return value

    def stored(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        moved["stored"] += int(np.count_nonzero(mask.data)) * value.data.itemsize
        return store(pointers, value, mask, *rest)

    monkeypatch.setattr(interpreter_builder, "create_masked_load", loaded)
    monkeypatch.setattr(interpreter_builder, "create_masked_store", stored)
    monkeypatch.setattr(triton_ops, "_BLOCK", 4096)
    tokens, columns = 2, 20_001
    logits, buffer = torch.randn(tokens, columns), torch.empty(tokens, columns, dtype=torch.bfloat16)
    kernels, stats = TritonKernels(T, short=buffer if short else None), torch.empty(4, tokens)
    local, values = torch.zeros(tokens, dtype=torch.int64), torch.randn(tokens)
    kernels.sums(logits, local, stats)
    assert moved["loaded"] >= 4 * tokens * columns  # so it is counted
    upstream = Upstream(values, values if with_entropy else None, values)
    kernels.gradient(Probabilities(logits, stats[0], -stats[1].log()), upstream, local)
    assert most <= 4 + moved.total() / logits.numel() < most + 0.02


NO_PASS = ("aten.slice.Tensor", "aten.t.default", "aten.new_zeros.default")
"""Operations that have a chunk as their argument and do not read it."""


@both_ways
@pytest.mark.parametrize("with_entropy", [True, False])
def test_passes_over_a_chunk_on_a_gpu(topology: Topology, way: Way, with_entropy: bool) -> None:
    """Between the product and those of the gradient two operations see three chunks' logits, and no other does.

    Without values: what the host asks for is an error.
    """
    operations = on_a_gpu(way, topology, with_entropy, triton=True, tokens=12)
    passes = Counter(
        name
        for name, args, result in operations.made
        if name not in NO_PASS
        and any(isinstance(each, Tensor) and each.shape == (4, VOCAB) for each in (*args, result))
    )
    again = 2 if way == "whole" else 0  # chunks whose logits backward computes anew
    assert passes == {
        "aten.mm.dtype_out": 3 + again,
        "aspo_megatron.log_prob_sums.default": 3,
        "aspo_megatron.log_prob_gradient.default": 3,
        "aten.mm.dtype": 3,
    }


def test_rows_of_a_gpus_buffers_are_aligned(topology: Topology) -> None:
    """Those of 41 words begin at multiples of 16 elements: 64 bytes of the logits, 32 of their gradient."""
    weight = torch.empty(VOCAB + PADDING, HIDDEN, dtype=torch.bfloat16, device="meta")
    space = Workspace(VocabularyShard.of(weight, VOCAB, topology.tp.group, 1.0, triton=True), 6)
    assert space.short is not None
    for buffer in (space.logits, space.short):
        assert (buffer.shape, buffer.stride()) == ((6, VOCAB), (48, 1))
