"""`aspo plan`: whether a run fits, and how long a step may take, before any GPU is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.streams import say, show


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Rank layouts of so many GPUs; as many as ranks.")] = None,
    gpu: Annotated[str, typer.Option(help="What layouts are ranked for: h100 (80 GB) or h200 (141 GB).")] = "h100",
    layouts: Annotated[int, typer.Option(min=1, help="How many layouts to show.")] = 5,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Run one step of ranks of the run on a stand-in for a GPU; up to minutes."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Plan a run: memory of each rank, traffic, an estimate of a step's time, the best layouts (docs/planning.md).

    The model folder needs no more than config.json; where there is none yet, that of `model` beside CONFIG is read.

    Nothing is started, unless you ask for --simulate. It runs one step here and now, without a GPU: the real model in
    its real layout on a device that has memory and no values (docs/simulation.md), one rank of the first, a middle and
    the last pipeline stage. Micro-batches are as full as they can be. You get the memory at the peak of each phase
    beside the plan's; operations, times that the host waits for the GPU, copies of pageable memory; bytes that go into
    each kind of collective. Where the two differ by more than some per cent, believe the simulation.

    \b
      aspo plan run.yaml
      aspo plan run.yaml --simulate
      aspo plan run.yaml parallel.tp=4 model.recompute=full --simulate --json
      aspo plan run.yaml --gpus 32 --gpu h200
      aspo plan run.yaml model.path=Qwen3-8B parallel.tp=4 --json
    """
    from aspo_megatron.checkpoint.usable import usable_here
    from aspo_megatron.config.io import load_config
    from aspo_megatron.models.tiny import model_shape
    from aspo_megatron.plan.hardware import gpu_called
    from aspo_megatron.plan.report import make_plan
    from aspo_megatron.plan.text import plan_text
    from aspo_megatron.simulation import beside_plan
    from aspo_megatron.simulation.report import simulation_text

    on = gpu_called(gpu)
    run = load_config(config, overrides or [])
    folder = model_shape(run, config)
    family = usable_here(folder, run.model.init)
    left_out: list[str] = []
    if simulate:
        run, left_out = beside_plan.simulated_form(run, folder)
    made = make_plan(run, family, gpus, on, layouts)
    if not simulate:
        show(json.dumps(made.as_json(), indent=2) + "\n" if as_json else plan_text(made), end="")
        return
    ranks = beside_plan.simulate_ranks(run, family, on, say)
    if as_json:
        found = made.as_json() | {"simulated": beside_plan.as_json(ranks, left_out, on)}
        show(json.dumps(found, indent=2))
    else:
        show(f"{plan_text(made)}\n{simulation_text(run, ranks, left_out, on)}", end="")
