"""The section on versions, process groups and kernels holds on the CPU, and fails where something is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from packaging.version import Version

from aspo_megatron.config import KernelsConfig
from aspo_megatron.parallel.device.kernels import Machine, choose_kernels
from aspo_megatron.parallel.device.packages import Packages
from aspo_megatron.parallel.grid.exchange import to_replicas
from benchmarks.gpu_check import start
from benchmarks.gpu_check.lines import Status

from .sheets import claims, failed, small_lines


@pytest.fixture(autouse=True)
def as_in_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def test_section_holds(tmp_path: Path) -> None:
    lines = small_lines(start.run, tmp_path)
    assert not failed(lines) + claims(lines)
    assert {line.status for line in lines} == {Status.ON_CPU}
    assert sum(line.name.endswith("of the host") for line in lines) == len(start.COLLECTIVES)


def test_setting_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS")
    assert failed(small_lines(start.run, tmp_path)) == ["CUDA_DEVICE_MAX_CONNECTIONS is set"]


def test_collective_that_is_missing_or_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise RuntimeError("Backend gloo does not support this\nmore")

    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group: tensor.mul_(2))
    monkeypatch.setattr(start, "_all_gather_flat", missing)
    lines = small_lines(start.run, tmp_path)
    assert failed(lines) == ["sum over ranks of the host", "gather of exported weights of the host"]
    (note,) = (line.note for line in lines if line.name.startswith("gather of exported"))
    assert note.startswith("tp: Backend gloo does not support this; cp:")


def test_samples_that_go_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = to_replicas
    monkeypatch.setattr(start, "to_replicas", lambda *args: real(*args)[::-1])
    assert failed(small_lines(start.run, tmp_path)) == ["samples handed to replicas"]


def test_kernel_that_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(*args: Any, **kwargs: Any) -> Any:
        return replace(choose_kernels(*args, **kwargs), triton_log_prob=True)

    monkeypatch.setattr(start, "choose_kernels", plain)
    assert failed(small_lines(start.run, tmp_path)) == ["kernels by default: triton_log_prob is True"]


@pytest.mark.parametrize("engine", [None, "2.9.0", "2.11.0", "9.0.0"])
@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), None])
def test_what_is_documented_is_what_is_chosen(
    capability: tuple[int, int] | None, triton: bool, engine: str | None
) -> None:
    packages = Packages(
        transformer_engine=None if engine is None else Version(engine),
        apex=False,
        other_apex=False,
        apex_gradient_kernels=False,
        triton=triton,
    )
    machine = Machine(packages, capability)
    assert start.documented(machine) == choose_kernels(KernelsConfig(), machine, experts=start.SOME_EXPERTS, flash=True)


def test_segments_are_told_by_address() -> None:
    held = torch.empty(8)
    address = held.data_ptr()
    assert start._holds({"address": address - 8, "total_size": 16}, held)
    assert not start._holds({"address": address - 8, "total_size": 8}, held)
