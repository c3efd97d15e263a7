"""Runs that are simulated and held against their plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.models.family import Family, read_family
from aspo_megatron.plan.hardware import H100
from aspo_megatron.simulation.beside_plan import compared
from aspo_megatron.simulation.phases import Phase
from aspo_megatron.simulation.run import RankFigures, simulate

EXAMPLES = Path(__file__).parents[2] / "examples"
TOLERANCE = 0.05


def recipe_run(name: str, *overrides: str, model: Path | None = None) -> tuple[RunConfig, Family]:
    """A recipe, with other settings, and another model than its own."""
    folder = model or EXAMPLES / name / "model"
    return load_config(EXAMPLES / name / "run.yaml", [f"model.path={folder}", *overrides]), read_family(folder)


def shallow(name: str, layers: int, folder: Path) -> Path:
    """A recipe's model with few layers."""
    config = json.loads((EXAMPLES / name / "model" / "config.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    return folder


def simulated_run(name: str, rank: int, overrides: tuple[str, ...] = (), model: Path | None = None) -> RankFigures:
    """A step of a rank; for a process of its own."""
    run, family = recipe_run(name, *overrides, model=model)
    return simulate(run, family, rank, H100)


def check_plan(run: RunConfig, family: Family, figures: RankFigures) -> None:
    """The planned peak is that of the simulation, and so is that of each phase which the stand-in sees whole.

    A split optimizer's rank may not be the one with the largest parameter; other stages' exports are not seen.
    """
    found = compared(run, family, figures, H100)
    for phase, planned in found.planned_bytes.items():
        print(f"{phase}: planned {planned / 1e9:.2f} GB, simulated {figures.phases[phase].peak_bytes / 1e9:.2f} GB")
    print(f"the most: planned {found.planned_peak / 1e9:.2f} GB, simulated {figures.peak_bytes / 1e9:.2f} GB")
    if not run.rollout.servers.colocate:  # whose share of the GPU is planned alone
        assert found.planned_peak == pytest.approx(figures.peak_bytes, rel=TOLERANCE)
    unseen = {Phase.SYNC} if run.parallel.pp > 1 else set[Phase]()
    unseen |= {Phase.OPTIMIZER, Phase.SAVE} if run.parallel.distributed_optimizer else set()
    for phase in found.planned_bytes.keys() - unseen:
        assert found.planned_bytes[phase] == pytest.approx(figures.phases[phase].peak_bytes, rel=TOLERANCE), phase
