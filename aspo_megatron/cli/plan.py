"""`aspo plan`: whether a run fits, and how long a step may take, before any GPU is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.errors import ConfigError
from aspo_megatron.streams import say, show


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Rank layouts of this many GPUs; by default one per rank.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="What to plan for: a100 (80 GB), a100-40, h100 (80 GB), h800 (80 GB), h200 (141 GB), h20 (96 GB) or "
            "b200 (180 GB). Without it: h100 and h200, layouts for h100."
        ),
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Memory of the GPU, if not the usual size; GB of 10^9 bytes.")
    ] = None,
    layouts: Annotated[int, typer.Option(min=1, help="How many layouts to show.")] = 5,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Run one step of some ranks on a stand-in for a GPU; may take minutes."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Plan a run: memory of each rank, traffic, an estimate of a step's time, the best layouts (docs/planning.md).

    The model folder needs only config.json. If the model.path in CONFIG does not exist yet, the folder `model` beside
    CONFIG is read, and the first line says so. A model.path that you give here must exist.
    Layouts are ranked by time, if they leave a tenth of the GPU's memory free; faster ones that do not are marked.

    Nothing is started, unless you ask for --simulate. It runs one step here and now, without a GPU: the real model in
    its real layout on a device that has memory but no values (docs/simulation.md), one rank of the first, a middle and
    the last pipeline stage. You get the memory at the peak of each phase beside the plan's, operations, waits, copies
    and collectives. Where the two differ by more than a few per cent, trust the simulation.

    \b
      aspo plan run.yaml
      aspo plan run.yaml --simulate
      aspo plan run.yaml parallel.tp=4 model.recompute=full --simulate --json
      aspo plan run.yaml --gpus 32 --gpu h20
      aspo plan run.yaml --gpu h20 --gpu-memory 141
      aspo plan run.yaml model.path=Qwen3-8B parallel.tp=4 --json
    """
    if gpu_memory is not None and not 1 <= gpu_memory < 10_000:
        raise ConfigError(f"--gpu-memory {gpu_memory:g}: give the GB of a GPU's memory, such as 80")
    _show(config, overrides or [], (gpu, gpu_memory), gpus, layouts, simulate=simulate, as_json=as_json)


def _show(
    config: Path,
    overrides: list[str],
    asked: tuple[str | None, float | None],
    gpus: int | None,
    layouts: int,
    *,
    simulate: bool,
    as_json: bool,
) -> None:
    """Make the plan and show it. `asked`: short name and GB of the GPU, where they were given."""
    from aspo_megatron.checkpoint.usable import usable_here
    from aspo_megatron.config.io import load_config
    from aspo_megatron.models.tiny import model_shape
    from aspo_megatron.plan.as_json import plan_json
    from aspo_megatron.plan.hardware import gpu_called
    from aspo_megatron.plan.report import ModelSource, make_plan
    from aspo_megatron.plan.text import plan_text
    from aspo_megatron.simulation import beside_plan
    from aspo_megatron.simulation.report import simulation_text

    name, memory = asked
    on = None if name is None and memory is None else gpu_called(name or "h100", memory)
    run = load_config(config, overrides)
    folder = model_shape(run, config, overrides)
    source = ModelSource(folder / "config.json", None if folder == run.model.path else run.model.path)
    family = usable_here(folder, run.model.init)
    left_out: list[str] = []
    if simulate:
        run, left_out = beside_plan.simulated_form(run, folder)
    made = make_plan(run, family, gpus, on, layouts, source)
    if not simulate:
        show(json.dumps(plan_json(made), indent=2) + "\n" if as_json else plan_text(made), end="")
        return
    ranks = beside_plan.simulate_ranks(run, family, made.ranked_on, say)
    if as_json:
        found = plan_json(made) | {"simulated": beside_plan.as_json(ranks, left_out, made.ranked_on)}
        show(json.dumps(found, indent=2))
    else:
        show(f"{plan_text(made)}\n{simulation_text(run, ranks, left_out, made.ranked_on)}", end="")
