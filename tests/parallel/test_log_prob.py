"""Log-prob and entropy in chunks over a split vocabulary, against log_softmax of whole logits and its autograd.

Both ways to the gradient: `whole` recomputes (token_log_probs), `token-wise` does not (token_objective).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.parallel.log_prob.autograd import token_log_probs, token_objective
from aspo_megatron.parallel.log_prob.chunk_kernels import Probabilities, Upstream, located
from aspo_megatron.parallel.log_prob.logit_gradient import add_gradients
from aspo_megatron.parallel.log_prob.vocabulary import (
    VocabularyShard,
    Workspace,
    chunk_for,
    chunk_logits,
    chunk_softmax,
)
from distributed import Ranks

from .memory import Allocations

TOKENS, HIDDEN, VOCAB, PADDING = 23, 7, 41, 5

Way = Literal["whole", "token-wise"]
WAYS: tuple[Way, ...] = ("whole", "token-wise")
both_ways = pytest.mark.parametrize("way", WAYS)


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


def computed(
    problem: Problem,
    temperature: float,
    chunk: int,
    group: torch.distributed.ProcessGroup,
    way: Way = "whole",
    weight_grad: Tensor | None = None,
    triton: bool = False,
    sum_hidden_grad: bool = True,
) -> Answer:
    hidden, weight = (t.clone().requires_grad_() for t in (problem.hidden, problem.weight))
    options: dict[str, Any] = {"temperature": temperature, "vocab_size": VOCAB, "tp_group": group, "chunk": chunk}
    options |= {"triton": triton, "sum_hidden_grad": sum_hidden_grad}
    if way == "whole":
        log_probs, entropy = token_log_probs(hidden, weight, problem.targets, **options)
        torch.autograd.backward((log_probs, entropy), [up.to(log_probs.dtype) for up in problem.upstream])
    else:
        asked = []

        def derivative(part: slice, log_probs: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor | None]:
            asked.append((part, log_probs.clone(), entropy.clone()))
            by_log_prob, by_entropy = (up[part].to(log_probs.dtype) for up in problem.upstream)
            return by_log_prob, by_entropy if problem.upstream[1].any() else None

        anchor, log_probs, entropy = token_objective(
            hidden, weight, problem.targets, derivative, **options, weight_grad=weight_grad
        )
        assert not log_probs.requires_grad
        assert not entropy.requires_grad
        assert anchor.item() == 0.0
        anchor.backward()
        for part, given_log_probs, given_entropy in asked:  # each once, in order, and what was returned
            assert torch.equal(log_probs[part], given_log_probs)
            assert torch.equal(entropy[part], given_entropy)
        assert [i for part, _, _ in asked for i in range(len(problem.targets))[part]] == list(range(len(log_probs)))
    assert hidden.grad is not None
    if weight_grad is not None:
        assert weight.grad is None
        return Answer(log_probs.detach(), entropy.detach(), hidden.grad, weight_grad)
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
@both_ways
def test_value_and_gradient_in_float64(
    topology: Topology, chunk: int, temperature: float, upstream: str, way: Way
) -> None:
    problem = make_problem()
    factors = {"both": (1.0, 1.0), "log-probs": (1.0, 0.0), "entropy": (0.0, 1.0)}[upstream]
    scaled = (problem.upstream[0] * factors[0], problem.upstream[1] * factors[1])
    problem = Problem(problem.hidden, problem.weight, problem.targets, scaled)
    answer = computed(problem, temperature, chunk, topology.tp.group, way)
    assert_equal(answer, expected(problem, temperature), 1e-9)
    assert not answer.grad_weight[VOCAB:].any()


def test_gradient_of_log_probs_alone(topology: Topology) -> None:
    """The entropy takes no part in the loss: autograd hands down no gradient for it."""
    problem = make_problem()
    hidden, weight = problem.hidden.clone().requires_grad_(), problem.weight.clone().requires_grad_()
    log_probs, _ = token_log_probs(
        hidden, weight, problem.targets, temperature=0.9, vocab_size=VOCAB, tp_group=topology.tp.group, chunk=4
    )
    (log_probs * problem.upstream[0]).sum().backward()
    zero = torch.zeros_like(problem.upstream[1])
    want = expected(Problem(problem.hidden, problem.weight, problem.targets, (problem.upstream[0], zero)), 0.9)
    torch.testing.assert_close(hidden.grad, want.grad_hidden, rtol=0, atol=1e-9)
    torch.testing.assert_close(weight.grad, want.grad_weight, rtol=0, atol=1e-9)


@both_ways
def test_no_tokens(topology: Topology, way: Way) -> None:
    """A rank without response tokens: empty outputs, zero gradients."""
    answer = computed(make_problem(tokens=0), 1.0, 8, topology.tp.group, way)
    assert answer.log_probs.shape == answer.entropy.shape == (0,)
    assert answer.grad_hidden.shape == (0, HIDDEN)
    assert answer.grad_weight.shape == (VOCAB + PADDING, HIDDEN)
    assert not answer.grad_weight.any()


@pytest.mark.parametrize("bad", [-1, VOCAB, VOCAB + PADDING - 1, VOCAB + PADDING, 10**9])
@both_ways
def test_target_out_of_the_vocabulary(topology: Topology, bad: int, way: Way) -> None:
    problem = make_problem()
    problem.targets[13] = bad
    with pytest.raises(ValueError, match=rf"target {bad} at position 13 is not in 0\.\.{VOCAB - 1}"):
        computed(problem, 1.0, 4, topology.tp.group, way)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("entropy_gradient", [True, False])
@both_ways
def test_huge_logits(topology: Topology, dtype: torch.dtype, entropy_gradient: bool, way: Way) -> None:
    """Logits of +-1e4 leave most of the vocabulary with probability exactly 0."""
    problem = make_problem(scale=2000.0)
    assert (problem.hidden @ problem.weight[:VOCAB].t()).abs().max() > 1e4
    up = problem.upstream
    problem = Problem(problem.hidden, problem.weight, problem.targets, (up[0], up[1] * entropy_gradient)).to(dtype)
    answer = computed(problem, 1.0, 4, topology.tp.group, way)
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
    got, want = computed(problem.to(torch.float32), 1.0, 8, topology.tp.group), expected(problem, 1.0)
    torch.testing.assert_close(got.log_probs.double(), want.log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.entropy.double(), want.entropy, rtol=0, atol=1e-6)


@both_ways
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_bfloat16_inputs_in_float32(topology: Topology, way: Way, entropy_gradient: bool) -> None:
    """Products and sums are those of fp32, whatever the chunk; only gradients are rounded to bf16, once, at the end."""
    problem = make_problem(tokens=4096, scale=0.3).to(torch.bfloat16)
    up = tuple(upstream.float() for upstream in make_problem(tokens=4096).upstream)
    problem = replace(problem, upstream=(up[0], up[1] * entropy_gradient))
    exact = replace(
        problem,
        hidden=problem.hidden.double(),
        weight=problem.weight.double(),
        upstream=(up[0].double(), up[1].double() * entropy_gradient),
    )
    want = expected(exact, 0.7)
    for chunk in (16, 4096):
        got = computed(problem, 0.7, chunk, topology.tp.group, way)
        assert got.log_probs.dtype == got.entropy.dtype == torch.float32
        assert got.grad_hidden.dtype == got.grad_weight.dtype == torch.bfloat16
        torch.testing.assert_close(got.log_probs.double(), want.log_probs, rtol=0, atol=1e-5)
        torch.testing.assert_close(got.entropy.double(), want.entropy, rtol=0, atol=1e-5)
        torch.testing.assert_close(got.grad_hidden.double(), want.grad_hidden, rtol=2.0**-8, atol=1e-5)
        torch.testing.assert_close(got.grad_weight.double(), want.grad_weight, rtol=2.0**-8, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_gradient_added_to_a_buffer(topology: Topology, dtype: torch.dtype) -> None:
    """Two micro-batches, and what tied embeddings have added before: all in fp32, nothing is left to autograd."""
    first, second = (make_problem(seed=seed).to(dtype) for seed in (1, 2))
    second = replace(second, weight=first.weight)
    buffer = torch.full((VOCAB + PADDING, HIDDEN), 0.25)
    for problem in (first, second):
        answer = computed(problem, 1.3, 5, topology.tp.group, "token-wise", weight_grad=buffer)
        up = (problem.upstream[0].double(), problem.upstream[1].double())
        want = expected(replace(problem, upstream=up), 1.3)
        torch.testing.assert_close(answer.grad_hidden.double(), want.grad_hidden, rtol=2.0**-8, atol=1e-5)
    total = 0.25 + sum(
        expected(replace(p, upstream=(p.upstream[0].double(), p.upstream[1].double())), 1.3).grad_weight
        for p in (first, second)
    )
    torch.testing.assert_close(buffer.double(), total, rtol=0, atol=1e-4 if dtype == torch.bfloat16 else 1e-5)
    assert (buffer[VOCAB:] == 0.25).all()


def objective(problem: Problem, group: torch.distributed.ProcessGroup, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    def derivative(part: slice, log_probs: Tensor, entropy: Tensor) -> tuple[Tensor, None]:
        return problem.upstream[0][part], None

    return token_objective(
        problem.hidden,
        problem.weight,
        problem.targets,
        derivative,
        temperature=1.0,
        vocab_size=VOCAB,
        tp_group=group,
        chunk=4,
        **options,
    )


def test_anchor_is_scaled_and_works_once(topology: Topology) -> None:
    problem = make_problem()
    problem.hidden.requires_grad_(), problem.weight.requires_grad_()
    anchor, _, _ = objective(problem, topology.tp.group)
    (-2.5 * anchor).backward(retain_graph=True)
    zero = torch.zeros_like(problem.upstream[1])
    want = expected(replace(problem, upstream=(problem.upstream[0], zero)), 1.0)
    torch.testing.assert_close(problem.hidden.grad, -2.5 * want.grad_hidden, rtol=0, atol=1e-9)
    torch.testing.assert_close(problem.weight.grad, -2.5 * want.grad_weight, rtol=0, atol=1e-9)
    with pytest.raises(RuntimeError, match="works once"):
        anchor.backward()


def test_anchor_of_an_accumulated_gradient_is_not_scaled(topology: Topology) -> None:
    problem = make_problem()
    problem.hidden.requires_grad_(), problem.weight.requires_grad_()
    anchor, _, _ = objective(problem, topology.tp.group, weight_grad=torch.zeros_like(problem.weight))
    with pytest.raises(RuntimeError, match=r"gradient of the anchor is 0\.5, not 1"):
        (0.5 * anchor).backward()


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
@both_ways
def test_frozen_input(topology: Topology, frozen: str, way: Way) -> None:
    problem = make_problem()
    problem = replace(problem, upstream=(problem.upstream[0], torch.zeros_like(problem.upstream[1])))
    other = {"hidden": problem.weight, "weight": problem.hidden}[frozen].requires_grad_()
    if way == "token-wise":
        objective(problem, topology.tp.group)[0].backward()
    else:
        log_probs, _ = token_log_probs(
            problem.hidden,
            problem.weight,
            problem.targets,
            temperature=1.0,
            vocab_size=VOCAB,
            tp_group=topology.tp.group,
            chunk=4,
        )
        log_probs.backward(problem.upstream[0])
    want = expected(problem, 1.0)
    torch.testing.assert_close(
        other.grad, want.grad_weight if frozen == "hidden" else want.grad_hidden, rtol=0, atol=1e-9
    )
    assert getattr(problem, frozen).grad is None


def test_second_backward_of_whole_responses(topology: Topology) -> None:
    """The chunk that forward kept is used up by then."""
    problem = make_problem()
    hidden = problem.hidden.clone().requires_grad_()
    log_probs, entropy = token_log_probs(
        hidden, problem.weight, problem.targets, temperature=1.0, vocab_size=VOCAB, tp_group=topology.tp.group, chunk=9
    )
    first, second = (
        torch.autograd.grad((log_probs, entropy), hidden, problem.upstream, retain_graph=True)[0] for _ in range(2)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_without_gradient_nothing_more_is_computed(topology: Topology) -> None:
    problem = make_problem()
    problem.hidden.requires_grad_(), problem.weight.requires_grad_()
    want = expected(problem, 1.0)

    def never(part: slice, log_probs: Tensor, entropy: Tensor) -> tuple[Tensor, None]:
        raise AssertionError("no gradient is needed")

    options: dict[str, Any] = {"temperature": 1.0, "vocab_size": VOCAB, "tp_group": topology.tp.group, "chunk": 4}
    arguments = problem.hidden, problem.weight, problem.targets
    with torch.no_grad(), Allocations() as allocations:
        _, log_probs, entropy = token_objective(*arguments, never, **options)
        again = token_log_probs(*arguments, **options)
    for values, wanted in ((log_probs, want.log_probs), (entropy, want.entropy)):
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-9)
    assert torch.equal(again[0], log_probs)
    assert torch.equal(again[1], entropy)
    assert problem.hidden.shape not in allocations.shapes
    assert problem.weight.shape not in allocations.shapes


@pytest.mark.parametrize(
    ("way", "chunk", "products"),
    [("whole", 64, 3), ("token-wise", 64, 3), ("whole", 16, 3 + 3 / 4), ("token-wise", 16, 3)],
)
def test_number_of_products(topology: Topology, way: Way, chunk: int, products: float) -> None:
    """Three products of tokens x hidden size x vocabulary; the recomputation is one more, less the last chunk."""
    problem = make_problem(tokens=64)

    def in_place(total: Any, left: Any, right: Any, **_: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        computed(problem, 1.0, chunk, topology.tp.group, way)
    assert counter.get_total_flops() == products * 2 * 64 * HIDDEN * VOCAB


MEMORY_VOCAB, MEMORY_CHUNK, MEMORY_HIDDEN = 20_000, 256, 3


def allocated(way: Way | Literal["dense"], tokens: int, topology: Topology, dtype: torch.dtype) -> Allocations:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, MEMORY_HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(MEMORY_VOCAB, MEMORY_HIDDEN, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, MEMORY_VOCAB, (tokens,), generator=generator)
    options: dict[str, Any] = {
        "temperature": 0.8,
        "vocab_size": MEMORY_VOCAB,
        "tp_group": topology.tp.group,
        "chunk": MEMORY_CHUNK,
    }
    with Allocations() as allocations:
        if way == "dense":
            torch.nn.functional.cross_entropy((hidden @ weight.t()).float(), targets).backward()
        elif way == "whole":
            log_probs, entropy = token_log_probs(hidden, weight, targets, **options)
            (log_probs.sum() + entropy.sum()).backward()
        else:
            token_objective(hidden, weight, targets, lambda part, log_p, entropy: (log_p, entropy), **options)[
                0
            ].backward()
    return allocations


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_one_buffer_of_a_chunk(topology: Topology, way: Way, dtype: torch.dtype) -> None:
    """Within 1.3 of the formula in docs/log_prob.md; more tokens add what a token has of its own, and no logits."""
    formula = 4 * MEMORY_CHUNK * MEMORY_VOCAB
    one, eight = (allocated(way, tokens, topology, dtype) for tokens in (MEMORY_CHUNK, 8 * MEMORY_CHUNK))
    assert formula <= one.peak <= 1.3 * formula
    assert formula <= eight.peak <= 1.3 * formula
    # A token's own: gradient of its hidden state (and a scaled copy), log-prob, entropy, peak, log-sum-exp, two
    # upstream gradients, and the check of its target (two bools).
    assert eight.peak - one.peak <= 7 * MEMORY_CHUNK * (2 * 4 * MEMORY_HIDDEN + 6 * 4 + 2)
    whole_logits = 4 * 8 * MEMORY_CHUNK * MEMORY_VOCAB
    assert eight.peak < whole_logits / 5
    assert allocated("dense", 8 * MEMORY_CHUNK, topology, dtype).peak > 2 * whole_logits  # so it is seen, where it is


@pytest.mark.parametrize(
    ("dtype", "device", "budget", "tokens"),
    [
        (torch.float32, "cpu", 200_000_000, 1000),
        (torch.bfloat16, "cpu", 200_000_000, 1000),
        (torch.bfloat16, "meta", 300_000_000, 1000),
        (torch.float64, "cpu", 400_000_000, 1000),
        (torch.float32, "cpu", 1, 1),
        (torch.float32, "cpu", None, 256 * 2**20 // 200_000),
    ],
)
def test_chunk_of_a_memory_budget(dtype: torch.dtype, device: str, budget: int | None, tokens: int) -> None:
    assert chunk_for(torch.empty(50_000, 8, dtype=dtype, device=device), budget) == tokens


@pytest.mark.parametrize(
    ("rows", "memory", "tokens"),
    [
        (151_936, 80 * 10**9, 4096),  # 3.5 GiB of 3.7
        (151_936, 24 << 30, (24 << 30) // 20 // (6 * 151_936)),
        (151_936, 8 << 30, 2**30 // (6 * 151_936)),  # a twentieth is less than 1 GiB
        (18_992, 80 * 10**9, 2**30 // (6 * 18_992)),  # an eighth of the vocabulary: 4,096 tokens are less than 1 GiB
    ],
)
def test_chunk_of_a_gpu(rows: int, memory: int, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 tokens, at most a twentieth of the memory, at least 1 GiB; GPUs that tell of some bytes less agree."""
    weight = torch.empty(rows, 8, dtype=torch.bfloat16, device="meta")
    assert chunk_for(weight, memory=memory) == tokens
    told = SimpleNamespace(total_memory=memory - (memory % 2**30) // 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told)
    assert chunk_for(weight) == tokens


def test_shapes_and_dtypes_on_a_gpu(topology: Topology) -> None:
    """Without values: the products of 16-bit weights on a GPU take their own way, which no CPU can go."""
    hidden, weight = (torch.empty(rows, HIDDEN, dtype=torch.bfloat16, device="meta") for rows in (6, VOCAB + PADDING))
    targets = torch.zeros(6, dtype=torch.int64, device="meta")
    shard = VocabularyShard.of(weight, VOCAB, topology.tp.group, 0.5, triton=False)
    space = Workspace(shard, 8)
    softmax = chunk_softmax(chunk_logits(hidden, shard, space), targets, shard, space)
    exponentials = softmax.probabilities.values
    assert (exponentials.shape, exponentials.dtype) == ((6, VOCAB), torch.float32)
    assert (softmax.log_probs.shape, softmax.entropy.shape) == ((6,), (6,))
    values, grad_hidden = softmax.log_probs, torch.empty_like(hidden)
    grad_weight = torch.empty_like(weight, dtype=torch.float32)
    for by_entropy in (values, None):
        upstream = Upstream(values, by_entropy, values)
        add_gradients(softmax.probabilities, upstream, hidden, targets, shard, space, grad_hidden, grad_weight)
    assert space.short is not None
    assert space.short.dtype == torch.bfloat16


class Operations(TorchDispatchMode):
    """Notes every operation: its name, its arguments, what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.made.append((str(func), args, result))
        return result


def on_a_gpu(way: Way, topology: Topology, with_entropy: bool, triton: bool = False, tokens: int = 9) -> Operations:
    """Forward and backward of meta tensors, which have no values to wait for."""
    hidden, weight = (
        torch.empty(rows, HIDDEN, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for rows in (tokens, VOCAB + PADDING)
    )
    targets = torch.zeros(tokens, dtype=torch.int64, device="meta")
    options: dict[str, Any] = {"temperature": 0.7, "vocab_size": VOCAB, "tp_group": topology.tp.group, "chunk": 4}
    options["triton"] = triton
    with Operations() as operations:
        if way == "whole":
            log_probs, entropy = token_log_probs(hidden, weight, targets, **options)
            (log_probs + entropy if with_entropy else log_probs).sum().backward()
        else:
            anchor, _, _ = token_objective(
                hidden,
                weight,
                targets,
                lambda part, log_p, entropy: (log_p, entropy if with_entropy else None),
                weight_grad=torch.empty_like(weight, dtype=torch.float32),
                **options,
            )
            anchor.backward()
    return operations


@both_ways
@pytest.mark.parametrize("with_entropy", [True, False])
def test_nothing_waits_for_a_gpu(topology: Topology, way: Way, with_entropy: bool) -> None:
    """A value that the host asks for is an error here. So is what only values tell: whether the entropy counts."""
    operations = on_a_gpu(way, topology, with_entropy)
    names = {name for name, _, _ in operations.made}
    assert ("aten.special_entr.out" in names) == with_entropy
    assert "aten._assert_async.msg" in names


@pytest.mark.parametrize("with_entropy", [True, False])
def test_sums_over_the_vocabulary_are_not_rounded_on_the_way(topology: Topology, with_entropy: bool) -> None:
    """cuBLAS adds the parts of a long sum in the dtype of the product's output, which must not be bf16 then."""
    hidden, weight = (torch.empty(rows, HIDDEN, dtype=torch.bfloat16, device="meta") for rows in (6, VOCAB))
    shard = VocabularyShard.of(weight, VOCAB, topology.tp.group, 0.5, triton=False)
    space = Workspace(shard, 6)
    values, targets = torch.empty(6, device="meta"), torch.zeros(6, dtype=torch.int64, device="meta")
    upstream = Upstream(values, values if with_entropy else None, values)
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight, dtype=torch.float32)
    with Operations() as operations:
        add_gradients(
            Probabilities(space.logits, values, values),
            upstream,
            hidden,
            targets,
            shard,
            space,
            grad_hidden,
            grad_weight,
        )
    products = [(args[0], result) for name, args, result in operations.made if ".mm" in name]
    assert [result.dtype for left, result in products if left.size(1) == VOCAB] == [torch.float32]
    assert grad_hidden.dtype == torch.bfloat16


def test_each_target_is_in_one_shard(topology: Topology) -> None:
    """41 rows as 14, 14 and 13: the first and last of each, and what is near."""
    targets = torch.arange(VOCAB)
    counted = torch.zeros(VOCAB, dtype=torch.int64)
    for first, rows in ((0, 14), (14, 14), (28, 13)):
        shard = VocabularyShard(torch.empty(rows, HIDDEN), first, 14, topology.tp.group, 1.0, triton=False)
        mine, row = located(shard.local(targets), rows)
        assert torch.equal(row[mine], torch.arange(rows))
        assert ((row >= 0) & (row < rows)).all()
        counted += mine
    assert (counted == 1).all()


def shard_answers(
    tp: int, problems: list[Problem], temperature: float, chunk: int, triton: bool = False
) -> list[Answer]:
    """One rank's log-probs and entropy, whole gradient of hidden states, and its shard's gradient; both ways each."""
    with process_grid(ParallelConfig(tp=tp), PlatformConfig(device="cpu"), seed=1) as topology:
        answers = []
        for problem in problems:
            rows = -(-VOCAB // tp)
            padded = torch.nn.functional.pad(problem.weight[:VOCAB], (0, 0, 0, rows * tp - VOCAB), value=50.0)
            own = replace(problem, weight=padded[topology.tp.rank * rows : (topology.tp.rank + 1) * rows])
            answers += [computed(own, temperature, chunk, topology.tp.group, way, triton=triton) for way in WAYS]
        return answers


@pytest.mark.distributed
@pytest.mark.timeout(120)
@pytest.mark.parametrize("tp", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_split_vocabulary(ranks: Ranks, tp: int, dtype: torch.dtype, tolerance: float) -> None:
    """41 rows over 2 and 3 ranks: the last shard ends in a padding row. With and without a gradient of the entropy."""
    problem = make_problem()
    problem = replace(problem, weight=problem.weight / 2)
    problems = [problem, replace(problem, upstream=(problem.upstream[0], torch.zeros_like(problem.upstream[1])))]
    by_rank = ranks.run(tp, shard_answers, tp, [problem.to(dtype) for problem in problems], 0.8, 5)
    assert_split_answers(by_rank, problems, tolerance)


def assert_split_answers(by_rank: Sequence[list[Answer]], problems: list[Problem], tolerance: float) -> None:
    """Those of `shard_answers` at temperature 0.8: the same on all ranks, together the whole gradient of the weight."""
    for number, answers in enumerate(zip(*by_rank, strict=True)):
        want = expected(problems[number // len(WAYS)], 0.8)
        for answer in answers:
            whole = torch.cat([other.grad_weight for other in answers])
            assert not whole[VOCAB:].any()
            got = Answer(answer.log_probs, answer.entropy, answer.grad_hidden, whole[:VOCAB])
            reference = Answer(want.log_probs, want.entropy, want.grad_hidden, want.grad_weight[:VOCAB])
            assert_equal(got, reference, tolerance)
            assert torch.equal(answer.log_probs, answers[0].log_probs)
            assert torch.equal(answer.grad_hidden, answers[0].grad_hidden)


def parts_of_the_gradient(problem: Problem, way: Way) -> Tensor:
    """What one of two ranks has of the gradient of hidden states."""
    with process_grid(ParallelConfig(tp=2), PlatformConfig(device="cpu"), seed=1) as topology:
        rows = -(-VOCAB // 2)
        own = replace(problem, weight=problem.weight[topology.tp.rank * rows : (topology.tp.rank + 1) * rows])
        with Operations() as operations:
            answer = computed(own, 0.8, 5, topology.tp.group, way, sum_hidden_grad=False)
        assert not any(name.startswith("c10d.allreduce") for name, _, _ in operations.made)
        return answer.grad_hidden


@pytest.mark.distributed
@pytest.mark.timeout(120)
@both_ways
def test_parts_of_the_gradient_are_left_to_be_summed_elsewhere(ranks: Ranks, way: Way) -> None:
    problem = make_problem()
    first, second = ranks.run(2, parts_of_the_gradient, problem, way)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first + second, expected(problem, 0.8).grad_hidden, rtol=0, atol=1e-9)


def collectives_of_a_chunk(problem: Problem) -> list[str]:
    with process_grid(ParallelConfig(tp=2), PlatformConfig(device="cpu"), seed=1) as topology:
        rows = -(-VOCAB // 2)
        own = replace(problem, weight=problem.weight[topology.tp.rank * rows : (topology.tp.rank + 1) * rows])
        with Operations() as operations:
            computed(own, 1.0, TOKENS, topology.tp.group, "token-wise")
        return [name for name, _, _ in operations.made if name.startswith("c10d")]


@pytest.mark.distributed
@pytest.mark.timeout(120)
def test_shards_are_gathered_in_one_piece(ranks: Ranks) -> None:
    """Into the memory that they are read from: a list of tensors would be gathered elsewhere and copied."""
    for names in ranks.run(2, collectives_of_a_chunk, make_problem()):
        assert names == ["c10d._allgather_base_.default", "c10d.allreduce_.default"]


@pytest.mark.distributed
@pytest.mark.timeout(120)
@both_ways
def test_rank_that_holds_padding_alone(ranks: Ranks, way: Way) -> None:
    problem = make_problem(tokens=6)
    answers = ranks.run(3, padding_shard_answer, problem, way)
    want = expected(problem, 1.0)
    for answer in answers:
        torch.testing.assert_close(answer.log_probs, want.log_probs, rtol=0, atol=1e-9)
        torch.testing.assert_close(answer.entropy, want.entropy, rtol=0, atol=1e-9)
        torch.testing.assert_close(answer.grad_hidden, want.grad_hidden, rtol=0, atol=1e-9)
    assert not answers[2].grad_weight.any()


def padding_shard_answer(problem: Problem, way: Way, triton: bool = False) -> Answer:
    """Ranks 0 and 1 hold 21 rows each, of which 41 count; all 21 rows of rank 2 are padding."""
    with process_grid(ParallelConfig(tp=3), PlatformConfig(device="cpu"), seed=1) as topology:
        padded = torch.nn.functional.pad(problem.weight[:VOCAB], (0, 0, 0, 3 * 21 - VOCAB), value=50.0)
        shard = padded[topology.tp.rank * 21 : (topology.tp.rank + 1) * 21]
        own = Problem(problem.hidden, shard, problem.targets, problem.upstream)
        return computed(own, 1.0, 4, topology.tp.group, way, triton=triton)


ALONE = """
import sys
import torch
import torch.distributed as dist
from aspo_megatron.parallel.log_prob import token_log_probs

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
hidden, weight = torch.randn(5, 4), torch.randn(9, 4)
found, _ = token_log_probs(
    hidden, weight, torch.arange(5), temperature=1.0, vocab_size=9, tp_group=dist.group.WORLD, chunk=2
)
expected = (hidden @ weight.T).log_softmax(dim=1)[range(5), range(5)]
assert (found - expected).abs().max() < 1e-6
assert not any(name.split(".")[0] in ("megatron", "transformers", "triton") for name in sys.modules)
"""


def test_it_is_usable_without_megatron_core_and_triton() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", ALONE], check=True)
