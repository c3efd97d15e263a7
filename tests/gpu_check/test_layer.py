"""The section on heads and experts holds on the CPU in its small form, and fails where something is planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from benchmarks.gpu_check import experts, heads, layer
from benchmarks.gpu_check.lines import Line, Status

from .sheets import claims, failed, small_lines

Results = Sequence[Tensor]


@pytest.fixture
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1) as grid:
        yield grid


def test_section_holds(tmp_path: Path) -> None:
    lines = small_lines(layer.run, tmp_path)
    assert not failed(lines) + claims(lines)
    names = [line.name for line in lines]
    assert len(names) == len(set(names)) == (6 + 1) + (4 + 1) + (5 + 1 + 1 + 1)
    assert [line.name.split(": ")[1] for line in lines if line.status is Status.NOT_DONE] == ["waits"]


def part(number: int, planted: Callable[[Tensor], Tensor]) -> Callable[[Results], Results]:
    """What a fault makes of one result."""
    return lambda results: [planted(each) if place == number else each for place, each in enumerate(results)]


def turned_back(heads_: Tensor) -> Tensor:
    """As if the second half of each head came with the other sign."""
    first, second = heads_.chunk(2, dim=-1)
    return torch.cat((first, -second), dim=-1)


def one_not_written(values: Tensor) -> Tensor:
    values = values.clone()
    values.view(-1)[5] = torch.nan
    return values


FAULTS_OF_HEADS = [
    (part(0, turned_back), "q"),
    (part(1, lambda k: k.roll(1, dims=0)), "k"),  # of the token before
    (part(2, one_not_written), "v"),
    (part(3, lambda grad: grad * 1.02), "grad of the projection"),
    (part(4, lambda grad: grad[:-1]), "grad of the q norm"),
]


@pytest.mark.parametrize(("planted", "name"), FAULTS_OF_HEADS, ids=[name for _, name in FAULTS_OF_HEADS])
def test_planted_fault_of_heads(
    planted: Callable[[Results], Results], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right answers, rounded once, stand in for the kernel, which the interpreter takes seconds to compute."""

    def broken(problem: heads.Problem, table: Tensor) -> Results:
        return planted([each.bfloat16() for each in heads.eager(problem.to(torch.float64))])

    monkeypatch.setattr(heads, "fused", broken)
    lines = small_lines(heads.show_heads, tmp_path)
    assert {each.split(": ", 1)[1] for each in failed(lines)} == {name}


def lines_of_experts(topology: Topology, folder: Path) -> list[Line]:
    return small_lines(lambda sheet, place: experts.show_experts(sheet, place, topology.tp.group), folder)


FAULTS_OF_EXPERTS = [
    (part(0, one_not_written), "out"),
    (part(1, lambda grad: grad.roll(1, dims=0)), "grad of hidden states"),
    (part(2, lambda grad: grad.flip(1)), "grad of choices"),  # of another choice
    (part(3, lambda grad: grad.flip(0)), "grad of gate and up"),  # of another expert
    (part(4, torch.zeros_like), "grad of down"),
]


@pytest.mark.parametrize(("planted", "name"), FAULTS_OF_EXPERTS, ids=[name for _, name in FAULTS_OF_EXPERTS])
def test_planted_fault_of_experts(
    planted: Callable[[Results], Results],
    name: str,
    topology: Topology,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = experts.gathered

    def broken(drawn: experts.Drawn, group: Any) -> tuple[Results, int]:
        results, rows = real(drawn, group)
        return planted(results), rows

    monkeypatch.setattr(experts, "gathered", broken)
    (found,) = failed(lines_of_experts(topology, tmp_path))
    assert found.endswith(f": {name}")


def test_gradients_that_replace_what_was_there(
    topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product's own code broken."""
    from aspo_megatron.parallel.model.experts import routed

    def put(totals: Sequence[Any], grads: Tensor) -> None:
        for total, grad in zip(totals, grads, strict=True):
            total.main_grad.copy_(grad)

    monkeypatch.setattr(routed, "_add", put)
    names = [name.split(": ")[1] for name in failed(lines_of_experts(topology, tmp_path))]
    assert names == ["grad of gate and up", "grad of down"]


def test_rows_that_are_counted_wrong(topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = experts.gathered

    def one_more(drawn: experts.Drawn, group: Any) -> tuple[Results, int]:
        results, rows = real(drawn, group)
        return results, rows + 1

    monkeypatch.setattr(experts, "gathered", one_more)
    (name,) = failed(lines_of_experts(topology, tmp_path))
    assert name.endswith(": rows that experts take")
