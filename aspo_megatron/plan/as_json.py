"""A plan as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aspo_megatron.models.counts import active_elements, model_elements
from aspo_megatron.plan.layouts import Rated
from aspo_megatron.plan.report import OnGpu, Plan
from aspo_megatron.plan.text import LEFT_OUT


def plan_json(plan: Plan) -> dict[str, Any]:
    """Figures in bytes, seconds and operations."""
    missing = plan.source.missing
    return {
        "model": {
            "config_json": str(plan.source.config_json),
            "missing_model_path": None if missing is None else str(missing),
            "family": plan.family.name,
            "parameters": model_elements(plan.family),
            "active_parameters": active_elements(plan.family),
            "dtype": plan.config.model.dtype,
        },
        "gpus": {**asdict(plan.all_gpus), "total": plan.all_gpus.total},
        "layout": plan.config.parallel.model_dump(),
        "recompute": plan.config.model.recompute,
        "on": [_on(plan, each) for each in plan.on],
        "host": {
            "locked": [{**asdict(each), "total": each.total} for each in plan.locked],
            "locked_on_node": plan.locked_on_node,
        },
        "best": {
            "gpus": plan.gpus,
            "gpu": plan.ranked_on.name,
            "layouts": [_rated(each) for each in plan.best],
        },
        "assumptions": {
            **asdict(plan.assume),
            "mfu_on": {each.gpu.name: plan.assume.mfu_on(each.gpu) for each in plan.on},
            "left_out_of_seconds": list(LEFT_OUT),
        },
    }


def _rated(each: Rated) -> dict[str, Any]:
    return {
        "parallel": each.parallel.model_dump(),
        "recompute": each.recompute,
        "memory": each.memory,
        "fits": each.fits,
        "tight": each.tight,
        "trainer_seconds": each.time.trainer,
        "reasons": list(each.reasons),
    }


def _on(plan: Plan, on: OnGpu) -> dict[str, Any]:
    stages = []
    for stage in on.stages:
        moments = {**asdict(stage.passing), "peak": stage.passing.peak, "when": stage.passing.when}
        stages.append({**asdict(stage), "passing": moments, "total": stage.total})
    time = on.time
    return {
        "gpu": on.gpu.name,
        "memory": on.gpu.memory,
        "fits": on.fits,
        "tight": on.fits and plan.assume.is_tight(on.memory, on.gpu),
        "total": on.memory,
        "stages": stages,
        "engine": asdict(on.engine),
        "seconds": {
            "generation": time.generation,
            "scoring": time.scoring,
            "training": time.training,
            "waiting": time.idle,
            "calls": time.starved,
            "traffic": time.traffic_seconds,
            "step": time.total,
        },
        "traffic": [asdict(each) for each in time.traffic],
        "operations": time.operations,
    }
