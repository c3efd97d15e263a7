"""The table and the picture of `log_prob.py`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.log_prob_methods import COMPLETE, CROSS_ENTROPY, OURS, PLAIN, PRODUCTS, Case

matplotlib.use("Agg")

_BEGIN, _END = "<!-- log-prob table -->", "<!-- end -->"


@dataclass
class CaseResult:
    """Of a case, by method: median seconds, peak bytes; and bytes that methods would have needed.

    `gradients`: bytes of the gradients, which every method's peak holds, or may.
    """

    case: Case
    gradients: int
    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    too_large: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TpResult:
    """Seconds and peak bytes of a rank, with one process and with two."""

    case: Case
    method: str
    one: float
    two: float
    peak_one: int
    peak_two: int


@dataclass(frozen=True)
class Report:
    """All that one process measured. `budgets`: MiB for a chunk's buffers, and seconds."""

    machine: str
    cases: Sequence[CaseResult]
    memory: Sequence[CaseResult]
    budgets: Sequence[tuple[int, float]]
    missing: dict[str, str]


def write(report: Report, tp: Sequence[TpResult], folder: Path) -> list[Path]:
    """Write the table, and the picture where several cases differ in tokens alone; their paths."""
    table = folder / "log_prob_benchmark.md"
    table.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Benchmark of the log-prob computation",
        "Written by `python -m benchmarks.log_prob`. Forward and backward: gradients of hidden states and of the "
        "output projection.\n\n"
        f"Machine: {report.machine}. The methods took turns in one process; times are medians, and only their ratios "
        "are meaningful on a shared machine. Peak memory excludes the inputs and includes the gradients.",
        _times(report),
        _memory("Peak memory, MiB", report.cases, report.missing),
    ]
    if report.memory:
        parts.append(_memory("Peak memory at a small hidden size, MiB", report.memory, {}))
    if report.budgets:
        parts.append(_budgets(report.budgets))
    if tp:
        parts.append(_tp(tp))
    table.write_text("\n\n".join(parts) + "\n")
    picture = _picture(report, folder / "images" / "log_prob_benchmark.png")
    return [table] if picture is None else [table, picture]


def put_into_readme(report: Report, tp: Sequence[TpResult], readme: Path) -> None:
    """Replace the table between the two markers in `readme`.

    Raises:
        ValueError: the markers are not there.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{readme} has no {_BEGIN} ... {_END}")
    readme.write_text(f"{before}{begin}\n{summary(report, tp)}\n{end}{after}", encoding="utf-8")


def summary(report: Report, tp: Sequence[TpResult]) -> str:
    """Medians of the times and the most telling memory, in one table."""
    rows = []
    for name, base in (("token-wise", PLAIN), ("token-wise", CROSS_ENTROPY), ("token-wise", PRODUCTS)):
        rows.append([f"time of token-wise losses / {base}", _median(report, name, base)])
    rows.append([f"time of whole-response losses / {PLAIN}", _median(report, "whole-response", PLAIN)])
    both = [result for result in report.memory if PLAIN in result.peak]
    if both:
        last = both[-1]
        rows.append(
            [f"peak memory / {PLAIN}, {last.case}", f"{last.peak['token-wise'] / last.peak[PLAIN]:.3f}"],
        )
    rows += [[f"tp=2 against tp=1, {result.method}", f"{result.one / result.two:.2f}x"] for result in tp]
    return _rows(["forward + backward, log-prob and entropy", "ratio"], rows)


def _median(report: Report, name: str, base: str) -> str:
    ratios = [ratio for result in report.cases if (ratio := _ratio(result, name, base)) is not None]
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _names(cases: Sequence[CaseResult]) -> list[str]:
    return list(dict.fromkeys(name for result in cases for name in (*result.peak, *result.too_large)))


def _ratio(result: CaseResult, name: str, base: str) -> float | None:
    return result.seconds[name] / result.seconds[base] if {name, base} <= result.seconds.keys() else None


def _times(report: Report) -> str:
    names = [name for name in _names(report.cases) if name != PLAIN]
    pairs = [(name, PLAIN) for name in names] + [("token-wise", CROSS_ENTROPY), ("token-wise", PRODUCTS)]
    header = ["tokens x hidden x vocab", f"{PLAIN}, s"]
    header += [f"**{name}**" if name in OURS else name for name in names]
    header += [*report.missing, "**token-wise** / cross_entropy", "**token-wise** / three products"]
    rows, columns = [], []
    for result in report.cases:
        ratios = [_ratio(result, name, base) for name, base in pairs]
        columns.append(ratios)
        cells = ["too large" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        cells[len(names) : len(names)] = ["-"] * len(report.missing)
        seconds = f"{result.seconds[PLAIN]:.2f}" if PLAIN in result.seconds else "too large"
        rows.append([str(result.case), seconds, *cells])
    medians = []
    for column in zip(*columns, strict=True):
        present = [ratio for ratio in column if ratio is not None]
        medians.append(f"**{statistics.median(present):.2f}**" if present else "-")
    medians[len(names) : len(names)] = ["-"] * len(report.missing)
    rows.append(["**median**", "", *medians])
    entropy = ", ".join(name for name in COMPLETE if name in _names(report.cases))
    notes = [f"With entropy: {entropy}. The others give none."]
    notes += [f"{name}: {reason}." for name, reason in report.missing.items()]
    return f"## Time, as a multiple of {PLAIN}\n\n{_rows(header, rows)}\n\n{' '.join(notes)}"


def _memory(title: str, cases: Sequence[CaseResult], missing: dict[str, str]) -> str:
    names = _names(cases)
    header = ["tokens x hidden x vocab", "gradients in it", *names, *missing, f"**token-wise** / {PLAIN}"]
    rows = []
    for result in cases:
        cells = [_mib(result, name) for name in names] + ["-"] * len(missing)
        both = PLAIN in result.peak and result.peak[PLAIN]
        cells.append(f"{result.peak['token-wise'] / result.peak[PLAIN]:.3f}" if both else "-")
        rows.append([str(result.case), f"{result.gradients / 2**20:.0f}", *cells])
    return f"## {title}\n\n{_rows(header, rows)}"


def _mib(result: CaseResult, name: str) -> str:
    if name in result.peak:
        return f"{result.peak[name] / 2**20:.0f}"
    return f"not run: up to {result.too_large[name] / 2**20:.0f}" if name in result.too_large else "-"


def _budgets(budgets: Sequence[tuple[int, float]]) -> str:
    best = min(seconds for _, seconds in budgets)
    rows = [[f"{budget} MiB", f"{seconds / best:.2f}"] for budget, seconds in budgets]
    return f"## Buffers of a chunk (token-wise)\n\n{_rows(['budget', 'time / best'], rows)}"


def _tp(results: Sequence[TpResult]) -> str:
    header = ["tokens x hidden x vocab", "way", "tp=1, s", "tp=2, s", "speed-up", "peak of a rank, MiB: tp=1", "tp=2"]
    rows = [
        [
            str(result.case),
            result.method,
            f"{result.one:.2f}",
            f"{result.two:.2f}",
            f"{result.one / result.two:.2f}",
            f"{result.peak_one / 2**20:.0f}",
            f"{result.peak_two / 2**20:.0f}",
        ]
        for result in results
    ]
    return f"## tp=2 on two processes against tp=1 on one, one thread each\n\n{_rows(header, rows)}"


def _picture(report: Report, path: Path) -> Path | None:
    """Time and memory against tokens, of the cases whose hidden size and vocabulary are those of the first."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    first = report.cases[0].case
    cases = [one for one in report.cases if (one.case.hidden, one.case.vocab) == (first.hidden, first.vocab)]
    if len(cases) < 2:
        return None
    figure, (time_axes, memory_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in _names(cases):
        style: dict[str, Any] = {"linewidth": 2.5} if name in OURS else {"linewidth": 1.2, "linestyle": "--"}
        tokens = [one.case.tokens for one in cases if name in one.seconds]
        time_axes.plot(tokens, [one.seconds[name] for one in cases if name in one.seconds], marker="o", **style)
        memory_axes.plot(
            tokens, [one.peak[name] / 2**20 for one in cases if name in one.seconds], marker="o", label=name, **style
        )
    for axes, label in ((time_axes, "seconds, forward + backward"), (memory_axes, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="response tokens", ylabel=label)
        axes.set_xticks([one.case.tokens for one in cases], [str(one.case.tokens) for one in cases], minor=False)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    memory_axes.legend(fontsize=8)
    figure.suptitle(f"hidden size {first.hidden}, vocabulary {first.vocab}; {report.machine}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
