"""Log-prob and entropy of tokens with their gradients, in bf16, against `log_softmax` of whole logits in fp64.

Both ways to the gradient (`token_objective`, into the fp32 buffer that megatron keeps for the weight, and
`token_log_probs`), with plain and with Triton kernels. Then time and memory beside other ways to the same gradients
(`log_prob_time.py`).
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.log_prob.autograd import token_log_probs
from aspo_megatron.parallel.log_prob.vocabulary import chunk_for
from benchmarks.gpu_check.figures import farthest, fresh_random, poison, relative
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.log_prob_cases import Answer, Problem, in_fp64, token_wise
from benchmarks.gpu_check.log_prob_time import show_times

_REFERENCE = "log_softmax in fp64 of the same inputs"
_VALUE_ERROR = 1e-3
"""In nats. Logits are sums in fp32, off by some 1e-5; in 16 bits they would be off by 3e-2."""
_GRADIENT_ERROR = 5e-3
"""Relative. The gradient of the logits, and results, are rounded to 16 bits: 1.7e-3 each."""


def run(sheet: Sheet, place: Place) -> None:
    """Numbers, then times."""
    deadline = time.monotonic() + place.seconds
    hidden, vocabulary, tokens = (24, 501, 37) if place.small else (1536, 151936, 2500)
    with process_grid(ParallelConfig(), PlatformConfig(device=place.device.type), seed=1) as topology:
        fresh_random(place.device)
        for temperature in (1.0, 0.7):
            problem = Problem.draw(tokens, hidden, vocabulary, temperature, place.device)
            for with_entropy in (False, True):
                want = in_fp64(problem, with_entropy=with_entropy)
                for triton in (False,) if place.small else (False, True):
                    with sheet.part(f"{problem}, {'triton' if triton else 'plain'}"):
                        show_numbers(sheet, place, problem, want, topology.tp.group, with_entropy, triton)
        if place.small:
            tests = "tests/parallel/test_triton_log_prob.py"
            sheet.not_done("Triton kernels", f"in the small form: {tests} has them on a CPU")
        del problem, want
        with sheet.part("times"):
            show_times(sheet, place, topology.tp.group, deadline)


def show_numbers(
    sheet: Sheet,
    place: Place,
    problem: Problem,
    want: Answer,
    group: dist.ProcessGroup,
    with_entropy: bool,
    triton: bool,
) -> None:
    """Both ways to the gradient: values, and gradients of hidden states and weight."""
    kind = ("triton" if triton else "plain") + (", with a gradient of the entropy" if with_entropy else "")
    chunk = min(chunk_for(problem.weight), 700 if place.on_gpu else 16)  # several chunks
    for way, function in {"token by token": by_token, "whole responses": by_response}.items():
        problem.hidden.grad = problem.weight.grad = None
        poison(place.device)
        got = function(problem, group, chunk, with_entropy, triton)
        name = f"{problem}, {way}, {kind}"
        for value in ("log_probs", "entropy"):
            ours, theirs = getattr(got, value), getattr(want, value)
            error, mean = farthest(ours, theirs), float((ours.double() - theirs).abs().mean())
            line = f"{name}: {value.replace('_', '-')}"
            sheet.at_most(line, error, _VALUE_ERROR, unit="nats", reference=_REFERENCE, note=f"mean {mean:.1e}")
        for part in ("grad_hidden", "grad_weight"):
            error = relative(getattr(got, part), getattr(want, part))
            sheet.at_most(f"{name}: {part.replace('_', ' ')}", error, _GRADIENT_ERROR, reference=_REFERENCE)


def by_token(problem: Problem, group: dist.ProcessGroup, chunk: int, with_entropy: bool, triton: bool) -> Answer:
    """`token_objective`, which adds the weight's gradient to what is in its buffer."""
    before = torch.randn(problem.weight.shape, device=problem.weight.device)
    total = before.clone()
    log_probs, entropy = token_wise(problem, total, group, chunk=chunk, with_entropy=with_entropy, triton=triton)
    assert problem.hidden.grad is not None
    return Answer(log_probs, entropy, problem.hidden.grad, total.double() - before.double())


def by_response(problem: Problem, group: dist.ProcessGroup, chunk: int, with_entropy: bool, triton: bool) -> Answer:
    """`token_log_probs`, and autograd."""
    log_probs, entropy = token_log_probs(
        problem.hidden,
        problem.weight,
        problem.targets,
        temperature=problem.temperature,
        vocab_size=problem.vocabulary,
        tp_group=group,
        chunk=chunk,
        triton=triton,
    )
    loss = (log_probs * problem.by_log_prob).sum()
    if with_entropy:
        loss = loss + (entropy * problem.by_entropy).sum()
    loss.backward()
    assert problem.hidden.grad is not None
    assert problem.weight.grad is not None
    return Answer(log_probs.detach(), entropy.detach(), problem.hidden.grad, problem.weight.grad)
