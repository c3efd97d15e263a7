"""Layouts against one process, as lines of a section: the rows of `aspo check`, many by the same ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from aspo_megatron.check import comparison
from aspo_megatron.check.comparison import (
    ONE_PROCESS,
    CheckedLayout,
    Tolerances,
    make_built_in,
    parse_layout,
    read_result,
)
from aspo_megatron.check.main import CheckSpec
from aspo_megatron.config import LossConfig, ParallelConfig
from aspo_megatron.launch.launcher import launch
from benchmarks.gpu_check.layouts_rank import OWN, SHARED
from benchmarks.gpu_check.lines import Place, Sheet

_RANK = f"{__package__}.layouts_rank"
_RELATIVE = 2e-5
"""Of loss and gradient norm: as much as `aspo check` allows for gradients."""


@dataclass(frozen=True)
class _Row:
    model: Path
    text: str
    device: str

    @property
    def name(self) -> str:
        return f"{self.model.parent.name} {self.text}"

    @property
    def result(self) -> Path:
        return self.model.parent / f"{self.text.replace(' ', '-')}.safetensors"

    @property
    def layout(self) -> CheckedLayout:
        return CheckedLayout(ParallelConfig()) if self.text == ONE_PROCESS else parse_layout(self.text)

    @property
    def ranks(self) -> int:
        return self.layout.parallel.world_size

    @property
    def done(self) -> Path:
        """There once all ranks have ended well."""
        return self.result.with_suffix(".done")

    def write(self) -> str:
        """The file that tells ranks of it."""
        spec = CheckSpec(
            model=str(self.model),
            parallel=self.layout.parallel.model_dump(),
            recompute=self.layout.recompute,
            loss="aspo",
            aggregation=LossConfig().aggregation,
            device=self.device,
            common=str(self.model.parent / "common.safetensors"),
            result=str(self.result),
        )
        path = self.result.with_suffix(".json")
        path.write_text(json.dumps(asdict(spec)), encoding="utf-8")
        return str(path)


def compare(sheet: Sheet, place: Place, layouts: Mapping[str, Sequence[str]], *, shared: bool) -> None:
    """Lines for layouts of built-in models. One that fails does not keep those after it from being computed.

    Args:
        sheet: takes the lines.
        place: its device is the ranks' too.
        layouts: of each model, as `parse_layout` reads them.
        shared: the ranks are all on the first GPU; otherwise each has its own.
    """
    models = {name: make_built_in(name, place.work / name) for name in layouts}
    device = place.device.type
    alone = [_Row(model, ONE_PROCESS, device) for model in models.values()]
    code = launch(_RANK, [OWN, *(row.write() for row in alone)], 1, 1, log_dir=place.work / "logs-one-process")
    if code:
        sheet.failed(ONE_PROCESS, f"ended with exit code {code}")
        return
    rows = [_Row(models[name], text, device) for name, texts in layouts.items() for text in texts]
    for _, same in groupby(sorted(rows, key=lambda row: row.ranks), key=lambda row: row.ranks):
        _compute(sheet, place, list(same), SHARED if shared else OWN)


def _compute(sheet: Sheet, place: Place, waiting: list[_Row], way: str) -> None:
    """Rows of equally many ranks."""
    while waiting:
        logs = place.work / f"logs-{waiting[0].name.replace(' ', '-')}"
        code = launch(_RANK, [way, *(row.write() for row in waiting)], waiting[0].ranks, 1, log_dir=logs)
        while waiting and waiting[0].done.exists():
            _judge(sheet, waiting.pop(0), way)
        if waiting:
            row = waiting.pop(0)
            sheet.failed(row.name, f"its ranks ended with exit code {code}; their output is in {logs}")


def _judge(sheet: Sheet, row: _Row, way: str) -> None:
    """Compare a row with one process."""
    bounds = Tolerances()
    got, want = read_result(row.result), read_result(_Row(row.model, ONE_PROCESS, row.device).result)
    found = comparison.compare(row.text, got, want, bounds)

    def line(what: str, figure: float, bound: float, note: str = "") -> None:
        sheet.at_most(f"{row.name}: {what}", figure, bound, reference=ONE_PROCESS, note=note)

    line("losses of two updates", _apart(got.loss, want.loss), _RELATIVE)
    line("gradient norm", _apart(got.grad_norm, want.grad_norm), _RELATIVE)
    line("gradients", found.gradient_difference, bounds.gradient, found.gradient_name)
    weight = float("nan") if found.weight_difference is None else found.weight_difference
    line("weights after two updates", weight, bounds.weight)
    if way == SHARED:
        copied = json.loads(row.done.read_text(encoding="utf-8")).get(row.device, 0)
        sheet.at_least(f"{row.name}: tensors of the device in collectives", copied, 1, reference="counted")


def _apart(got: Sequence[float], want: Sequence[float]) -> float:
    """The largest relative difference."""
    return max(abs(mine - its) / abs(its) for mine, its in zip(got, want, strict=True))
