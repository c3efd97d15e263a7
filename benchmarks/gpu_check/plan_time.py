"""Seconds of a run's phases as `aspo plan` estimates them on this card, beside those that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aspo_megatron.config import RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.plan.estimate import step_time
from aspo_megatron.plan.generation import planned_engine
from aspo_megatron.plan.hardware import Assumptions, Gpu
from aspo_megatron.plan.memory.parameters import bytes_per_weight
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.update_work import card_of

GENERATION, LOG_PROBS, UPDATES = "generation", "old and reference log-probs", "updates"


def planned_seconds(config: RunConfig, family: Family, card: Gpu, length: float) -> dict[str, float]:
    """Of a step on `card`, by phase, by the plan's formulas and assumptions.

    `length`: of the mean response, as a share of the longest. Prompts have the greatest length.
    """
    assume = replace(Assumptions(), length=length, prompt=1.0)
    size = bytes_per_weight(config.model.dtype)
    engine = planned_engine(config, family, card, assume, size)
    time = step_time(config, family, config.parallel, engine, card, assume)
    return {GENERATION: time.generation, LOG_PROBS: time.scoring, UPDATES: time.training}


def show_beside_plan(
    sheet: Sheet, place: Place, name: str, measured: Mapping[str, float], plan: tuple[RunConfig, Family, float]
) -> None:
    """A line for each phase in `measured`: its seconds as a multiple of the planned ones.

    `plan`: what `planned_seconds` takes beside the card.
    """
    card = card_of(place)
    config, family, length = plan
    planned = {} if isinstance(card, str) else planned_seconds(config, family, card, length)
    for phase, seconds in measured.items():
        label = f"{name}: {phase}, measured / planned"
        if isinstance(card, str):
            sheet.not_done(label, card)
        else:
            reference = f"aspo plan for an {card.name}: {planned[phase]:.4g} s"
            sheet.measured(label, seconds / planned[phase], "", reference=reference, note=f"{seconds:.4g} s")
