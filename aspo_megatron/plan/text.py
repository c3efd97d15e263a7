"""A plan as text."""

from __future__ import annotations

from collections.abc import Sequence

from aspo_megatron.config import ParallelConfig
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.models.counts import active_elements, model_elements
from aspo_megatron.plan.hardware import GB, H100
from aspo_megatron.plan.memory.workload import longest_prompt, worst_batch
from aspo_megatron.plan.report import Plan
from aspo_megatron.plan.table import table

LEFT_OUT = (
    "the rewards' own time",
    "evaluation, saves, exports",
    "problems that dynamic sampling drops and replaces",
    "ranks that wait for the longest responses",
    "the optimizer's step",
    "copies between GPU and host",
    "starts, compilation, warm-up",
)
"""What takes time in a run and is in none of the estimated seconds."""


def plan_text(plan: Plan) -> str:
    """The plan for people; the same wherever it is made."""
    parts = [
        _head(plan),
        _memory(plan),
        _host(plan),
        _engine(plan),
        _traffic(plan),
        _time(plan),
        _ranking(plan),
        _assumptions(plan),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


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
    active = f", {_count(active_elements(family))} of them active per token" if family.num_experts else ""
    source = f"config.json  {plan.source.config_json}"
    if plan.source.missing is not None:
        source += f" (model.path={plan.source.missing} does not exist yet)"
    prompt = longest_prompt(config, family.context_length)
    cut = ""
    if prompt < config.data.max_prompt_tokens:
        cut = f"; prompts of at most {prompt:,} tokens, limited by the model's context of {family.context_length:,}"
    return [
        one_line(source),
        f"model        {family.name}, {_count(model_elements(family))} parameters{active}; {config.model.dtype}",
        _all_gpus(plan),
        f"layout       {parallel.world_size} ranks, parallel: {layout_words(parallel)}, recompute: "
        f"{config.model.recompute}",
        f"micro-batch  at most {batch.tokens:,} tokens on a rank, {batch.scored:,} of them scored"
        + (f"; {batch.all_tokens:,} across cp" if parallel.cp > 1 else "")
        + cut,
    ]


def _all_gpus(plan: Plan) -> str:
    found, nodes = plan.all_gpus, counted(plan.all_gpus.nodes, "node")
    total = f"{found.total} in total"
    if not found.servers:
        what = f"{total}, for ranks, which also generate"
    elif found.shared:
        what = f"{total}, shared in turn by {found.ranks} ranks and the servers on {found.servers}"
    else:
        what = f"{total}: {found.ranks} for ranks, {found.servers} for servers"
    return f"GPUs         {what}; {nodes} of {found.gpus_of_node} GPUs"


def _memory(plan: Plan) -> list[str]:
    on = plan.on[0]
    stages = on.stages
    rows: list[tuple[str, Sequence[int]]] = [
        ("weights", [stage.resident.weights for stage in stages]),
        ("gradients", [stage.resident.gradients for stage in stages]),
        ("  in updates alone", [stage.passing.given_back for stage in stages]),
        ("optimizer", [stage.resident.optimizer for stage in stages]),
        ("reference model", [stage.resident.reference for stage in stages]),
        ("old log-probs' pass", [stage.passing.scoring for stage in stages]),
        ("reference's pass", [stage.passing.reference for stage in stages]),
        ("an update: activations", [stage.passing.activations for stage in stages]),
        ("  in forward", [stage.passing.forward for stage in stages]),
        ("  in backward", [stage.passing.backward for stage in stages]),
        ("  gradient of embedding", [stage.passing.embedding for stage in stages]),
        ("  optimizer's step", [stage.passing.optimizer for stage in stages]),
        ("generation", [stage.generation for stage in stages]),
        ("weight sync", [stage.sync for stage in stages]),
        ("save", [stage.save for stage in stages]),
        ("reserved", [stage.reserved for stage in stages]),
        ("at the peak", [stage.total for stage in stages]),
    ]
    lines = table(
        ["memory of a rank, GB", *(f"stage {stage.stage}" for stage in stages)],
        ([name, *(f"{value / GB:.2f}" for value in values)] for name, values in rows if any(values)),
    )
    for each in plan.on:
        spare = (each.gpu.memory - each.memory) / GB
        verdict = f"fits, {spare:.1f} GB to spare" if spare >= 0 else "does not fit"
        if plan.assume.is_tight(each.memory, each.gpu):
            verdict = f"tight, {spare:.1f} GB to spare: less than {plan.assume.spare:.0%}"
        lines.append(f"{each.memory / GB:.1f} GB on {each.gpu.memory / GB:g} GB ({each.gpu.name}): {verdict}")
    return lines


def _host(plan: Plan) -> list[str]:
    """Memory of the host; nothing where none is locked."""
    if not plan.locked_on_node:
        return []
    rows = [
        ("reference model", [each.reference for each in plan.locked]),
        ("optimizer", [each.optimizer for each in plan.locked]),
        ("save", [each.save for each in plan.locked]),
        ("total", [each.total for each in plan.locked]),
    ]
    lines = table(
        ["locked memory of the host, GB", *(f"stage {stage}" for stage in range(len(plan.locked)))],
        ([name, *(f"{value / GB:.2f}" for value in values)] for name, values in rows if any(values)),
    )
    return [*lines, f"all ranks of a node: {plan.locked_on_node / GB:.0f} GB, plus what is lost in blocks of 256 MiB"]


def _engine(plan: Plan) -> list[str]:
    rows = []
    for each in plan.on:
        engine = each.engine
        room = f"{engine.cache / GB:.1f}" if engine.cached_tokens else "no room"
        rows.append([each.gpu.name, f"{engine.weights / GB:.1f}", room, f"{engine.cached_tokens:,}"])
    what = "the engine in each rank" if plan.on[0].engine.kind == "embedded" else _servers(plan)
    return [what, *table(["on a GPU", "weights, GB", "cache, GB", "tokens in cache"], rows)]


def _servers(plan: Plan) -> str:
    servers, engine = plan.config.rollout.servers, plan.on[0].engine
    fraction = servers.memory_fraction or plan.assume.server_fraction
    where = "on the trainer's GPUs" if servers.colocate else "on their own GPUs"
    size = "one GPU each" if engine.gpus == 1 else f"{engine.gpus} GPUs each"
    return f"{engine.count} SGLang servers, {size}, {where}, {fraction:.0%} of the memory for weights and cache"


def _traffic(plan: Plan) -> list[str]:
    first = plan.on[0].time.traffic
    rows = [
        [
            each.axis,
            f"{each.bytes / GB:.1f}",
            "NVLink" if each.within_node else "network",
            *(f"{each.seconds(on.gpu, plan.assume.link):.1f}" for on in plan.on),
        ]
        for each in first
    ]
    return table(["traffic of a step", "GB sent per GPU", "over", *(f"s, {on.gpu.name}" for on in plan.on)], rows)


def _time(plan: Plan) -> list[str]:
    rows = [
        ("generation", [on.time.generation for on in plan.on]),
        ("old and reference log-probs", [on.time.scoring for on in plan.on]),
        ("updates", [on.time.training for on in plan.on]),
        ("waiting", [on.time.idle for on in plan.on]),
        ("traffic", [on.time.traffic_seconds for on in plan.on]),
        ("step", [on.time.total for on in plan.on]),
    ]
    lines = table(
        ["estimated seconds", *(on.gpu.name for on in plan.on)],
        ([name, *(_seconds(value) for value in values)] for name, values in rows),
    )
    lines.append(f"not included: {', '.join(LEFT_OUT)}")
    if plan.config.rollout.overlap != "none":
        lines.append(f"rollout.overlap={plan.config.rollout.overlap}: generation and the rest run at the same time")
    return lines


def _ranking(plan: Plan) -> list[str]:
    rows = [
        [
            f"{number}",
            layout_words(each.parallel),
            each.recompute,
            f"{each.memory / GB:.1f}",
            _seconds(each.time.trainer),
            ", ".join(each.reasons),
        ]
        for number, each in enumerate(plan.best, start=1)
    ]
    head = (
        f"best layouts of {plan.gpus} GPUs ({plan.ranked_on.name}) for the ranks: by time; within 10%, the smallest "
        f"pp x cp; tight ones (less than {plan.assume.spare:.0%} to spare) last"
    )
    if plan.best and not plan.best[0].fits:
        head = f"no layout of {plan.gpus} GPUs fits on {plan.ranked_on.name}; the smallest:"
    lines = [head, *table(["", "parallel", "recompute", "GB", "s", "why"], rows, left=(1, 2, 5))]
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
        *_mfu(plan),
        f"  {a.decode:.0%} of the memory bandwidth in generation, {a.elementwise:.0%} of it to add gradients; "
        f"{a.link:.0%} of a link's bandwidth; {a.call * 1e6:.0f} us of host time per PyTorch operation (calls)",
        f"  for time, responses average {a.length:.0%} of the longest, and prompts {a.prompt:.0%}; for memory, "
        "both are the longest",
        f"  {a.reserved / GB:.0f} GB for CUDA, NCCL and cuBLAS, {a.fragments:.0%} of an update's memory lost to "
        "fragments",
        "  megatron's local layers, PyTorch's attention and Adam; experts used evenly; nothing overlaps; no GPU has "
        "been measured",
        "  communication within 8 GPUs goes over NVLink, beyond that over the network",
    ]
    for on in plan.on:
        gpu = on.gpu
        lines.append(
            f"  {gpu.name}: {gpu.bf16 / 1e12:.0f} TFLOP/s, {gpu.hbm / 1e12:g} TB/s, NVLink {gpu.nvlink / GB:.0f} "
            f"GB/s, network {gpu.network / GB:.0f} GB/s per GPU ({gpu.source})"
        )
    return lines


def _mfu(plan: Plan) -> list[str]:
    """The share of the peak that training is taken to reach, and why."""
    a = plan.assume
    others = [
        f"{a.mfu_on(on.gpu):.0%} on {on.gpu.name}"
        for on in plan.on
        if on.gpu.bf16 != H100.bf16 or on.gpu.hbm != H100.hbm
    ]
    return [
        f"  {a.mfu:.0%} of the BF16 peak in training on an H100 (MFU), assumed: Megatron-LM's README reports up to 47% "
        "for pretraining with Transformer Engine;",
        "  megatron's local layers, prompts and responses of uneven length, and log-probs in fp32 reach less; products "
        f"alone {a.products:.0%},",
        "  and the rest waits for memory, at each GPU's own bandwidth" + (f": {', '.join(others)}" if others else ""),
    ]


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
