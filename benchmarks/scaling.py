"""Training on two processes against one, and how time and memory grow: `python -m benchmarks.scaling`.

Efficiency: the time of an update on one process, over twice its time on two; one thread each, the same samples, layouts
in turns. Growth: slopes of log time and log memory over tokens, layers and samples, on one process. Writes a table and
a picture. Both CPU cores must be free.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from aspo_megatron import losses
from aspo_megatron.config import LossConfig, ModelConfig, OptimizerConfig, ParallelConfig, PlatformConfig
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.update.objective import PolicyObjective
from benchmarks.measure import machine, peak_bytes, seconds
from benchmarks.random_samples import random_group
from benchmarks.ranks import Result, in_ranks, prepare

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A Llama, and an update: `groups` of `responses` to one prompt. `budget`: a rank's tokens of a micro-batch."""

    parallel: dict[str, Any] = field(default_factory=dict)
    hidden: int = 768
    layers: int = 4
    vocab: int = 8000
    groups: int = 8
    responses: int = 4
    prompt: int = 64
    response: int = 112
    budget: int = 1024

    @property
    def tokens(self) -> int:
        """That go through the model in an update."""
        return self.groups * (self.prompt + self.responses * (self.response - 1))


LAYOUTS: dict[str, dict[str, Any]] = {
    "one process": {},
    "dp=2": {"dp": 2},
    "cp=2": {"cp": 2},
    "tp=2": {"tp": 2, "sequence_parallel": True},
    "pp=2": {"pp": 2},
}

SMALL = Case(hidden=384, layers=4, vocab=8000, budget=1 << 20)
GROWTH = {
    "tokens, short samples": [replace(SMALL, groups=groups) for groups in (4, 8, 16, 32)],
    "layers": [replace(SMALL, layers=layers) for layers in (2, 4, 8, 16)],
    "samples of a prompt": [replace(SMALL, groups=2, responses=responses) for responses in (4, 8, 16, 32)],
    "tokens, at a fixed micro-batch": [replace(SMALL, groups=groups, budget=1024) for groups in (4, 8, 16, 32)],
}


def measure(case: Case, repeats: int, also: Literal["bytes", "collectives"]) -> Result:
    """What a rank does: updates after a first one; their seconds, and of one more its peak bytes or collectives.

    A process that is alone also says how fast it does the model's operations, as a share of a plain product's rate.
    """
    from aspo_megatron.checkpoint.hf.folder import RandomTensors, hf_shapes
    from aspo_megatron.parallel.grid.topology import process_grid

    with (
        tempfile.TemporaryDirectory() as name,
        process_grid(ParallelConfig(**case.parallel), PlatformConfig(device="cpu"), seed=1) as topology,
    ):
        from aspo_megatron.parallel.model.policy import build_model
        from aspo_megatron.parallel.update.optimizer import Optimizer
        from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs
        from aspo_megatron.parallel.update.step import aggregation_of, update
        from aspo_megatron.train.profiler import StepProfile, product_rate
        from aspo_megatron.train.step_operations import forward_work

        path = _model_folder(case, Path(name))
        model = build_model(
            read_family(path), topology, ModelConfig(path=path), RandomTensors(hf_shapes(path), 0.02, 1)
        )
        optimizer = Optimizer(model, OptimizerConfig(), 100, topology.parallel)
        objective = PolicyObjective(losses.build("aspo", {}), LossConfig(name="aspo", kl_coef=0.0))
        groups = [
            random_group(number, case.vocab, case.prompt, case.response, case.responses)
            for number in range(topology.dp.rank, case.groups, topology.dp.size)
        ]
        weighting = aggregation_of(objective.config, case.response)
        limits = PassLimits(case.budget * topology.cp.size, None, 1.0)

        def step() -> object:
            torch.distributed.barrier()
            return update(model, optimizer, groups, objective, weighting, limits)

        step()
        times = [seconds(step, _CPU) for _ in range(repeats)]
        if also == "bytes":
            return {"seconds": times, "bytes": peak_bytes(step, _CPU)}
        with StepProfile(_CPU) as found:
            step()
        torch.distributed.barrier()
        product = product_rate(torch.float32, _CPU)
        result: Result = {"seconds": times, "collectives": found.share_of_collectives(), "product": product, "rate": {}}
        if topology.world_size > 1:
            return result
        forward = forward_work(read_family(path), groups).operations / product
        scoring = min(seconds(lambda: list(response_log_probs(model, groups, limits)), _CPU) for _ in range(repeats))
        return result | {"rate": {"update": 3 * forward / min(times), "old log-probs": forward / scoring}}


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each layout, in turns.")] = 3,
    growth: Annotated[bool, typer.Option(help="Measure growth too.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for scaling_benchmark.md and images/scaling.png.")] = Path("docs"),
    quick: Annotated[bool, typer.Option("--quick", help="A small model, to try the benchmark itself.")] = False,
) -> None:
    """Measure; print and write a table, and draw growth."""
    prepare("benchmarks.scaling")
    base = Case(hidden=128, layers=2, vocab=500, groups=4) if quick else Case()
    text = [f"# Benchmark of scaling\n\nWritten by `python -m benchmarks.scaling`, on {machine(_CPU)}.\n"]
    text.append(efficiency_table(base, _efficiency(base, 1 if quick else rounds)))
    if growth:
        series = {name: [(case, *_alone(case)) for case in _small(cases, quick)] for name, cases in GROWTH.items()}
        text += [growth_table(series), "![growth](images/scaling.png)\n"]
    print("\n".join(text))
    out.mkdir(parents=True, exist_ok=True)
    (out / "scaling_benchmark.md").write_text("\n".join(text))
    if growth:
        draw(series, out / "images" / "scaling.png")


@dataclass(frozen=True)
class Measured:
    """Of a layout: seconds of an update, the share of collectives in it, and the rates that `measure` gives.

    `product`: operations a second of a plain product, on each of its ranks at once.
    """

    seconds: float
    collectives: float
    product: float
    rate: dict[str, float]


def _efficiency(base: Case, rounds: int) -> dict[str, Measured]:
    times: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    shares: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    products: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    rates: dict[str, list[dict[str, float]]] = {name: [] for name in LAYOUTS}
    for number in range(rounds):
        for name, parallel in LAYOUTS.items():
            case = replace(base, parallel=parallel)
            ranks = in_ranks(ParallelConfig(**parallel).world_size, measure, case, 2, "collectives")
            times[name].append(max(statistics.median(rank["seconds"]) for rank in ranks))
            shares[name].append(statistics.mean(rank["collectives"] for rank in ranks))
            products[name].append(statistics.mean(rank["product"] for rank in ranks))
            rates[name].append(ranks[0]["rate"])
        print(
            f"round {number + 1} of {rounds}: " + ", ".join(f"{name} {each[-1]:.2f} s" for name, each in times.items())
        )
    return {
        name: Measured(
            statistics.median(times[name]),
            statistics.median(shares[name]),
            statistics.median(products[name]),
            {phase: statistics.median(rate[phase] for rate in rates[name]) for phase in rates[name][0]},
        )
        for name in LAYOUTS
    }


def efficiency_table(case: Case, found: dict[str, Measured]) -> str:
    """Of two processes against one; and how fast one is."""
    alone = found["one process"]
    rows = []
    for name, one in found.items():
        speed = alone.seconds / one.seconds
        if name != "one process":
            rows.append(f"| {name} | {speed:.2f}x | {speed / 2:.0%} | {one.collectives:.0%} |")
    rates = ", ".join(f"{rate:.0%} ({phase})" for phase, rate in alone.rate.items())
    rate = f"One process runs the model's operations at this share of the rate of a plain fp32 matrix product: {rates}."
    about = (
        f"An update of {case.tokens} tokens, hidden size {case.hidden}, {case.layers} layers, vocabulary {case.vocab}; "
        "two processes of one thread against one, "
        f"{case.budget} tokens of a micro-batch per rank. "
        "Time in collectives includes waiting in them for the other rank."
    )
    head = ["| | speed | efficiency | in collectives |", "| --- | --: | --: | --: |"]
    both = statistics.median(one.product for name, one in found.items() if name != "one process")
    limit = (
        f"Plain matrix products in both processes at once run at {both / alone.product:.0%} of the rate of one alone: "
        "this is what two cores achieve on this machine before anything is exchanged."
    )
    return "\n".join([about, "", *head, *rows, "", limit, "", rate, ""])


Series = dict[str, list[tuple[Case, float, int]]]
"""Seconds and bytes of each case, by what grows."""


def growth_table(series: Series) -> str:
    """Slopes of time and memory: 1 is linear."""
    rows = []
    for name, points in series.items():
        sizes = _sizes(name, points)
        time = slope(sizes, [seconds for _, seconds, _ in points])
        memory = slope(sizes, [float(size) for _, _, size in points])
        rows.append(f"| {name} | {sizes[0]:.0f} to {sizes[-1]:.0f} | {time:.2f} | {memory:.2f} |")
    about = (
        "How an update grows, as slopes of logarithms (1: linear, 0: not at all); memory excludes weights and state."
    )
    return "\n".join([about, "", "| what grows | range | time | memory |", "| --- | --- | --: | --: |", *rows, ""])


def slope(sizes: list[float], values: list[float]) -> float:
    """Of log values over log sizes, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _sizes(name: str, points: list[tuple[Case, float, int]]) -> list[float]:
    return [float(case.layers if name == "layers" else case.tokens) for case, *_ in points]


def _alone(case: Case) -> tuple[float, int]:
    (rank,) = in_ranks(1, measure, case, 2, "bytes")
    return min(rank["seconds"]), int(rank["bytes"])


def _small(cases: list[Case], quick: bool) -> list[Case]:
    return [replace(case, hidden=64, layers=min(case.layers, 4), vocab=500) for case in cases[:2]] if quick else cases


def draw(series: Series, path: Path) -> None:
    """Time and memory over size, both logarithmic; beside a dotted line that is linear."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    time, memory = figure.subplots(1, 2)
    for name, points in series.items():
        sizes = np.array(_sizes(name, points)) / _sizes(name, points)[0]
        time.plot(sizes, [point[1] / points[0][1] for point in points], "o-", label=name)
        memory.plot(sizes, [point[2] / points[0][2] for point in points], "o-", label=name)
    for axes, title in ((time, "time of an update"), (memory, "its memory")):
        for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            scale("log", base=2)
            axis.set_major_formatter("{x:g}")
        axes.axline((1, 1), (2, 2), color="gray", linestyle=":")  # linear
        axes.set(title=title, xlabel="size, as a multiple of the first")
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _model_folder(case: Case, folder: Path) -> Path:
    config = {
        "model_type": "llama",
        "hidden_size": case.hidden,
        "intermediate_size": 8 * case.hidden // 3 // 16 * 16,
        "num_hidden_layers": case.layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": case.vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


if __name__ == "__main__":
    typer.run(main)
