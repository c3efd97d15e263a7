"""Where one training step spends its time and memory: `aspo train --profile STEP`.

Every rank writes a trace with the phases (Chrome's format, which ui.perfetto.dev opens; on a GPU with each allocation),
and the leader a page of text and a picture of its memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from aspo_megatron.plots.curves import write_figure
from aspo_megatron.train.step_operations import Work
from aspo_megatron.train.trace_file import write_trace

_SAMPLE_SECONDS = 0.02
_PRODUCT_SIZE = 1536
_OPERATIONS_SHOWN = 15
_WAITING = "wait for a collective"
_COLLECTIVES = ("c10d::", "gloo:", "nccl", "record_param_comms", _WAITING)
_GIB = 2**30


@dataclass
class _Phase:
    label: str
    start: float
    stop: float


@dataclass
class _Memory:
    """Bytes of this process at times; on a GPU those that torch has allocated there."""

    times: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


class StepProfile:
    """Profiles what happens inside `with`; then `write` it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
        # On a CPU it would warn of every block from before; `draw_memory` shows the process's.
        self._profiler = torch_profile(activities=activities, profile_memory=on_gpu)
        self._phases: list[_Phase] = []
        self._memory = _Memory()
        self._waits = ExitStack()
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._began = self._ended = 0.0

    def __enter__(self) -> Self:
        with _native_output_muted():
            self._profiler.__enter__()
        self._waits.enter_context(_waits_recorded())
        self._began = time.perf_counter()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.perf_counter()
        self._done.set()
        self._sampler.join()
        self._waits.close()
        with _native_output_muted():
            self._profiler.__exit__(kind, error, trace)

    @contextmanager
    def phase(self, label: str) -> Iterator[None]:
        """A span of the trace, and a line of the summary."""
        began = time.perf_counter()
        with record_function(label):
            yield
        self._phases.append(_Phase(label, began, time.perf_counter()))

    def write(self, folder: Path, rank: int) -> None:
        """This rank's trace; a `UserError` if it cannot be written."""
        write_trace(self._profiler, folder / f"rank-{rank}.json.gz")

    def summary(self, title: str, work: dict[str, Work], rate: float, ranks: int) -> str:
        """One page: phases, collectives, operations, memory.

        Args:
            title: its first line.
            work: of phases, over all ranks.
            rate: operations a second of a plain matrix product on each rank (`product_rate`).
            ranks: how many share the work.
        """
        whole = self._ended - self._began
        lines = [
            title,
            "",
            f"{'phase':<22}{'seconds':>9}{'share':>8}{'tokens/s':>11}{'GFLOP/s':>10}{'of a product':>14}",
        ]
        for label, seconds in self._seconds().items():
            lines.append(_line(label, seconds, whole, work.get(label), rate * ranks))
        total = Work(sum(each.tokens for each in work.values()), sum(each.operations for each in work.values()))
        lines.append(_line("step", whole, whole, total, rate * ranks))
        lines += [
            "",
            f"A plain matrix product: {rate / 1e9:.1f} GFLOP/s on each of {ranks} rank(s), measured after the step.",
            "",
        ]
        return "\n".join([*lines, *self._operations(whole), "", *self._peaks()]) + "\n"

    def draw_memory(self, path: Path) -> None:
        """Memory over the step, phases shaded."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([at - self._began for at in self._memory.times], [size / _GIB for size in self._memory.sizes])
        labels = list(self._seconds())
        for phase in self._phases:
            color = f"C{labels.index(phase.label) + 1}"
            axes.axvspan(phase.start - self._began, phase.stop - self._began, color=color, alpha=0.15, linewidth=0)
        for number, label in enumerate(labels):
            axes.fill_between([], [], color=f"C{number + 1}", alpha=0.3, label=label)
        axes.set(xlabel="seconds", ylabel="GiB", ylim=(0, None))
        figure.legend(loc="outside lower center", fontsize="small", ncols=4)
        write_figure(figure, path)

    def _seconds(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for phase in self._phases:
            found[phase.label] = found.get(phase.label, 0.0) + phase.stop - phase.start
        return found

    @cached_property
    def operations(self) -> dict[str, tuple[int, float]]:
        """Calls and own seconds of each operation, the most expensive first."""
        labels = {phase.label for phase in self._phases}
        found = {}
        for event in self._profiler.key_averages():
            own = event.self_device_time_total if self._device.type == "cuda" else event.self_cpu_time_total
            if event.key not in labels:
                found[event.key] = (int(event.count), float(own) / 1e6)
        return dict(sorted(found.items(), key=lambda entry: -entry[1][1]))

    def share_of_collectives(self) -> float:
        """Of the time that was profiled: making collectives, and waiting for them, and so for slower ranks."""
        spent = sum(seconds for name, (_, seconds) in self.operations.items() if name.startswith(_COLLECTIVES))
        return spent / (self._ended - self._began)

    def _operations(self, whole: float) -> list[str]:
        share = self.share_of_collectives()
        lines = [f"collectives           {share * whole:9.3f}{share:8.1%}", ""]
        lines.append(f"{'operation':<46}{'calls':>8}{'seconds':>9}{'share':>8}")
        for name, (calls, seconds) in list(self.operations.items())[:_OPERATIONS_SHOWN]:
            lines.append(f"{name[:45]:<46}{calls:>8}{seconds:9.3f}{seconds / whole:8.1%}")
        return lines

    def _peaks(self) -> list[str]:
        lines = [f"{'memory':<22}{'peak, GiB':>10}"]
        for label in self._seconds():
            spans = [(phase.start, phase.stop) for phase in self._phases if phase.label == label]
            inside = [
                size
                for at, size in zip(self._memory.times, self._memory.sizes, strict=True)
                if any(start <= at <= stop for start, stop in spans)
            ]
            if inside:
                lines.append(f"{label:<22}{max(inside) / _GIB:10.2f}")
        return lines

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            size = torch.cuda.memory_allocated() if self._device.type == "cuda" else process.memory_info().rss
            self._memory.times.append(time.perf_counter())
            self._memory.sizes.append(size)
            if self._done.wait(_SAMPLE_SECONDS):
                return


@contextmanager
def _native_output_muted() -> Iterator[None]:
    """The profiler's library says on stderr that it starts and stops."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextmanager
def _waits_recorded() -> Iterator[None]:
    """While it lasts, waiting for a collective is an operation of its own: on a CPU nothing else tells of it."""
    wait = dist.Work.wait

    def recorded(work: dist.Work, *args: Any, **kwargs: Any) -> Any:
        with record_function(_WAITING):
            return wait(work, *args, **kwargs)

    dist.Work.wait = recorded  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        dist.Work.wait = wait  # type: ignore[method-assign]


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a plain square matrix product, the best of six."""
    a = torch.randn(_PRODUCT_SIZE, _PRODUCT_SIZE, device=device).to(dtype)
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        best = max(best, 2 * _PRODUCT_SIZE**3 / (time.perf_counter() - began))
    return best


def _line(label: str, seconds: float, whole: float, work: Work | None, rate: float) -> str:
    line = f"{label:<22}{seconds:9.3f}{seconds / whole:8.1%}"
    if work is None or not seconds:
        return line
    speed = work.operations / seconds
    return line + f"{work.tokens / seconds:11.0f}{speed / 1e9:10.1f}{speed / rate:14.1%}"
