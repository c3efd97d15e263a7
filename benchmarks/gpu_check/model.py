"""A model on the GPU against the same on the CPU: an update in fp32 and bf16, its waits, its copies, its memory.

Of every parameter the gradient is compared. In bf16 the bound is measured, as in the matrix of layouts: what rounding
to bf16 does on the CPU, twice. The CPU computes in a process beside the GPU's work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from aspo_megatron import losses
from aspo_megatron.config import KernelsConfig, RunConfig
from aspo_megatron.data.packing import split_by_budget
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.device.expert_traits import gathers_experts
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.plan.memory.rank import passing, resident
from aspo_megatron.plan.memory.setting import setting_of
from aspo_megatron.plan.memory.workload import GroupLengths, local_batch
from benchmarks.gpu_check import memory
from benchmarks.gpu_check.commands import Command
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.model_update import (
    LOSS,
    Made,
    Task,
    made,
    read,
    rms_errors,
    start_on_cpu,
    worst,
    worst_ratio,
)
from benchmarks.gpu_check.policies import (
    SINGLE,
    Weights,
    adam,
    build,
    dense_folder,
    expert_folder,
    micro_batch_tokens,
    one_rank,
    ragged_groups,
    run_config,
)
from benchmarks.gpu_check.waits import Watched, watched
from benchmarks.random_samples import random_group

_FULL_VOCABULARY = 151936
_FP32_GRADIENT, _FP32_NUMBER = 2e-5, 1e-5
"""Those of the matrix of layouts (tests/parallel/test_step.py): sums in another order, products without TF32."""
_BF16_RATIO, _BF16_NORM = 2.0, 0.02
_PLAN = 0.1
_MICRO_BATCH: GroupLengths = (512, (896,) * 4)
"""For memory: a prompt and its responses, 4,092 tokens."""
_NEEDS_GPU = "needs a GPU"
_CPU_IS_SLOW = "no time: the CPU has not computed it until the section must end"


def run(sheet: Sheet, place: Place) -> None:
    """All lines of the section."""
    deadline = time.monotonic() + place.seconds
    sizes = {} if place.small else {"vocab_size": _FULL_VOCABULARY}
    dense = dense_folder(place.work / "dense", small=place.small, **sizes)
    experts = expert_folder(place.work / "experts", small=place.small)
    threads = 1 if place.small else max((os.cpu_count() or 2) // 2, 1)
    tokens = micro_batch_tokens(place)
    task = Task(str(dense), str(experts), tokens, place.small, threads, str(place.work / "cpu"))
    command = Command(start_on_cpu(task), place.work / "cpu.txt")
    with command as reference, one_rank(place.device) as topology:
        if place.on_gpu:
            with sheet.part("waits of an update"):
                waits(sheet, topology, {"": dense, " with experts": experts}, tokens)
            with sheet.part("memory of an update"):
                update_memory(sheet, topology, dense)
        else:
            for name in ("waits of an update", "memory of an update"):
                sheet.not_done(name, _NEEDS_GPU)
        compare(sheet, topology, task, reference, deadline)


def compare(sheet: Sheet, topology: Topology, task: Task, reference: Command, deadline: float) -> None:
    """Updates on the topology's device against those of the CPU."""
    dense, experts = Path(task.dense), Path(task.experts)
    weights = Weights(dense)
    found: dict[str, Made] = {}
    for label, dtype, folder in (("fp32", "float32", dense), ("bf16", "bfloat16", dense)):
        with sheet.part(f"{label}: an update"):
            found[label] = made(folder, topology, dtype, weights, task.tokens, small=task.small)
    with sheet.part("experts, fp32: an update"):
        found["experts, fp32"] = made(experts, topology, "float32", Weights(experts), task.tokens, small=task.small)
    code = reference.wait(max(deadline - time.monotonic(), 0.0))
    if code:
        sheet.failed("update on the CPU", f"exit code {code}: {reference.last_lines()}")
        return
    expected = read(task)
    precision = torch.get_float32_matmul_precision()
    sheet.holds("fp32 products without TF32", precision == "highest", reference="PyTorch's setting", note=precision)
    for label, want in (("fp32", expected.dense), ("experts, fp32", expected.experts)):
        if want is None:
            sheet.not_done(f"{label}: against the CPU", _CPU_IS_SLOW)
        elif label in found:
            _in_fp32(sheet, label, found[label], want)
    if expected.dense is None or expected.bf16_errors is None:
        sheet.not_done("bf16: against the CPU", _CPU_IS_SLOW)
    elif "bf16" in found:
        _in_bf16(sheet, found["bf16"], expected.dense, expected.bf16_errors)


def _in_bf16(sheet: Sheet, got: Made, want: Made, own_errors: Mapping[str, float]) -> None:
    ratio, name = worst_ratio(rms_errors(got.gradients, want.gradients), own_errors)
    reference = "the CPU in fp32; 1 is the error of bf16 on the CPU"
    note = f"{name}, on the CPU {own_errors[name]:.2g} of the gradient's norm"
    sheet.at_most("bf16: worst gradient", ratio, _BF16_RATIO, reference=reference, note=note)
    norm = abs(got.grad_norm / want.grad_norm - 1)
    sheet.at_most("bf16: gradient norm", norm, _BF16_NORM, reference="the CPU in fp32, relative")


def _in_fp32(sheet: Sheet, label: str, got: Made, want: Made) -> None:
    loss, norm = abs(got.loss / want.loss - 1), abs(got.grad_norm / want.grad_norm - 1)
    sheet.at_most(f"{label}: loss", loss, _FP32_NUMBER, reference="the CPU, relative")
    sheet.at_most(f"{label}: gradient norm", norm, _FP32_NUMBER, reference="the CPU, relative")
    error, name = worst(got.gradients, want.gradients)
    reference = "the CPU, relative to the parameter's largest"
    note = f"{name}; of {len(want.gradients)} parameters"
    sheet.at_most(f"{label}: worst gradient", error, _FP32_GRADIENT, reference=reference, note=note)


def waits(sheet: Sheet, topology: Topology, folders: Mapping[str, Path], tokens: int) -> None:
    """Times that the host waits in an update and a scoring pass of several micro-batches, in bf16, of each model."""
    device = topology.platform.device

    def one_of_each() -> None:
        torch.ones(1, device=device).item()
        torch.ones(4).to(device, non_blocking=True)

    control = watched(one_of_each)
    sees = min(control.places.total(), control.calls.total(), control.pageable) >= 1
    seen = f"{control}; {control.pageable} pageable copies"
    sheet.holds("both instruments see a wait and a pageable copy", sees, reference="one of each", note=seen)
    for label, folder in folders.items():
        groups = ragged_groups(folder, small=False)
        updates, scoring = passes(topology, folder, groups, tokens)
        family = read_family(folder)
        count = len(split_by_budget(groups, tokens))
        note, more = f"{count} micro-batches", 0
        if family.num_experts:
            capability = torch.cuda.get_device_capability(device)
            gathered = gathers_experts(family, SINGLE, "bfloat16", KernelsConfig(), capability)
            more = 1 if gathered else count * family.num_layers
        _waits_line(sheet, f"waits of an update{label}", _third(updates), 2 + more, note)
        _waits_line(sheet, f"waits of a scoring pass{label}", _third(scoring), 1 + more, note)


def _third(work: Callable[[], object]) -> Watched:
    """Kernels, communicators and page-locked memory are made in the first two."""
    work()
    work()
    return watched(work)


def _waits_line(sheet: Sheet, name: str, seen: Watched, most: int, note: str) -> None:
    sheet.at_most(name, seen.waits, most, reference="docs/gpu.md", note=f"{note}; {seen}")
    reference = "docs/gpu.md: one copy from page-locked memory"
    sheet.equal(f"pageable copies{name.removeprefix('waits')}", seen.pageable, 0, reference=reference)


def passes(
    topology: Topology, folder: Path, groups: list[list[Sample]], tokens: int, weights: Weights | None = None
) -> tuple[Callable[[], object], Callable[[], object]]:
    """An update and a scoring pass of a bf16 model, to be called again and again."""
    from aspo_megatron.parallel.update.objective import PolicyObjective
    from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs
    from aspo_megatron.parallel.update.step import aggregation_of, update

    model = build(folder, topology, "bfloat16", weights or Weights(folder))
    optimizer = adam(model)
    objective = PolicyObjective(losses.build(LOSS.name, {}), LOSS)
    weighting, limits = aggregation_of(LOSS, 1024), PassLimits(tokens, None, 1.0)
    return (
        lambda: update(model, optimizer, groups, objective, weighting, limits),
        lambda: list(response_log_probs(model, groups, limits)),
    )


def update_memory(sheet: Sheet, topology: Topology, folder: Path) -> None:
    """The most that an update of two full micro-batches holds, beside `aspo plan`."""
    family = read_family(folder)
    prompt, responses = _MICRO_BATCH
    vocabulary = family.vocab_size
    groups = [random_group(number, vocabulary, prompt, responses[0], len(responses)) for number in range(2)]
    for group in groups:
        for sample in group:
            sample.ref_log_probs = sample.old_log_probs
    before = memory.held()
    update, _ = passes(topology, folder, groups, prompt + sum(responses))
    update()
    update()  # Adam's moments are there, and what libraries keep
    held = memory.begin()
    update()
    more, there = memory.peak() - held, held - before
    total = torch.cuda.get_device_properties(topology.platform.device).total_memory
    setting = replace(setting_of(_planned_run(folder, len(groups)), SINGLE), gpu_memory=total)
    always = resident(family, SINGLE, setting, 0).total
    passes_by = passing(family, SINGLE, setting, local_batch((_MICRO_BATCH,), 1, 1), 0)
    sizes = f"{memory.mib(there):.0f} MiB, planned {memory.mib(always):.0f}"
    sheet.at_most("memory that a model and Adam hold", abs(always / there - 1), 0.02, reference="aspo plan", note=sizes)
    sizes = f"{memory.mib(more):.0f} MiB, planned {memory.mib(passes_by.peak):.0f} ({passes_by.when})"
    off = abs(passes_by.peak / more - 1)
    sheet.at_most("memory that an update takes beyond it", off, _PLAN, reference="aspo plan", note=sizes)


def _planned_run(folder: Path, micro_batches: int) -> RunConfig:
    """The run that such an update is of; its reference has no place here."""
    prompt, responses = _MICRO_BATCH
    return run_config(
        folder,
        "bfloat16",
        platform={"device": "cuda"},
        loss=LOSS.model_dump() | {"kl_coef": 0.0},
        data={"train": {"kind": "jsonl", "path": "none.jsonl"}, "max_prompt_tokens": prompt},
        rollout={
            "prompts_per_step": micro_batches,
            "responses_per_prompt": len(responses),
            "sampling": {"max_response_tokens": responses[0]},
        },
        train={"prompts_per_update": micro_batches, "max_tokens_per_micro_batch": prompt + sum(responses)},
    )
