"""Log-prob and entropy in chunks over a split vocabulary, against log_softmax of whole logits and its autograd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.log_prob import token_log_probs
from aspo_megatron.parallel.topology import Topology, process_grid
from distributed import Ranks

from .memory import Allocations

TOKENS, HIDDEN, VOCAB, PADDING = 23, 7, 41, 5


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1) as grid:
        yield grid


@dataclass(frozen=True)
class Problem:
    """Inputs, and the gradients that come down to log-probs and entropy. `weight` has `PADDING` rows too many."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    upstream: tuple[Tensor, Tensor]

    def to(self, dtype: torch.dtype) -> Problem:
        up = self.upstream
        return Problem(self.hidden.to(dtype), self.weight.to(dtype), self.targets, (up[0].to(dtype), up[1].to(dtype)))


@dataclass(frozen=True)
class Answer:
    log_probs: Tensor
    entropy: Tensor
    grad_hidden: Tensor
    grad_weight: Tensor


def make_problem(tokens: int = TOKENS, scale: float = 1.0, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # Padding rows that would win every maximum, if they took part.
    weight = torch.cat([normal(VOCAB, HIDDEN), 100 * normal(PADDING, HIDDEN)])
    targets = torch.randint(0, VOCAB, (tokens,), generator=generator)
    targets[:2] = torch.tensor([0, VOCAB - 1])[: len(targets)]
    return Problem(scale * normal(tokens, HIDDEN), weight, targets, (normal(tokens), normal(tokens)))


def expected(problem: Problem, temperature: float) -> Answer:
    hidden, weight = (t.double().clone().requires_grad_() for t in (problem.hidden, problem.weight))
    log_p = torch.log_softmax(hidden @ weight[:VOCAB].t() / temperature, dim=-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    log_probs = log_p.gather(1, problem.targets[:, None]).squeeze(1)
    grads = torch.autograd.grad((log_probs, entropy), (hidden, weight), problem.upstream)
    return Answer(log_probs.detach(), entropy.detach(), *grads)


def computed(problem: Problem, temperature: float, chunk: int, group: torch.distributed.ProcessGroup) -> Answer:
    hidden, weight = (t.clone().requires_grad_() for t in (problem.hidden, problem.weight))
    log_probs, entropy = token_log_probs(
        hidden, weight, problem.targets, temperature=temperature, vocab_size=VOCAB, tp_group=group, chunk=chunk
    )
    torch.autograd.backward((log_probs, entropy), [up.to(log_probs.dtype) for up in problem.upstream])
    assert hidden.grad is not None
    assert weight.grad is not None
    return Answer(log_probs.detach(), entropy.detach(), hidden.grad, weight.grad)


def assert_equal(actual: Answer, reference: Answer, tolerance: float) -> None:
    """Equal up to `tolerance`, relative to the largest value where that is above 1."""
    for name in ("log_probs", "entropy", "grad_hidden", "grad_weight"):
        got, want = getattr(actual, name).double(), getattr(reference, name)
        assert got.shape == want.shape
        difference = ((got - want).abs().max() / want.abs().max().clamp(min=1.0)).item() if want.numel() else 0.0
        assert difference <= tolerance, f"{name} differs by {difference}"


@pytest.mark.parametrize("chunk", [1, 5, TOKENS, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("upstream", ["both", "log-probs", "entropy"])
def test_value_and_gradient_in_float64(topology: Topology, chunk: int, temperature: float, upstream: str) -> None:
    problem = make_problem()
    factors = {"both": (1.0, 1.0), "log-probs": (1.0, 0.0), "entropy": (0.0, 1.0)}[upstream]
    scaled = (problem.upstream[0] * factors[0], problem.upstream[1] * factors[1])
    problem = Problem(problem.hidden, problem.weight, problem.targets, scaled)
    answer = computed(problem, temperature, chunk, topology.tp_group)
    assert_equal(answer, expected(problem, temperature), 1e-9)
    assert not answer.grad_weight[VOCAB:].any()


def test_gradient_of_log_probs_alone(topology: Topology) -> None:
    """The entropy takes no part in the loss: autograd hands down no gradient for it."""
    problem = make_problem()
    hidden, weight = problem.hidden.clone().requires_grad_(), problem.weight.clone().requires_grad_()
    log_probs, _ = token_log_probs(
        hidden, weight, problem.targets, temperature=0.9, vocab_size=VOCAB, tp_group=topology.tp_group, chunk=4
    )
    (log_probs * problem.upstream[0]).sum().backward()
    zero = torch.zeros_like(problem.upstream[1])
    want = expected(Problem(problem.hidden, problem.weight, problem.targets, (problem.upstream[0], zero)), 0.9)
    torch.testing.assert_close(hidden.grad, want.grad_hidden, rtol=0, atol=1e-9)
    torch.testing.assert_close(weight.grad, want.grad_weight, rtol=0, atol=1e-9)


def test_no_tokens(topology: Topology) -> None:
    """A rank without response tokens: empty outputs, zero gradients."""
    answer = computed(make_problem(tokens=0), 1.0, 8, topology.tp_group)
    assert answer.log_probs.shape == answer.entropy.shape == (0,)
    assert answer.grad_hidden.shape == (0, HIDDEN)
    assert answer.grad_weight.shape == (VOCAB + PADDING, HIDDEN)
    assert not answer.grad_weight.any()


@pytest.mark.parametrize("bad", [-1, VOCAB, VOCAB + PADDING - 1, VOCAB + PADDING, 10**9])
def test_target_out_of_the_vocabulary(topology: Topology, bad: int) -> None:
    problem = make_problem()
    problem.targets[13] = bad
    with pytest.raises(ValueError, match=rf"target {bad} at position 13 is not in 0\.\.{VOCAB - 1}"):
        computed(problem, 1.0, 4, topology.tp_group)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("entropy_gradient", [True, False])
def test_huge_logits(topology: Topology, dtype: torch.dtype, entropy_gradient: bool) -> None:
    """Logits of +-1e4 leave most of the vocabulary with probability exactly 0."""
    problem = make_problem(scale=2000.0)
    assert (problem.hidden @ problem.weight[:VOCAB].t()).abs().max() > 1e4
    up = problem.upstream
    problem = Problem(problem.hidden, problem.weight, problem.targets, (up[0], up[1] * entropy_gradient)).to(dtype)
    answer = computed(problem, 1.0, 4, topology.tp_group)
    for values in (answer.log_probs, answer.entropy, answer.grad_hidden, answer.grad_weight):
        assert values.isfinite().all()
    assert (answer.log_probs <= 0).all()
    assert (answer.entropy >= 0).all()


@pytest.mark.parametrize("shift", [0.0, 1e2, -1e2, 1e4])
def test_size_of_the_logits_costs_no_digits(topology: Topology, shift: float) -> None:
    """Logits that fp32 holds exactly, all moved by the same amount: log-prob and entropy must not feel it."""
    logits = torch.randint(-64, 64, (TOKENS, VOCAB), generator=torch.Generator().manual_seed(3)).double() / 16 + shift
    hidden, weight = torch.eye(TOKENS, dtype=torch.float64), torch.zeros(VOCAB + PADDING, TOKENS, dtype=torch.float64)
    weight[:VOCAB] = logits.t()
    problem = make_problem()
    problem = Problem(hidden, weight, problem.targets, problem.upstream)
    got, want = computed(problem.to(torch.float32), 1.0, 8, topology.tp_group), expected(problem, 1.0)
    torch.testing.assert_close(got.log_probs.double(), want.log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.entropy.double(), want.entropy, rtol=0, atol=1e-6)


def test_bfloat16_weights_with_float32_sums(topology: Topology) -> None:
    """Errors stay within those of bf16 logits and bf16 products; sums over 4096 tokens add none, whatever the chunk.

    With u = 2^-8, bf16's unit of rounding, and Z the largest logit: logits are off by u Z, hence a log-prob by 2 u Z
    and a probability by a factor of 1 +- 2 u Z. d log p / dz is then off by 2 u Z p, and by u of itself, since it is
    multiplied in bf16.
    """
    problem = make_problem(tokens=4096, scale=0.3).to(torch.bfloat16)
    up = problem.upstream[0].float()
    problem = Problem(problem.hidden, problem.weight, problem.targets, (up, torch.zeros_like(up)))
    exact = Problem(problem.hidden.double(), problem.weight.double(), problem.targets, (up.double(), 0 * up.double()))
    want = expected(exact, 1.0)

    unit = 2.0**-8
    logits = exact.hidden @ exact.weight[:VOCAB].t()
    probs = logits.softmax(-1)
    onehot = torch.nn.functional.one_hot(exact.targets, VOCAB)
    shift = 2 * unit * logits.abs().max()
    off = exact.upstream[0].abs()[:, None] * (probs * torch.expm1(shift) + unit * (onehot - probs).abs())
    product = exact.upstream[0].abs()[:, None] * (onehot - probs).abs()
    for chunk in (16, 4096):
        got = computed(problem, 1.0, chunk, topology.tp_group)
        assert got.log_probs.dtype == got.entropy.dtype == torch.float32
        assert got.grad_hidden.dtype == got.grad_weight.dtype == torch.bfloat16
        assert (got.log_probs - want.log_probs).abs().max() <= shift
        hidden_bound = off @ exact.weight[:VOCAB].abs() + unit * want.grad_hidden.abs()
        assert ((got.grad_hidden - want.grad_hidden).abs() <= hidden_bound).all()
        # Each chunk's product is rounded to bf16, and so is the whole.
        weight_bound = off.t() @ exact.hidden.abs() + unit * (product.t() @ exact.hidden.abs())
        weight_bound += unit * want.grad_weight[:VOCAB].abs()
        assert ((got.grad_weight - want.grad_weight)[:VOCAB].abs() <= weight_bound).all()


def test_memory_does_not_grow_with_tokens_times_vocabulary(topology: Topology) -> None:
    vocab, chunk = 5000, 16

    def measure(tokens: int, dense: bool = False) -> Allocations:
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(tokens, HIDDEN, generator=generator, requires_grad=True)
        weight = torch.randn(vocab, HIDDEN, generator=generator, requires_grad=True)
        targets = torch.randint(0, vocab, (tokens,), generator=generator)
        allocations = Allocations()
        with allocations:
            if dense:
                torch.nn.functional.cross_entropy(hidden @ weight.t(), targets).backward()
                return allocations
            log_probs, entropy = token_log_probs(
                hidden, weight, targets, temperature=0.8, vocab_size=vocab, tp_group=topology.tp_group, chunk=chunk
            )
            (log_probs.sum() + entropy.sum()).backward()
        return allocations

    one, eight = measure(64), measure(8 * 64)
    # A token's own: gradient of its hidden state, log-prob, entropy, log-sum-exp, both upstream gradients, and the
    # check of its target (two bools).
    assert eight.peak - one.peak <= 7 * 64 * (4 * HIDDEN + 5 * 4 + 2)
    assert {shape for shape in eight.shapes if vocab in shape} == {(chunk, vocab), (vocab, HIDDEN)}
    whole_logits = 4 * 8 * 64 * vocab
    assert eight.peak < whole_logits / 5
    assert measure(8 * 64, dense=True).peak > 2 * whole_logits  # so it is seen, where it exists


def shard_answer(tp: int, problem: Problem, temperature: float, chunk: int) -> Answer:
    """One rank's log-probs and entropy, whole gradient of hidden states, and its shard's gradient."""
    with process_grid(ParallelConfig(tp=tp), PlatformConfig(device="cpu"), seed=1) as topology:
        rows = -(-VOCAB // tp)
        padded = torch.nn.functional.pad(problem.weight[:VOCAB], (0, 0, 0, rows * tp - VOCAB), value=50.0)
        shard = padded[topology.tp_rank * rows : (topology.tp_rank + 1) * rows]
        own = Problem(problem.hidden, shard, problem.targets, problem.upstream)
        return computed(own, temperature, chunk, topology.tp_group)


@pytest.mark.distributed
@pytest.mark.timeout(120)
@pytest.mark.parametrize("tp", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_split_vocabulary(ranks: Ranks, tp: int, dtype: torch.dtype, tolerance: float) -> None:
    """41 rows over 2 and 3 ranks: the last shard ends in a padding row."""
    problem = make_problem()
    problem = Problem(problem.hidden, problem.weight / 2, problem.targets, problem.upstream)
    want = expected(problem, 0.8)
    answers = ranks.run(tp, shard_answer, tp, problem.to(dtype), 0.8, 5)
    for answer in answers:
        whole = torch.cat([other.grad_weight for other in answers])
        assert not whole[VOCAB:].any()
        got = Answer(answer.log_probs, answer.entropy, answer.grad_hidden, whole[:VOCAB])
        reference = Answer(want.log_probs, want.entropy, want.grad_hidden, want.grad_weight[:VOCAB])
        assert_equal(got, reference, tolerance)
        assert torch.equal(answer.log_probs, answers[0].log_probs)
        assert torch.equal(answer.grad_hidden, answers[0].grad_hidden)


@pytest.mark.distributed
@pytest.mark.timeout(120)
def test_rank_that_holds_padding_alone(ranks: Ranks) -> None:
    problem = make_problem(tokens=6)
    answers = ranks.run(3, padding_shard_answer, problem)
    want = expected(problem, 1.0)
    for answer in answers:
        torch.testing.assert_close(answer.log_probs, want.log_probs, rtol=0, atol=1e-9)
        torch.testing.assert_close(answer.entropy, want.entropy, rtol=0, atol=1e-9)
        torch.testing.assert_close(answer.grad_hidden, want.grad_hidden, rtol=0, atol=1e-9)
    assert not answers[2].grad_weight.any()


def padding_shard_answer(problem: Problem) -> Answer:
    """Ranks 0 and 1 hold 21 rows each, of which 41 count; all 21 rows of rank 2 are padding."""
    with process_grid(ParallelConfig(tp=3), PlatformConfig(device="cpu"), seed=1) as topology:
        padded = torch.nn.functional.pad(problem.weight[:VOCAB], (0, 0, 0, 3 * 21 - VOCAB), value=50.0)
        shard = padded[topology.tp_rank * 21 : (topology.tp_rank + 1) * 21]
        own = Problem(problem.hidden, shard, problem.targets, problem.upstream)
        return computed(own, 1.0, 4, topology.tp_group)
