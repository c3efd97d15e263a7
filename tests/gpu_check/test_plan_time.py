"""The plan's seconds beside measured ones: those of `aspo plan`, for the card that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_megatron.config.io import load_config
from aspo_megatron.models.family import read_family
from aspo_megatron.plan.hardware import H200
from aspo_megatron.plan.report import make_plan
from benchmarks.gpu_check.lines import Place, Sheet, Status, read_lines
from benchmarks.gpu_check.plan_time import GENERATION, LOG_PROBS, UPDATES, planned_seconds, show_beside_plan

RECIPE = Path(__file__).parents[2] / "examples" / "qwen3_4b"
RUN, FAMILY = load_config(RECIPE / "run.yaml"), read_family(RECIPE / "model")
MEASURED = {GENERATION: 10.0, LOG_PROBS: 20.0, UPDATES: 30.0}


def test_they_are_the_plans() -> None:
    longest = planned_seconds(RUN, FAMILY, H200, 1.0)
    (on,) = make_plan(RUN, FAMILY, gpu=H200).on
    half = planned_seconds(RUN, FAMILY, H200, 0.5)
    # Prompts are longer here than a plan takes them to be.
    assert on.time.generation < half[GENERATION] < longest[GENERATION]
    assert on.time.training < half[UPDATES] < longest[UPDATES]
    assert half[UPDATES] == pytest.approx(on.time.training, rel=0.2)
    assert longest.keys() == MEASURED.keys()


def lines(path: Path, device: str) -> dict[str, Any]:
    place = Place(torch.device(device), small=True, gpus=int(device == "cuda"), work=path, seconds=60.0)
    sheet = Sheet("section", path / "lines", on_gpu=device == "cuda")
    show_beside_plan(sheet, place, "a run", MEASURED, (RUN, FAMILY, 1.0))
    return {line.name: line for line in read_lines(path / "lines")}


def test_on_a_known_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    found, planned = lines(tmp_path, "cuda"), planned_seconds(RUN, FAMILY, H200, 1.0)
    for phase, seconds in MEASURED.items():
        line = found[f"a run: {phase}, measured / planned"]
        assert line.figure == pytest.approx(seconds / planned[phase])
        assert (line.status, line.note) == (Status.MEASURED, f"{seconds:.4g} s")
        assert line.reference == f"aspo plan for an H200 SXM: {planned[phase]:.4g} s"


@pytest.mark.parametrize(
    ("device", "why"), [("cuda", "the planner has no figures of this card"), ("cpu", "needs a GPU")]
)
def test_where_there_is_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, why: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA T4")
    found = lines(tmp_path, device)
    assert len(found) == len(MEASURED)
    assert all(line.status is Status.NOT_DONE and why in line.note for line in found.values())
