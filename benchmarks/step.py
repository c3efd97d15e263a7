"""One complete reinforcement-learning step here and in TRL: generation, rewards, log-probs, two optimizer steps.

    python3.11 -m venv .venv-trl && .venv-trl/bin/pip install torch==2.13.0 trl==1.16.0     # an environment of its own
    python -m benchmarks.step --trl .venv-trl/bin/python                  # an hour on two CPU cores
    python -m benchmarks.step --trl .venv-trl/bin/python --workload short --rounds 1
    python -m benchmarks.step                                             # this project alone

Both sides have the same model, prompts, batch, lengths and dtype (fp32), and take turns. See benchmarks/README.md.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml

from benchmarks.measure import machine
from benchmarks.process_memory import CommandFailedError, peak_of
from benchmarks.step_workloads import WORKLOADS, Task, Workload, prepare

PHASES = ("generate", "score", "update", "step")
OURS, TRL = "aspo-megatron", "TRL"


@dataclass(frozen=True)
class Measured:
    """One run of a side: of each step its response tokens and seconds by phase; and the peak bytes."""

    steps: list[dict[str, float]]
    peak: int


def main(
    trl: Annotated[Path | None, typer.Option(help="A Python that has TRL.")] = None,
    model: Annotated[Path, typer.Option(help="SmolLM2: `make models/SmolLM2-135M-Instruct/config.json`.")] = Path(
        "models/SmolLM2-135M-Instruct"
    ),
    workload: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(WORKLOADS)}; repeatable. All by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Runs of each side.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps of a run.")] = 2,
    ranks: Annotated[int, typer.Option(help="Data-parallel ranks of ours; they share the threads.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of a side.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for step_benchmark.md.")] = Path("docs"),
) -> None:
    """Measure steps of both sides in turns; write a table of ratios."""
    if not (model / "config.json").is_file():
        raise typer.BadParameter(f"{model} is no model folder", param_hint="--model")
    unknown = set(workload or ()) - WORKLOADS.keys()
    if unknown:
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}: there are {', '.join(WORKLOADS)}", param_hint="--workload"
        )
    results: dict[str, dict[str, list[Measured]]] = {}
    for name in workload or WORKLOADS:
        try:
            results[name] = _measure(WORKLOADS[name], model, trl, rounds, steps, ranks, threads)
        except CommandFailedError as error:
            raise typer.BadParameter(str(error)) from None
    text = report(results)
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "step_benchmark.md").write_text(text)


def _measure(
    workload: Workload, model: Path, trl: Path | None, rounds: int, steps: int, ranks: int, threads: int
) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {side: [] for side in ((OURS,) if trl is None else (OURS, TRL))}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        task = prepare(workload, model, folder, steps, threads)
        task.write(folder / "task.json")
        for number in range(rounds):
            found[OURS].append(_ours(task, folder / f"ours-{number}", ranks))
            if trl is not None:
                found[TRL].append(_trl(trl, folder, number))
            last = ", ".join(f"{side} {runs[-1].steps[-1]['step']:.1f} s" for side, runs in found.items())
            print(f"{workload}: round {number + 1} of {rounds}, last step: {last}", flush=True)
    return found


def _ours(task: Task, run: Path, ranks: int) -> Measured:
    run.with_suffix(".yaml").write_text(yaml.safe_dump(_config(task, run, ranks)))
    command = [sys.executable, "-m", "aspo_megatron.cli", "train", str(run.with_suffix(".yaml"))]
    root = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    env.pop("OMP_NUM_THREADS", None)
    peak = peak_of(command, run.with_suffix(".log"), env)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [
        {
            "tokens": line["response_tokens/mean"] * task.prompts * task.responses,
            "step": line["seconds/step"],
            "generate": line["seconds/generate"] + line["seconds/sync"],
            "score": line["seconds/reward"] + line["seconds/old_log_probs"] + line["seconds/reference_log_probs"],
            "update": line["seconds/update"],
        }
        for line in lines
        if "seconds/step" in line
    ]
    return Measured(steps, peak)


def _config(task: Task, run: Path, ranks: int) -> dict[str, Any]:
    samples = task.prompts * task.responses
    return {
        "output_dir": str(run),
        "model": {"path": task.model},
        "platform": {"device": "cpu", "threads_per_rank": max(task.threads // ranks, 1)},
        "parallel": {"dp": ranks},
        "data": {"train": {"kind": "jsonl", "path": task.problems}, "format": "raw"},
        "rollout": {
            "prompts_per_step": task.prompts,
            "responses_per_prompt": task.responses,
            "sampling": {"max_response_tokens": task.tokens, "temperature": 1.0},
            "max_batch_tokens": samples * (task.tokens + 64),
        },
        "reward": {"kind": "benchmarks.step_reward:vowels", "workers": 1},
        "loss": {"name": "grpo", "kl_coef": task.kl_coef, "kl_estimator": "k3"},
        "optimizer": {"lr": task.lr, "weight_decay": 0.0},
        "train": {"steps": task.steps, "prompts_per_update": task.prompts // 2},
        "eval": {"every": 0},
        "checkpoint": {"every": 0},
    }


def _trl(python: Path, folder: Path, number: int) -> Measured:
    result = folder / f"trl-{number}.json"
    script = Path(__file__).with_name("step_trl.py")
    command = [str(python), "-W", "ignore", str(script), str(folder / "task.json"), str(result)]
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    peak = peak_of(command, result.with_suffix(".log"), env | {"HF_HUB_OFFLINE": "1"})
    return Measured(json.loads(result.read_text()), peak)


def report(results: dict[str, dict[str, list[Measured]]]) -> str:
    """Tables of medians over the runs: speeds and memory as ratios, seconds by phase."""
    header = [
        "workload",
        "tokens/s as a multiple of TRL's",
        "peak memory / TRL's",
        *(f"{phase}: {side}, s" for phase in PHASES for side in (OURS, TRL)),
    ]
    rows = []
    for name, sides in results.items():
        if TRL in sides:
            speed = _speed(sides[OURS]) / _speed(sides[TRL])
            memory = statistics.median(run.peak for run in sides[OURS]) / statistics.median(
                run.peak for run in sides[TRL]
            )
            ratios = [f"{speed:.2f}", f"{memory:.2f}"]
        else:
            ratios = ["-"] * 2
        phases = [
            f"{statistics.median(step[phase] for run in sides[side] for step in run.steps):.1f}"
            if side in sides
            else "-"
            for phase in PHASES
            for side in (OURS, TRL)
        ]
        rows.append([str(WORKLOADS[name]), *ratios, *phases])
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"# Benchmark of a whole step\n\nWritten by `python -m benchmarks.step`, on {machine(torch.device('cpu'))}. "
        "Medians over steps and rounds; seconds are only meaningful relative to each other. `generate` includes the "
        f"weight sync; `score` covers rewards, old and reference log-probs.\n\n{table}\n"
    )


def _speed(runs: Sequence[Measured]) -> float:
    """Response tokens a second, in the median run."""
    return statistics.median(
        sum(step["tokens"] for step in run.steps) / sum(step["step"] for step in run.steps) for run in runs
    )


if __name__ == "__main__":
    typer.run(main)
