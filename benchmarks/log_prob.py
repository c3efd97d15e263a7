"""Time and memory of log-prob, entropy and their gradients, against other ways to them.

    python -m benchmarks.log_prob                        # half an hour on two CPU cores
    python -m benchmarks.log_prob --grid full            # hours on CPU
    python -m benchmarks.log_prob --device cuda --grid full
    python -m benchmarks.log_prob --case 2048x1536x151936

All methods compute the same gradients, which is checked; on a GPU our Triton kernels are among them. They take turns,
and medians count. See docs/log_prob.md.
"""

from __future__ import annotations

import statistics
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.errors import UserError
from aspo_megatron.parallel.grid.topology import process_grid
from benchmarks.log_prob_methods import COPIES, OURS, PLAIN, PRODUCTS, Case, Problem, methods, token_wise
from benchmarks.log_prob_report import CaseResult, Report, TpResult, put_into_readme, write
from benchmarks.log_prob_tp import measure_tp
from benchmarks.measure import free_bytes, interleaved, machine, peak_bytes

SMOL = (576, 49152)
"""Hidden size and vocabulary of SmolLM2-135M; the pictures show these."""

GRIDS: dict[str, list[Case]] = {
    "quick": [Case(48, 16, 1000), Case(96, 16, 1000)],
    "default": [
        *(Case(tokens, *SMOL) for tokens in (256, 1024, 2048, 4096, 8192)),
        Case(256, 1536, 151936),
        Case(128, 4096, 151936),
        Case(128, 1536, 248320),
    ],
    "full": [
        Case(tokens, hidden, vocab)
        for hidden, vocab, tokens in product(
            (576, 1536, 4096), (49152, 151936, 248320), (1024, 2048, 4096, 8192, 16384, 32768)
        )
    ],
}
MEMORY = {"quick": [Case(256, 8, 2000)], "default": [Case(tokens, 64, 151936) for tokens in (1024, 4096, 8192, 32768)]}
"""One run each, for memory alone: the hidden size hardly counts."""

TP = {"quick": [Case(64, 16, 1000)], "default": [Case(1024, *SMOL)]}
BUDGETS = (8, 32, 64, 128, 256)
"""MiB for the buffers of a chunk."""


def main(
    grid: Annotated[Literal["quick", "default", "full"], typer.Option(help="Sizes: tokens x hidden x vocab.")] = (
        "default"
    ),
    case: Annotated[list[str] | None, typer.Option(help="TOKENSxHIDDENxVOCAB instead of a grid; repeatable.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to measure.")] = "cpu",
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Of hidden states and weights [cuda: bfloat16].")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads. More than one waits for the slowest.")] = 1,
    repeats: Annotated[int, typer.Option(help="The most rounds of a case.")] = 5,
    seconds_per_case: Annotated[float, typer.Option(help="After which a case begins no new round.")] = 20.0,
    out: Annotated[Path, typer.Option(help="Folder: log_prob_benchmark.md and images/ in it.")] = Path("docs"),
    readme: Annotated[Path | None, typer.Option(help="File whose table of medians is replaced: README.md.")] = None,
) -> None:
    """Measure log-prob and entropy with their gradients against other ways; write a table and pictures."""
    cases = [_parse(text) for text in case] if case else GRIDS[grid]
    kind = torch.float32 if (dtype or ("bfloat16" if device == "cuda" else "float32")) == "float32" else torch.bfloat16
    small = "quick" if grid == "quick" else "default"
    tp = [] if case or (device == "cuda" and torch.cuda.device_count() < 2) else _tp(TP[small], device, kind, repeats)
    platform = PlatformConfig(device=device, threads_per_rank=threads)
    try:
        with process_grid(ParallelConfig(), platform, seed=1) as topology:
            place = topology.platform.device
            bench = _Bench(place, kind, topology.tp.group, repeats, seconds_per_case)
            bench.start_libraries()
            report = Report(
                machine=f"{machine(place)}, {threads} thread{'s' * (threads != 1)}, {kind}",
                cases=[bench.measure(one) for one in cases],
                memory=[] if case else [bench.memory(one) for one in MEMORY[small]],
                budgets=[] if case else bench.budgets(TP[small][0]),
                missing=bench.missing,
            )
    except UserError as error:
        raise typer.BadParameter(str(error)) from None
    for path in write(report, tp, out):
        print(f"wrote {path}")
    if readme is not None:
        put_into_readme(report, tp, readme)


class _Bench:
    """What stays the same over the cases."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        group: torch.distributed.ProcessGroup,
        repeats: int,
        limit: float,
    ) -> None:
        self.device, self.dtype, self.group, self.repeats, self.limit = device, dtype, group, repeats, limit
        self.methods, self.missing = methods(device, triton=device.type == "cuda")

    def start_libraries(self) -> None:
        """What libraries set up once would count as memory of the first case."""
        problem = Problem.draw(Case(64, 64, 4096), self.device, self.dtype, self.group)
        for method in self.methods.values():
            method(problem)

    def measure(self, case: Case) -> CaseResult:
        """Memory in a first run, whose gradients are compared; then time."""
        problem = Problem.draw(case, self.device, self.dtype, self.group)
        fitting, result = self._fitting(case)
        reference = None
        for name, method in fitting.items():
            problem.clear()
            result.peak[name] = peak_bytes(partial(method, problem), self.device)
            assert problem.hidden.grad is not None
            reference = problem.hidden.grad if reference is None else reference
            if name != PRODUCTS:
                _check(name, problem.hidden.grad, reference)
        problem.clear()

        def run(name: str) -> None:
            problem.clear()
            fitting[name](problem)

        functions = {name: partial(run, name) for name in fitting}
        times = interleaved(functions, self.device, self.repeats, self.limit)
        result.seconds.update({name: statistics.median(values) for name, values in times.items()})
        print(f"{case}: " + ", ".join(f"{name} {value:.3f} s" for name, value in result.seconds.items()), flush=True)
        return result

    def memory(self, case: Case) -> CaseResult:
        """One run of each, for its memory."""
        problem = Problem.draw(case, self.device, self.dtype, self.group)
        fitting, result = self._fitting(case)
        for name in (*OURS, PLAIN):
            if name in fitting:
                problem.clear()
                result.peak[name] = peak_bytes(partial(fitting[name], problem), self.device)
        print(f"{case}: " + ", ".join(f"{name} {size >> 20} MiB" for name, size in result.peak.items()), flush=True)
        return result

    def budgets(self, case: Case) -> list[tuple[int, float]]:
        """MiB for a chunk's buffers, and seconds."""
        problem = Problem.draw(case, self.device, self.dtype, self.group)

        def run(budget: int) -> None:
            problem.clear()
            token_wise(problem, budget << 20)

        functions = {str(budget): partial(run, budget) for budget in BUDGETS}
        times = interleaved(functions, self.device, self.repeats, self.limit)
        return [(budget, statistics.median(times[str(budget)])) for budget in BUDGETS]

    def _fitting(self, case: Case) -> tuple[dict[str, partial[None]], CaseResult]:
        """The methods whose logits fit in memory."""
        result = CaseResult(case, (case.tokens + case.vocab) * case.hidden * self.dtype.itemsize)
        fitting = {}
        for name, method in self.methods.items():
            needed = COPIES.get(name, 0) * 4 * case.tokens * case.vocab
            if needed > 0.8 * free_bytes(self.device):
                result.too_large[name] = needed
            else:
                fitting[name] = partial(method)
        return fitting, result


def _check(name: str, gradient: torch.Tensor, reference: torch.Tensor) -> None:
    tolerance = 1e-4 if gradient.dtype == torch.float32 else 5e-2
    difference = float((gradient - reference).abs().max() / reference.abs().max())
    if difference > tolerance:
        raise RuntimeError(f"{name}: its gradient of the hidden states is off by {difference:.1e}")


def _tp(cases: list[Case], device: str, dtype: torch.dtype, repeats: int) -> list[TpResult]:
    return [result for case in cases for result in measure_tp(case, device, dtype, repeats)]


def _parse(text: str) -> Case:
    try:
        tokens, hidden, vocab = (int(part) for part in text.split("x"))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: give three numbers as in 2048x576x49152", param_hint="--case") from None
    return Case(tokens, hidden, vocab)


if __name__ == "__main__":
    typer.run(main)
