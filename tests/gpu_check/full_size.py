"""Sections on numbers at their full size on the stand-in for a GPU: shapes, devices and layouts, but no values."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist

from aspo_megatron.config import ParallelConfig
from aspo_megatron.simulation.rank import simulated_rank
from benchmarks import log_prob_methods
from benchmarks.gpu_check import (
    attention,
    attention_time,
    attention_varlen,
    ceilings,
    experts,
    figures,
    heads,
    log_prob,
    log_prob_time,
)
from benchmarks.gpu_check.lines import Place, Sheet, read_lines
from benchmarks.gpu_check.log_prob_cases import Problem, in_fp64


class OnStandIn(Place):
    """A GPU in all but its name."""

    @property
    def on_gpu(self) -> bool:
        return True


def names_of(part: str, folder: Path) -> list[str]:
    """The lines that a part of the sections writes. In a process that has the stand-in, and ends with this call."""
    with simulated_rank(ParallelConfig()) as rank:
        group = rank.topology.tp.group
        replace_what_asks_for_cuda(group)
        place = OnStandIn(rank.topology.platform.device, False, 1, folder, 1000.0)
        sheet = Sheet("section", folder / "lines.jsonl", on_gpu=True)

        def numbers() -> None:
            for with_entropy, triton in ((False, False), (True, True)):
                problem = Problem.draw(2500, 1536, 151936, 0.7, place.device)
                want = in_fp64(problem, with_entropy=with_entropy)
                log_prob.show_numbers(sheet, place, problem, want, group, with_entropy, triton)

        parts: Mapping[str, Callable[[], object]] = {
            "blocks": lambda: [attention.show_blocks(sheet, place, case) for case in attention.CASES],
            "fp32": lambda: attention.show_plain_fp32(sheet, place),
            "layer": lambda: [
                attention.show_layer(sheet, place, attention.GROUPS, f"{way}, {ranks}", kernels, ranks)
                for way, kernels in attention.WAYS.items()
                for ranks in (1, 2)
            ],
            "varlen": lambda: attention_varlen.show_varlen(sheet, place),
            "times": lambda: [
                attention_time.show(sheet, place, name, groups)
                for name, groups in attention_time.WORKLOADS.items()
                if len(groups) == 1  # the others differ in the number of operations alone, which takes a minute
            ],
            "ceilings": lambda: ceilings.run(sheet, place),
            "numbers": numbers,
            "heads": lambda: heads.show_heads(sheet, place),
            "experts": lambda: experts.show_experts(sheet, place, group),
            "log-prob times": lambda: log_prob_time.show_times(sheet, place, group, time.monotonic() + 1000.0),
        }
        parts[part]()
    return [line.name for line in read_lines(folder / "lines.jsonl")]


def replace_what_asks_for_cuda(group: dist.ProcessGroup) -> None:
    """Clocks, the profiler, seeds and memory: the stand-in has none of these."""

    def called(functions: Mapping[str, Callable[[], object]], *_: object) -> dict[str, float]:
        for function in functions.values():
            function()
        return dict.fromkeys(functions, 1.0)

    for module in (attention_time, attention_varlen, ceilings, experts, heads, log_prob_time):
        module.seconds = called  # type: ignore[attr-defined]
    attention_time._FLEX_TOKENS = 0  # FlexAttention knows the devices that it runs on
    attention_time.kernels = lambda function, device: 1  # type: ignore[attr-defined]
    for module in (attention, attention_varlen, ceilings, experts, heads, log_prob):
        module.fresh_random = module.poison = lambda *_: None  # type: ignore[attr-defined]
    # Which tokens an expert has is in values, and so is what makes the host wait.
    experts.one_by_one = lambda drawn, dtype: experts.gathered(drawn, group)[0]
    experts._show_waits = lambda *_: None
    figures.poison = lambda *_: None
    log_prob_time.CASES = log_prob_time.CASES[:2]  # the others differ in their sizes alone
    log_prob_time.peak_bytes = lambda function, device: (function(), 1)[1]  # type: ignore[attr-defined]
    log_prob_time.free_bytes = lambda device: 10**11  # type: ignore[attr-defined]
    log_prob_methods.Problem.draw = classmethod(drawn_without_a_generator)  # type: ignore[method-assign, assignment]


def drawn_without_a_generator(cls, case, device, dtype, group):
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device)

    targets = torch.randint(0, case.vocab, (case.tokens,)).to(device)
    hidden, weight = normal(case.tokens, case.hidden), normal(case.vocab, case.hidden)
    return cls(
        hidden.to(dtype).requires_grad_(),
        weight.to(dtype).requires_grad_(),
        targets,
        normal(case.tokens),
        case.vocab,
        group,
    )
