"""Time and peak memory of the log-prob with its gradients, beside other ways, in the same process and by turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist

from aspo_megatron.parallel.log_prob.vocabulary import chunk_for
from benchmarks import log_prob_methods as other
from benchmarks.gpu_check.figures import seconds
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.log_prob_cases import Problem, token_wise
from benchmarks.measure import free_bytes, peak_bytes

CASES = tuple(
    other.Case(tokens, hidden, 151936) for tokens in (4096, 16384, 1024, 32768) for hidden in (1536, 4096, 2560, 2048)
)
"""Heads of models of 1.5B, 8B, 4B and 30B-A3B parameters. By arithmetic some 40 s on an H200 for all of them."""
SMALL_CASES = (other.Case(40, 24, 501),)
_COMPARED = ("whole-response, triton", other.PLAIN, other.CROSS_ENTROPY, "Liger", other.PRODUCTS)
_OURS = "into main_grad"
_GOALS = {4096: 1.3, 1536: 1.5}
"""What ours is to take at most of the time of three bare products, by hidden size: a goal that fails nothing."""
_REPEATS = 5
_REPEATS_OF_MANY = 2
_MANY = 16384
"""From so many tokens on, whose times differ less from one another."""
_SECONDS_OF_A_SIZE = 10.0
"""At most: with less time left, none is begun."""


def into_buffer(problem: Problem, group: dist.ProcessGroup, *, triton: bool) -> Callable[[], None]:
    """As in training: the weight's gradient is added to a buffer in fp32 that is there."""
    total = torch.zeros(problem.weight.shape, device=problem.weight.device)

    def once() -> None:
        problem.hidden.grad = None
        token_wise(problem, total, group, chunk=chunk_for(problem.weight), with_entropy=False, triton=triton)

    return once


def show_times(sheet: Sheet, place: Place, group: dist.ProcessGroup, deadline: float) -> None:
    """A line for each way and size: milliseconds; peak memory, and the ratio to three bare products, in the note."""
    methods, missing = other.methods(place.device, triton=place.on_gpu)
    for name, why in missing.items():
        if name in _COMPARED and place.on_gpu:
            sheet.not_done(f"time beside {name}", why)
    for case in SMALL_CASES if place.small else CASES:
        if time.monotonic() + (0.0 if place.small else _SECONDS_OF_A_SIZE) > deadline:
            sheet.not_done(f"time of {case}", f"no time: {place.seconds:.0f} s for the whole section")
            continue
        if place.on_gpu:
            torch.cuda.empty_cache()  # memory that is kept for nobody counts as taken below
        _show_case(sheet, place, case, {name: methods[name] for name in _COMPARED if name in methods}, group)


def _show_case(
    sheet: Sheet, place: Place, case: other.Case, methods: dict[str, other.Method], group: dist.ProcessGroup
) -> None:
    problem = other.Problem.draw(case, place.device, torch.bfloat16, group)
    ours = Problem(
        problem.hidden.detach().requires_grad_(),
        problem.weight.detach().requires_grad_(),
        problem.targets,
        problem.coefficients,
        torch.zeros_like(problem.coefficients),
        case.vocab,
        1.0,
    )
    kinds = {"triton": True, "plain": False} if place.on_gpu else {"plain": False}
    functions = {f"{_OURS}, {kind}": into_buffer(ours, group, triton=way) for kind, way in kinds.items()}
    for name, method in methods.items():
        needed = other.COPIES.get(name, 0) * 4 * case.tokens * case.vocab
        if needed > 0.8 * free_bytes(place.device):
            sheet.not_done(f"{case}: {name}", f"its logits take {needed / 2**30:.0f} GiB")
        else:
            functions[name] = partial(_cleared, problem, method)
    peaks = {}
    for name, function in list(functions.items()):
        try:
            function()  # compiles
            problem.clear()
            peaks[name] = peak_bytes(function, place.device)
        except torch.OutOfMemoryError:
            del functions[name]
            sheet.not_done(f"{case}: {name}", "does not fit into the memory of the GPU")
        problem.clear()
    few = place.small or case.tokens >= _MANY
    times = seconds(functions, place.device, _REPEATS_OF_MANY if few else _REPEATS)
    for name, taken in times.items():
        note = f"peak {peaks[name] / 2**20:.0f} MiB, {taken / times[other.PRODUCTS]:.2f} of three products"
        if name == f"{_OURS}, triton" and case.hidden in _GOALS:
            note += f" (goal: {_GOALS[case.hidden]:g})"
        sheet.measured(f"{case}: {name}", 1e3 * taken, "ms", note=note)


def _cleared(problem: other.Problem, method: other.Method) -> None:
    problem.clear()
    method(problem)
