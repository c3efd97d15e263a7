"""A plan: its figures, as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.plan.estimate import StepTime, step_time
from aspo_megatron.plan.generation import Engine, engine_of
from aspo_megatron.plan.hardware import GPUS, Assumptions, Gpu
from aspo_megatron.plan.layouts import Rated, StageMemory, best_layouts, stage_memory
from aspo_megatron.plan.parameters import active_elements, model_elements
from aspo_megatron.plan.setting import setting_of
from aspo_megatron.plan.workload import worst_batch

_GB = 10**9


@dataclass(frozen=True)
class OnGpu:
    """The configured layout on one kind of GPU. `servers_fit`: the weights of a server, with room for a cache."""

    gpu: Gpu
    stages: tuple[StageMemory, ...]
    engine: Engine
    time: StepTime

    @property
    def memory(self) -> int:
        """Of the fullest rank."""
        return max(stage.total for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether trainer's ranks fit, and at colocation or beside it the engine."""
        return self.memory <= self.gpu.memory and self.servers_fit

    @property
    def servers_fit(self) -> bool:
        """Whether the engine has room for at least some keys and values."""
        return self.engine.cached_tokens > 0


@dataclass(frozen=True)
class Plan:
    """All that `aspo plan` shows. `gpus`: how many the ranked layouts are for."""

    config: RunConfig
    family: Family
    on: tuple[OnGpu, ...]
    gpus: int
    ranked_on: Gpu
    best: tuple[Rated, ...]
    assume: Assumptions

    def as_json(self) -> dict[str, Any]:
        """Figures in bytes, seconds and operations."""
        return {
            "model": {
                "family": self.family.name,
                "parameters": model_elements(self.family),
                "active_parameters": active_elements(self.family),
                "dtype": self.config.model.dtype,
            },
            "layout": self.config.parallel.model_dump(),
            "recompute": self.config.model.recompute,
            "on": [_on_json(each) for each in self.on],
            "best": {
                "gpus": self.gpus,
                "gpu": self.ranked_on.name,
                "layouts": [
                    {
                        "parallel": each.parallel.model_dump(),
                        "recompute": each.recompute,
                        "memory": each.memory,
                        "fits": each.fits,
                        "trainer_seconds": each.time.trainer,
                        "reasons": list(each.reasons),
                    }
                    for each in self.best
                ],
            },
            "assumptions": asdict(self.assume),
        }


def make_plan(
    config: RunConfig, family: Family, gpus: int | None = None, ranked_on: Gpu = GPUS[0], count: int = 5
) -> Plan:
    """The figures of a run, and the best layouts of `gpus` GPUs (those of the configuration's ranks if None).

    Raises:
        ConfigError: the model cannot be split as configured, or the loss is none.
    """
    assume = Assumptions()
    parallel = config.parallel
    family.check_layout(parallel)
    setting = setting_of(config, parallel)
    on = []
    for gpu in GPUS:
        engine = engine_of(config, family, gpu, assume, setting.bytes)
        stages = tuple(
            stage_memory(config, family, parallel, stage, gpu, assume, setting) for stage in range(parallel.pp)
        )
        on.append(OnGpu(gpu, stages, engine, step_time(config, family, parallel, engine, gpu, assume)))
    gpus = gpus or parallel.world_size
    best = best_layouts(config, family, gpus, ranked_on, assume, count)
    return Plan(config, family, tuple(on), gpus, ranked_on, tuple(best), assume)


def _on_json(on: OnGpu) -> dict[str, Any]:
    stages = []
    for stage in on.stages:
        moments = {**asdict(stage.passing), "peak": stage.passing.peak, "when": stage.passing.when}
        stages.append({**asdict(stage), "passing": moments, "total": stage.total})
    time = on.time
    return {
        "gpu": on.gpu.name,
        "memory": on.gpu.memory,
        "fits": on.fits,
        "total": on.memory,
        "stages": stages,
        "engine": asdict(on.engine),
        "seconds": {
            "generation": time.generation,
            "scoring": time.scoring,
            "training": time.training,
            "waiting": time.idle,
            "traffic": time.traffic_seconds,
            "step": time.total,
        },
        "traffic": [asdict(each) for each in time.traffic],
        "operations": time.operations,
    }


# ---- text ----------------------------------------------------------------------------------------------------


def text(plan: Plan) -> str:
    """The plan for people; the same wherever it is made."""
    parts = [_head(plan), _memory(plan), _engine(plan), _traffic(plan), _time(plan), _ranking(plan), _assumptions(plan)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def layout_words(parallel: ParallelConfig) -> str:
    """The keys of a layout that are not at their defaults, as they are written in a configuration."""
    words = []
    for key, value in parallel.model_dump().items():
        if value != ParallelConfig.model_fields[key].default:
            shown = str(value).lower() if isinstance(value, bool) else str(list(value) if key == "pp_layers" else value)
            words.append(f"{key}: {shown}")
    return "{" + ", ".join(words) + "}"


def _head(plan: Plan) -> list[str]:
    config, family = plan.config, plan.family
    parallel = config.parallel
    batch = worst_batch(config, family, parallel)
    active = f", {_count(active_elements(family))} of them for a token" if family.num_experts else ""
    return [
        f"model        {family.name}, {_count(model_elements(family))} parameters{active}; {config.model.dtype}",
        f"layout       {parallel.world_size} ranks, parallel: {layout_words(parallel)}, recompute: "
        f"{config.model.recompute}",
        f"micro-batch  {batch.tokens:,} tokens on a rank at the most, {batch.scored:,} of them scored"
        + (f"; {batch.all_tokens:,} over cp" if parallel.cp > 1 else ""),
    ]


def _memory(plan: Plan) -> list[str]:
    on = plan.on[0]
    stages = on.stages
    rows: list[tuple[str, Sequence[int]]] = [
        ("weights", [stage.resident.weights for stage in stages]),
        ("gradients", [stage.resident.gradients for stage in stages]),
        ("optimizer", [stage.resident.optimizer for stage in stages]),
        ("reference model", [stage.resident.reference for stage in stages]),
        ("an update: activations", [stage.passing.activations for stage in stages]),
        ("  with log-probs", [stage.passing.log_probs for stage in stages]),
        ("  in backward", [stage.passing.backward for stage in stages]),
        ("  gradient of embedding", [stage.passing.embedding for stage in stages]),
        ("  optimizer's step", [stage.passing.optimizer for stage in stages]),
        ("  reference's pass", [stage.passing.reference for stage in stages]),
        ("generation", [stage.generation for stage in stages]),
        ("weight sync", [stage.sync for stage in stages]),
        ("reserved", [stage.reserved for stage in stages]),
        ("at the worst moment", [stage.total for stage in stages]),
    ]
    lines = _table(
        ["memory of a rank, GB", *(f"stage {stage.stage}" for stage in stages)],
        ([name, *(f"{value / _GB:.2f}" for value in values)] for name, values in rows if any(values)),
    )
    for each in plan.on:
        verdict = "fits" if each.memory <= each.gpu.memory else "does not fit"
        lines.append(f"{verdict} on {each.gpu.memory // _GB} GB ({each.gpu.name}): {each.memory / _GB:.1f} GB")
    return lines


def _engine(plan: Plan) -> list[str]:
    rows = []
    for each in plan.on:
        engine = each.engine
        room = f"{engine.cache / _GB:.1f}" if engine.cached_tokens else "no room"
        rows.append([each.gpu.name, f"{engine.weights / _GB:.1f}", room, f"{engine.cached_tokens:,}"])
    what = "the engine in each rank" if plan.on[0].engine.kind == "embedded" else _servers(plan)
    return [what, *_table(["on a GPU", "weights, GB", "cache, GB", "tokens in cache"], rows)]


def _servers(plan: Plan) -> str:
    servers, engine = plan.config.rollout.servers, plan.on[0].engine
    fraction = servers.memory_fraction or plan.assume.server_fraction
    where = "on the trainer's GPUs" if servers.colocate else "on GPUs of their own"
    size = "a GPU each" if engine.gpus == 1 else f"{engine.gpus} GPUs each"
    return f"{engine.count} SGLang servers, {size}, {where}, {fraction:.0%} of the memory for weights and cache"


def _traffic(plan: Plan) -> list[str]:
    first = plan.on[0].time.traffic
    rows = [
        [
            each.axis,
            f"{each.bytes / _GB:.1f}",
            "NVLink" if each.within_node else "network",
            *(f"{each.seconds(on.gpu, plan.assume.link):.1f}" for on in plan.on),
        ]
        for each in first
    ]
    return _table(["traffic of a step", "GB sent by a GPU", "over", *(f"s, {on.gpu.name}" for on in plan.on)], rows)


def _time(plan: Plan) -> list[str]:
    rows = [
        ("generation", [on.time.generation for on in plan.on]),
        ("old and reference log-probs", [on.time.scoring for on in plan.on]),
        ("updates", [on.time.training for on in plan.on]),
        ("waiting", [on.time.idle for on in plan.on]),
        ("traffic", [on.time.traffic_seconds for on in plan.on]),
        ("step", [on.time.total for on in plan.on]),
    ]
    return _table(
        ["estimated seconds", *(on.gpu.name for on in plan.on)],
        ([name, *(_seconds(value) for value in values)] for name, values in rows),
    )


def _ranking(plan: Plan) -> list[str]:
    rows = [
        [
            f"{number}",
            layout_words(each.parallel),
            each.recompute,
            f"{each.memory / _GB:.1f}",
            _seconds(each.time.trainer),
            ", ".join(each.reasons),
        ]
        for number, each in enumerate(plan.best, start=1)
    ]
    head = f"best layouts of {plan.gpus} GPUs ({plan.ranked_on.name}) for the trainer"
    if plan.best and not plan.best[0].fits:
        head = f"no layout of {plan.gpus} GPUs fits on {plan.ranked_on.name}; the smallest"
    lines = [head, *_table(["", "parallel", "recompute", "GB", "s", "why"], rows, left=(1, 2, 5))]
    if plan.best:
        best = plan.best[0]
        lines += [
            "to paste:",
            f"  parallel: {layout_words(best.parallel)}",
            f"  model: {{recompute: {best.recompute}}}",
        ]
    return lines


def _assumptions(plan: Plan) -> list[str]:
    a = plan.assume
    lines = [
        "assumptions",
        f"  {a.mfu:.0%} of the BF16 peak in training (MFU); {a.decode:.0%} of the memory's rate in generation; "
        f"{a.link:.0%} of a link's",
        f"  responses of {a.length:.0%} of the longest and prompts of {a.prompt:.0%} of it in the mean, for time; "
        "the longest of both for memory",
        f"  {a.reserved / _GB:.0f} GB for CUDA, NCCL and cuBLAS, {a.fragments:.0%} of an update's memory lost to "
        "fragments",
        "  megatron's local layers, PyTorch's attention and Adam; experts used evenly; nothing overlaps; no GPU has "
        "been measured",
        "  communication within 8 GPUs over NVLink, beyond over the network",
    ]
    for on in plan.on:
        gpu = on.gpu
        lines.append(
            f"  {gpu.name}: {gpu.bf16 / 1e12:.0f} TFLOP/s, {gpu.hbm / 1e12:g} TB/s, NVLink {gpu.nvlink / _GB:.0f} "
            f"GB/s, network {gpu.network / _GB:.0f} GB/s a GPU ({gpu.source})"
        )
    return lines


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    """Columns as wide as they must be; the first and those of `left` begin at the left."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 or column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
