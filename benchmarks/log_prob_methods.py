"""What `log_prob.py` compares: ways to the gradient of a sum of weighted log-probs, and what else they give."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aspo_megatron.parallel.device.triton_calls import has_triton
from aspo_megatron.parallel.log_prob.autograd import token_log_probs, token_objective
from aspo_megatron.parallel.log_prob.vocabulary import chunk_for

Method = Callable[["Problem"], None]
"""Forward and backward: leaves gradients at `hidden` and `weight`."""


@dataclass(frozen=True)
class Case:
    """Sizes: of a problem over all tp ranks."""

    tokens: int
    hidden: int
    vocab: int

    def __str__(self) -> str:
        return f"{self.tokens} x {self.hidden} x {self.vocab}"


@dataclass(frozen=True)
class Problem:
    """`weight` is this rank's shard, `coefficients` are d loss / d log-prob."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    coefficients: Tensor
    vocab: int
    group: dist.ProcessGroup

    @classmethod
    def draw(cls, case: Case, device: torch.device, dtype: torch.dtype, group: dist.ProcessGroup) -> Problem:
        """Random values, the same on all ranks; the vocabulary is a multiple of the ranks."""
        generator = torch.Generator(device=device).manual_seed(0)
        tp, rank = dist.get_world_size(group), dist.get_rank(group)
        hidden = torch.randn(case.tokens, case.hidden, generator=generator, device=device)
        targets = torch.randint(0, case.vocab, (case.tokens,), generator=generator, device=device)
        coefficients = torch.randn(case.tokens, generator=generator, device=device) / case.tokens
        weight = torch.randn(case.vocab // tp, case.hidden, generator=generator.manual_seed(1 + rank), device=device)
        weight *= 2 / case.hidden**0.5
        return cls(
            hidden.to(dtype).requires_grad_(),
            weight.to(dtype).requires_grad_(),
            targets,
            coefficients,
            case.vocab,
            group,
        )

    def clear(self) -> None:
        """Forget the gradients."""
        self.hidden.grad = self.weight.grad = None


def token_wise(problem: Problem, budget: int | None = None, *, triton: bool = False) -> None:
    """`token_objective`: log-probs and entropy, gradients in the same pass."""

    def derivative(part: slice, log_probs: Tensor, entropy: Tensor) -> tuple[Tensor, None]:
        return problem.coefficients[part], None

    anchor, _, _ = token_objective(
        problem.hidden,
        problem.weight,
        problem.targets,
        derivative,
        temperature=1.0,
        vocab_size=problem.vocab,
        tp_group=problem.group,
        chunk=chunk_for(problem.weight, budget),
        triton=triton,
    )
    anchor.backward()


def whole_response(problem: Problem, *, triton: bool = False) -> None:
    """`token_log_probs`: log-probs and entropy, logits computed again in backward."""
    log_probs, _ = token_log_probs(
        problem.hidden,
        problem.weight,
        problem.targets,
        temperature=1.0,
        vocab_size=problem.vocab,
        tp_group=problem.group,
        chunk=chunk_for(problem.weight),
        triton=triton,
    )
    (log_probs * problem.coefficients).sum().backward()


def plain(problem: Problem) -> None:
    """`log_softmax` of fp32 logits, gather; entropy without gradient."""
    log_p = torch.log_softmax((problem.hidden @ problem.weight.t()).float(), dim=-1)
    log_probs = log_p.gather(1, problem.targets[:, None]).squeeze(1)
    _entropy(log_p)
    (log_probs * problem.coefficients).sum().backward()


def cross_entropy(problem: Problem) -> None:
    """`torch.nn.functional.cross_entropy` of fp32 logits; no entropy."""
    logits = (problem.hidden @ problem.weight.t()).float()
    loss = nn.functional.cross_entropy(logits, problem.targets, reduction="none")
    (loss * -problem.coefficients).sum().backward()


def linear_cross_entropy(problem: Problem) -> None:
    """`torch.nn.functional.linear_cross_entropy`; no entropy, no tp.

    With the chunks of `token_log_probs`: those of its own choice are so small on CPU that it takes ten times as long.
    """
    chunk = min(chunk_for(problem.weight), len(problem.targets))
    loss = nn.functional.linear_cross_entropy(
        problem.hidden,
        problem.weight,
        problem.targets,
        reduction="none",
        options=nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=chunk),
    )
    (loss * -problem.coefficients).sum().backward()


def megatron(problem: Problem) -> None:
    """Megatron's `vocab_parallel_cross_entropy`, and entropy separately."""
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    logits = (problem.hidden @ problem.weight.t()).float()
    with torch.no_grad():
        _entropy(torch.log_softmax(logits, dim=-1))
    loss = vocab_parallel_cross_entropy(logits[:, None], problem.targets[:, None]).squeeze(1)
    (loss * -problem.coefficients).sum().backward()


@torch.no_grad()
def products(problem: Problem) -> None:
    """The three matrix products alone: a bound."""
    logits = problem.hidden @ problem.weight.t()
    problem.hidden.grad, problem.weight.grad = logits @ problem.weight, logits.t() @ problem.hidden


def liger(problem: Problem) -> None:
    """Liger's fused linear cross-entropy; no entropy, no tp."""
    module = importlib.import_module("liger_kernel.transformers.functional")
    loss = module.liger_fused_linear_cross_entropy(
        problem.hidden, problem.weight, problem.targets, reduction="none", accum_dtype=torch.float32
    )
    loss = loss[0] if isinstance(loss, tuple) else loss
    (loss * -problem.coefficients).sum().backward()


def apple(problem: Problem) -> None:
    """Apple's cut cross-entropy; no entropy."""
    module = importlib.import_module("cut_cross_entropy")
    loss = module.linear_cross_entropy(problem.hidden, problem.weight, problem.targets, reduction="none")
    (loss * -problem.coefficients).sum().backward()


OURS = {"token-wise": token_wise, "whole-response": whole_response}
PLAIN, CROSS_ENTROPY, PRODUCTS = "log_softmax", "cross_entropy", "three products"
TRITON: dict[str, Method] = {f"{name}, triton": partial(method, triton=True) for name, method in OURS.items()}
COMPLETE: dict[str, Method] = {**OURS, **TRITON, PLAIN: plain, "megatron": megatron}
"""Methods that give log-probs and entropy."""

_GPU_ONLY = {"Liger": ("liger_kernel", liger), "Apple cut-cross-entropy": ("cut_cross_entropy", apple)}

COPIES = {PLAIN: 3, CROSS_ENTROPY: 4, "megatron": 5, PRODUCTS: 1}
"""Logits in fp32 that a method holds at the same time, at most: whether it fits is judged by it."""


def methods(device: torch.device, triton: bool) -> tuple[dict[str, Method], dict[str, str]]:
    """The methods that run here, those of `TRITON` if asked for, and why others do not."""
    there = has_triton()
    found: dict[str, Method] = {
        **{name: method for name, method in COMPLETE.items() if (triton and there) or name not in TRITON},
        CROSS_ENTROPY: cross_entropy,
        "linear_cross_entropy": linear_cross_entropy,
        PRODUCTS: products,
    }
    missing = {} if there or not triton else dict.fromkeys(TRITON, "not installed (package triton)")
    if not hasattr(nn.functional, "linear_cross_entropy"):
        del found["linear_cross_entropy"]
        missing["linear_cross_entropy"] = "PyTorch has it from 2.13 on"
    for name, (package, method) in _GPU_ONLY.items():
        if device.type != "cuda":
            missing[name] = "runs on GPUs only"
        elif importlib.util.find_spec(package) is None:
            missing[name] = f"not installed (package {package})"
        else:
            found[name] = method
    return found, missing


def _entropy(log_p: Tensor) -> Tensor:
    with torch.no_grad():
        return -(log_p.exp() * log_p).sum(dim=-1)
