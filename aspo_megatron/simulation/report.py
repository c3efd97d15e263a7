"""What was simulated, as text: memory by phase beside the plan's, operations, waits, copies, collectives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aspo_megatron.config import RunConfig
from aspo_megatron.plan.hardware import GB, Gpu
from aspo_megatron.plan.table import table
from aspo_megatron.simulation.beside_plan import Compared
from aspo_megatron.simulation.phases import Phase


def simulation_text(config: RunConfig, ranks: Sequence[Compared], left_out: Sequence[str], gpu: Gpu) -> str:
    """For people."""
    article = "an" if gpu.name[0] in "AH" else "a"
    head = f"one step of the model on a stand-in for {article} {gpu.name}: nothing is computed (docs/simulation.md)"
    parts = [[head, *left_out]]
    for each in ranks:
        parts += [_phases(config, each), _collectives(each), _host(each)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _phases(config: RunConfig, each: Compared) -> list[str]:
    figures, planned = each.figures, each.planned_bytes
    rows = []
    for phase, size in planned.items():
        found = figures.phases[phase]
        counts = [found.calls.total(), found.waits.total(), found.copies.total()]
        rows.append(
            [str(phase), *_beside(size, found.peak_bytes), *(f"{count:,}" if count else "" for count in counts)]
        )
    rows.append(["peak", *_beside(each.planned_peak, figures.peak_bytes), "", "", ""])
    whole = f"{figures.micro_batches} micro-batch" + ("es" if figures.micro_batches > 1 else "")
    head = f"rank {figures.rank} of {config.parallel.world_size}, stage {figures.stage}, {whole}"
    columns = ["planned, GB", "simulated", "apart", "operations", "waits", "pageable copies"]
    return table([head, *columns], rows)


def _beside(planned: int, simulated: int) -> list[str]:
    apart = f"{planned / simulated - 1:+.1%}"
    return [f"{planned / GB:.2f}", f"{simulated / GB:.2f}", "0.0%" if float(apart[:-1]) == 0 else apart]


def _collectives(each: Compared) -> list[str]:
    """Bytes of each kind that the rank puts in; phases of an update are one column."""
    phases = each.figures.phases
    columns: dict[str, Counter[str]] = {}
    for phase in (Phase.SCORING, Phase.REFERENCE, Phase.FORWARD, Phase.BACKWARD, Phase.EMBEDDING, Phase.OPTIMIZER):
        if phase in phases:
            columns.setdefault(str(phase).partition(":")[0], Counter()).update(phases[phase].traffic)
    for phase in (Phase.SYNC, Phase.SAVE):
        if phase in phases:
            columns[str(phase)] = phases[phase].traffic
    names = sorted({name for traffic in columns.values() for name in traffic})
    if not names:
        return []
    rows = ([_kind(name), *(f"{column[name] / GB:.2f}" for column in columns.values())] for name in names)
    return table(["put into collectives, GB", *columns], rows)


def _kind(name: str) -> str:
    return name.strip("_").removesuffix("_base").replace("allgather", "all-gather").replace("alltoall", "all-to-all")


def _host(each: Compared) -> list[str]:
    names = {"reference": each.locked.reference, "optimizer": each.locked.optimizer, "save": each.locked.save}
    rows = [
        [what, f"{size / GB:.2f}", f"{each.figures.locked.get(what, 0) / GB:.2f}"]
        for what, size in names.items()
        if size or each.figures.locked.get(what)
    ]
    return table(["locked memory of the host, GB", "planned", "simulated, whole blocks"], rows) if rows else []
