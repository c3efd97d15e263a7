"""Whether this machine bears the ranks of layouts that `aspo check` is about to start."""

from __future__ import annotations

from collections.abc import Sequence

from aspo_megatron.check.comparison import parse_layout
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.family import Family
from aspo_megatron.plan.cpu_ranks import Ranks, checking_bytes, crowding, on_cpus, refuse_beyond_gpus
from aspo_megatron.streams import say


def refuse_layouts_beyond(layouts: Sequence[str], family: Family, device: str, *, more_ranks: bool) -> None:
    """Refuse layouts that want more than there is; of ranks that share cores, say so once, for the largest.

    Args:
        layouts: as `parse_layout` reads them.
        family: of the model.
        device: `auto`, `cpu` or `cuda`.
        more_ranks: start more than four ranks for each CPU core.

    Raises:
        ConfigError: names the layout; it cannot be read, the model cannot have it, or it is too large for this machine.
    """
    told = ""
    parsed = [(text, parse_layout(text)) for text in layouts]
    for text, layout in sorted(parsed, key=lambda each: each[1].parallel.world_size):
        family.check_layout(layout.parallel)
        what = f"--layouts {one_line(text)}"
        if on_cpus(device):
            sizes = checking_bytes(family, layout.parallel, layout.recompute)
            told = crowding(Ranks(what, sizes, 1, more_ranks, "--more-ranks"))
        elif device in ("auto", "cuda"):
            refuse_beyond_gpus(what, layout.parallel.world_size, device)
    if told:
        say(f"warning: {told}")
