"""Two ranks on one GPU: that tensor, pipeline, context, data and expert parallelism put each tensor where it belongs.

NCCL refuses two ranks of one GPU, so collectives go through the host's memory (`layouts_backend.py`); all else is what
it is with a GPU for each. The rows are those of `aspo check`: two updates of a small model, against one process.
"""

from __future__ import annotations

from benchmarks.gpu_check.layouts import compare
from benchmarks.gpu_check.lines import Place, Sheet

_LAYOUTS = {"qwen2": ("tp=2,sp", "pp=2", "cp=2", "dp=2,distopt"), "qwen3-moe": ("dp=2,ep=2",)}


def run(sheet: Sheet, place: Place) -> None:
    """Compare the layouts with one process."""
    compare(sheet, place, _LAYOUTS, shared=True)
