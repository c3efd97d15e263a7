"""A GPU for each rank: the layouts of `aspo check` over NCCL, on as many GPUs as there are, against one process.

Without a GPU one layout over gloo, to see that the section works.
"""

from __future__ import annotations

from aspo_megatron.check.comparison import BUILT_IN, layouts_for, make_built_in
from aspo_megatron.models.family import read_family
from benchmarks.gpu_check.layouts import compare
from benchmarks.gpu_check.lines import Place, Sheet

_ON_CPU = {"qwen2": ("tp=2,sp",)}


def run(sheet: Sheet, place: Place) -> None:
    """Compare the layouts with one process."""
    if not place.on_gpu:
        compare(sheet, place, _ON_CPU, shared=False)
    elif place.gpus < 2:
        sheet.not_done("layouts over NCCL", f"needs 2 GPUs, {place.gpus} here")
    else:
        compare(sheet, place, _layouts(place), shared=False)


def _layouts(place: Place) -> dict[str, list[str]]:
    """All that fit; of a model with experts those that spread them."""
    fitting = {}
    for name in BUILT_IN:
        family = read_family(make_built_in(name, place.work / f"shape-of-{name}"))
        fitting[name] = layouts_for(family, place.gpus)
    return {name: [text for text in texts if "moe" not in name or "ep=" in text] for name, texts in fitting.items()}
