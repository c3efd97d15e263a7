"""The section `model` holds on the CPU, and finds gradients, waits, copies and memory that are wrong."""

from __future__ import annotations

import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._C._autograd import DeviceType

from benchmarks.gpu_check import waits
from benchmarks.gpu_check.commands import Command
from benchmarks.gpu_check.lines import Sheet

from .in_process import Lines, cpu, failed, held, not_done, section, stand_in, written

pytestmark = pytest.mark.distributed

FIGURES = ("loss", "gradient norm", "worst gradient")
FP32 = {f"{model}: {figure}" for model in ("fp32", "experts, fp32") for figure in FIGURES}
BF16 = {"bf16: worst gradient", "bf16: gradient norm"}


@pytest.fixture(scope="module")
def run(on_cpu: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lines]:
    folder = tmp_path_factory.mktemp("model") / "run"
    return folder, on_cpu(section, "model", folder)


@pytest.mark.thorough
def test_on_the_cpu(run: tuple[Path, Lines]) -> None:
    _, lines = run
    assert held(lines) == FP32 | BF16 | {"fp32 products without TF32"}
    assert not_done(lines) == {"waits of an update", "memory of an update"}
    assert failed(lines) == set()


def change_attention(dtype: torch.dtype, factor: float) -> None:
    from aspo_megatron.parallel.device.attention_kernels import attend_backward as backward
    from aspo_megatron.parallel.model import block_attention

    def changed(grad: Any, *args: Any) -> Any:
        dq, dk, dv = backward(grad, *args)
        return (dq * factor, dk, dv) if grad.dtype == dtype else (dq, dk, dv)

    block_attention.attend_backward = changed  # type: ignore[attr-defined, assignment]


def compare_again(folder: Path, dtype: torch.dtype, factor: float) -> Lines:
    """Against what the CPU has found before, with another gradient of the queries."""
    from benchmarks.gpu_check import model
    from benchmarks.gpu_check.model_update import Task
    from benchmarks.gpu_check.policies import micro_batch_tokens, one_rank

    work = folder / "work"
    tokens = micro_batch_tokens(cpu(work))
    task = Task(str(work / "dense"), str(work / "experts"), tokens, True, 1, str(work / "cpu"))
    again = folder / f"{dtype}"
    again.mkdir()

    def compare(sheet: Sheet) -> None:
        with Command([sys.executable, "-c", "pass"], again / "out") as done, one_rank(torch.device("cpu")) as topology:
            change_attention(dtype, factor)
            model.compare(sheet, topology, task, done, time.monotonic() + 100.0)

    return written(again, compare)


def test_wrong_gradients_of_queries_are_found(on_cpu: Callable[..., Any], run: tuple[Path, Lines]) -> None:
    folder, _ = run
    wrong = failed(on_cpu(compare_again, folder, torch.float32, 1.001))
    assert wrong >= {"fp32: worst gradient", "experts, fp32: worst gradient"}
    lines = on_cpu(compare_again, folder, torch.bfloat16, 1.1)
    assert failed(lines) == {"bf16: worst gradient"}
    assert "self_attn.q" in lines["bf16: worst gradient"].note


def test_a_reference_that_fails_is_told(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_cpu(section, "model", tmp_path / "run", break_the_reference)
    assert failed(lines) == {"update on the CPU"}
    assert "no reference here" in lines["update on the CPU"].note


def test_what_the_cpu_has_not_computed_in_time_is_not_done(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_cpu(section, "model", tmp_path / "run", slow_reference)
    assert held(lines) == {name for name in FP32 if "experts" not in name} | {"fp32 products without TF32"}
    assert not_done(lines) >= {"experts, fp32: against the CPU", "bf16: against the CPU"}
    assert failed(lines) == set()


def slow_reference() -> None:
    """A process that sleeps when it has the first model, and a section that does not wait for long."""
    from benchmarks.gpu_check import commands, model
    from benchmarks.gpu_check.model_update import start_on_cpu

    code = """
        import json, sys, time
        from benchmarks.gpu_check import model_update
        made = model_update.made
        def once(*args, **options):
            model_update.made = lambda *args, **options: time.sleep(600)
            return made(*args, **options)
        model_update.made = once
        model_update.compute(model_update.Task(**json.loads(sys.argv[1])))
        """
    model.start_on_cpu = lambda task: [sys.executable, "-c", textwrap.dedent(code), start_on_cpu(task)[-1]]  # type: ignore[attr-defined]

    def wait(command: Command, seconds: float | None = None) -> None:
        while not (command._output.parent / "cpu" / "dense.json").exists():
            time.sleep(0.1)

    commands.Command.wait = wait  # type: ignore[method-assign, assignment]


def break_the_reference() -> None:
    from benchmarks.gpu_check import model

    model.start_on_cpu = lambda task: [sys.executable, "-c", "raise SystemExit('no reference here')"]  # type: ignore[attr-defined]


# ---- waits and copies ------------------------------------------------------------------------------------------


def event(name: str, start: float, kind: Any = DeviceType.CPU, length: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(name=name, device_type=kind, time_range=SimpleNamespace(start=start, end=start + length))


def test_calls_that_wait_count_within_the_stretch_alone() -> None:
    stretch = "gpu_check: stretch"
    pageable, pinned = "Memcpy HtoD (Pageable -> Device)", "Memcpy HtoD (Pinned -> Device)"
    events = [
        event("cudaDeviceSynchronize", 1.0),
        event(stretch, 5.0, length=10.0),
        event(stretch, 7.0, DeviceType.CUDA, length=30.0),  # the time of its kernels
        event("cudaStreamSynchronize", 6.0),
        event("cudaStreamSynchronize", 9.0),
        event("cudaEventSynchronize", 14.0),
        event("cudaLaunchKernel", 8.0),
        event("cudaDeviceSynchronize", 20.0),
        event(pageable, 18.0, DeviceType.CUDA),
        event(pinned, 18.0, DeviceType.CUDA),
    ]
    calls, copies = waits.read_events(events)
    assert calls == Counter({"cudaStreamSynchronize": 2, "cudaEventSynchronize": 1})
    assert copies == 1


def test_places_are_those_of_the_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    ((place, count),) = waits._places_of(work).items()
    assert place.startswith("gpu_check/test_model.py:")
    assert count == 2
    assert modes == ["warn", "default"]


def waits_and_memory(folder: Path, plant: Callable[[], None] | None = None) -> Lines:
    """What a GPU would be asked, by the stand-in's ledger."""
    with stand_in(folder, plant) as (rank, sheet, lines):
        from benchmarks.gpu_check import model, policies

        ledger = rank.ledger
        control: list[None] = []

        def seen(work: Callable[[], object]) -> waits.Watched:
            ledger.clear()
            work()
            control.append(None)
            calls = Counter({"call": 1}) if len(control) == 1 else Counter[str]()
            return waits.Watched(Counter(ledger.waits), calls, ledger.copies.total())

        model.watched = model._third = seen  # type: ignore[attr-defined]
        model.ragged_groups = lambda folder, *, small: policies.ragged_groups(folder, small=True)  # type: ignore[attr-defined]
        model._MICRO_BATCH = (64, (160,) * 4)
        dense = policies.dense_folder(folder / "dense", small=True, num_hidden_layers=1)
        experts = policies.expert_folder(folder / "experts", small=True, num_hidden_layers=1)
        folders = {"": dense, " with experts": experts} if plant is None else {"": dense}
        model.waits(sheet, rank.topology, folders, 80)
        if plant is None:
            wide = policies.dense_folder(folder / "wide", small=True, num_hidden_layers=1, hidden_size=256)
            model.update_memory(sheet, rank.topology, wide)
    return lines


WAITS = {f"waits of {what}{model}" for what in ("an update", "a scoring pass") for model in ("", " with experts")}
COPIES = {name.replace("waits", "pageable copies") for name in WAITS}
CONTROL = "both instruments see a wait and a pageable copy"
MEMORY = {"memory that a model and Adam hold", "memory that an update takes beyond it"}


def wait_and_copy() -> None:
    from aspo_megatron.parallel.model import chunk

    rotary = chunk.ModelChunk._rotary

    def waiting(own: Any, positions: Any) -> Any:
        positions.max().item()
        return rotary(own, positions + torch.ones(1).to(positions.device).int())

    chunk.ModelChunk._rotary = waiting  # type: ignore[method-assign, assignment]


def test_waits_copies_and_memory_on_the_stand_in(on_stand_in: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_stand_in(waits_and_memory, tmp_path / "good")
    assert set(lines) == WAITS | COPIES | MEMORY | {CONTROL}
    assert held(lines) >= WAITS | COPIES | {CONTROL, "memory that a model and Adam hold"}
    lines = on_stand_in(waits_and_memory, tmp_path / "bad", wait_and_copy)
    assert failed(lines) == {name for name in WAITS | COPIES if "experts" not in name}
