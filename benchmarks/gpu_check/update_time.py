"""A whole update (forward, backward, Adam) of dense models of the sizes of Qwen3, in bf16 with random weights.

Tokens a second; operations of the model as a share of what a plain product reaches by turns with the update, and of
the card's published peak; the most memory, beside `aspo plan`. The same update with attention block by block
(`model.kernels.attention`) takes turns, too. Nothing is recomputed. Where not all layers have room, the name of a line
says how many were taken: the output layer then has a larger part in the figure than in the whole model.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from aspo_megatron import losses
from aspo_megatron.config import KernelsConfig, LossConfig, ModelConfig, OptimizerConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.plan.memory.workload import GroupLengths
from benchmarks.gpu_check import memory
from benchmarks.gpu_check.figures import fresh_random, seconds
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.plan_time import UPDATES, show_beside_plan
from benchmarks.gpu_check.policies import SINGLE, one_rank, random_groups
from benchmarks.gpu_check.qwen3 import SHAPES, SMALL_SHAPES, Shape, fitting_layers, named
from benchmarks.gpu_check.update_work import UpdateMemory, UpdateWork, show_card_share

if TYPE_CHECKING:
    from aspo_megatron.parallel.model.policy import PolicyModel
    from aspo_megatron.parallel.update.step import UpdateResult

GOAL = 0.4
"""Of the bf16 peak, by dense models of 1.5 to 8 billion parameters."""
_LEAST_FOR_GOAL = 1.5e9
BATCH: GroupLengths = (512, (500, 800, 1100, 1500, 1900, 2500, 3300, 4000))
"""A micro-batch as recipes have them: a prompt, and responses of very different lengths; 16,104 packed tokens."""
SMALL_BATCH: GroupLengths = (9, (5, 11, 20))
_MICRO_BATCHES = 2
LOSS = LossConfig(name="aspo", kl_coef=0.001)
"""That of the recipes."""
_RATE, _STD = 1e-6, 0.02
_SHARE_OF_MEMORY = 0.6
"""Of what is free: plans are not exact, and libraries take some."""
_SECONDS_OF_A_SHAPE = 20.0
"""At most: with less time left, none is begun."""
_REPEATS = 3
_PRODUCTS = 10
"""In a turn: one alone is over sooner than a clock of the card changes."""
_GIB = 2**30

Way = Literal["varlen", "blocks"]
OURS: Way = "varlen"
"""What the model computes with on a GPU."""
OTHER: Way = "blocks"


def run(sheet: Sheet, place: Place) -> None:
    """All shapes, the small ones first."""
    deadline = time.monotonic() + place.seconds
    fresh_random(place.device)
    with one_rank(place.device) as topology:
        for number, shape in enumerate(SMALL_SHAPES if place.small else SHAPES):
            if time.monotonic() + _SECONDS_OF_A_SHAPE > deadline:
                sheet.not_done(f"{shape.name}: an update", f"no time: {place.seconds:.0f} s for the whole section")
                continue
            with sheet.part(shape.name):
                show(sheet, place, topology, shape, place.work / f"model-{number}")


def show(sheet: Sheet, place: Place, topology: Topology, shape: Shape, folder: Path) -> None:
    """The lines of a shape, whose config.json goes below `folder`."""
    batch = SMALL_BATCH if place.small else BATCH
    plans = {
        way: partial(UpdateMemory.planned, loss=LOSS, batch=batch, micro_batches=_MICRO_BATCHES, attention=way)
        for way in (OURS, OTHER)
    }
    whole = folder / "whole"
    family = shape.family(whole, small=place.small)
    layers = family.num_layers
    if place.on_gpu:
        gc.collect()
        torch.cuda.empty_cache()  # what the shape before had
        free = torch.cuda.mem_get_info(place.device)[0]
        peak = partial(plans[OURS](whole).peak, memory=total_memory(place))
        layers = fitting_layers(family, peak, _SHARE_OF_MEMORY * free)
        if not layers:
            needed = f"of four layers takes {peak(replace(family, num_layers=4)) / _GIB:.0f} GiB"
            sheet.not_done(f"{shape.name}: an update", f"one {needed}, {free / _GIB:.0f} are free")
            return
    taken = folder / "taken"
    family = replace(shape, layers=layers).family(taken, small=place.small)
    product = Product.draw(64 if place.small else 8192, place.device)
    base = memory.held() if place.on_gpu else 0
    groups = random_groups(family.vocab_size, [batch] * _MICRO_BATCHES)
    updates = Updates.built(taken, topology, groups, max_tokens=batch[0] + sum(batch[1]))
    name, began = named(shape, layers), time.monotonic()
    result = updates(OURS)  # kernels are made, and Adam's moments
    first = time.monotonic() - began
    good = not result.skipped and math.isfinite(result.loss) and 0 < result.grad_norm < math.inf
    note = f"loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}, {first:.1f} s"
    if not sheet.holds(f"{name}: the first update is one", good, reference="a loss, and gradients", note=note):
        return
    if place.on_gpu:
        total = total_memory(place)
        peaks = {way: planned(taken).peak(family, total) for way, planned in plans.items()}
        _show_memory(sheet, name, updates, peaks, base)
    else:
        sheet.not_done(f"{name}: peak memory", "needs a GPU")
    goal = model_elements(read_family(whole)) >= _LEAST_FOR_GOAL
    seconds_taken = _show_times(sheet, place, name, updates, UpdateWork.of(family, groups), product, goal=goal)
    length = sum(batch[1]) / len(batch[1]) / max(batch[1])
    show_beside_plan(sheet, place, name, {UPDATES: seconds_taken}, (plans[OURS](taken).config, family, length))


def total_memory(place: Place) -> int:
    """Bytes of the card."""
    return int(torch.cuda.get_device_properties(place.device).total_memory)


def _show_times(
    sheet: Sheet, place: Place, name: str, updates: Updates, work: UpdateWork, product: Product, *, goal: bool
) -> float:
    """Gives the seconds of an update."""
    ways: dict[str, Callable[[], object]] = {way: partial(updates, way) for way in (OURS, OTHER)}
    times = seconds({**ways, "product": product}, place.device, 1 if place.small else _REPEATS)
    taken, plain = times[OURS], product.operations / times["product"]
    rate = work.operations / taken
    note = f"{_MICRO_BATCHES} micro-batches, {work.tokens} tokens, {rate / 1e12:.4g} TFLOP/s"
    sheet.measured(f"{name}: an update", taken, "s", note=note)
    sheet.measured(f"{name}: response tokens", work.responses / taken, "tokens/s")
    sheet.measured(f"{name}: all tokens", work.tokens / taken, "tokens/s", note="a prompt's count once")
    unmasked = f"{work.unmasked / work.operations:.3g} of it without what causal masks hide"
    sheet.measured(f"{name}: operations / a plain product's", rate / plain, "", reference=str(product), note=unmasked)
    note = (f"goal: {GOAL}; " if goal else "") + unmasked
    show_card_share(sheet, place, name, rate, note)
    sheet.measured(f"{name}: an update by {OTHER}", times[OTHER], "s", note=f"model.kernels.attention={OTHER}")
    sheet.measured(f"{name}: {OURS} / {OTHER}", taken / times[OTHER], "", reference=f"attention={OTHER}")
    return taken


def _show_memory(sheet: Sheet, name: str, updates: Updates, planned: dict[Way, int], base: int) -> None:
    """The most that an update holds of all that was allocated since `base`; each way once."""
    for way, plan in planned.items():
        memory.begin()
        updates(way)
        label = "peak memory" if way == OURS else f"peak memory by {way}"
        reference = f"aspo plan: {plan / _GIB:.2f} GiB"
        sheet.measured(f"{name}: {label}", (memory.peak() - base) / _GIB, "GiB", reference=reference)


@dataclass(frozen=True)
class Updates:
    """An update of the same samples, to be made again and again."""

    model: PolicyModel
    call: Callable[[], UpdateResult]

    @classmethod
    def built(cls, folder: Path, topology: Topology, groups: list[list[Sample]], *, max_tokens: int) -> Updates:
        """Of a folder's model, a group to a micro-batch. Its weights are drawn where they are used."""
        from aspo_megatron.parallel.model.policy import PolicyModel
        from aspo_megatron.parallel.update.objective import PolicyObjective
        from aspo_megatron.parallel.update.optimizer import Optimizer
        from aspo_megatron.parallel.update.passes import PassLimits
        from aspo_megatron.parallel.update.step import aggregation_of, update

        kernels = KernelsConfig(attention=OURS)
        settings = ModelConfig(path=folder, dtype="bfloat16", recompute="none", kernels=kernels)
        model = PolicyModel(read_family(folder), topology, settings)
        model.to(topology.platform.device)
        draw_weights(model)
        optimizer = Optimizer(model, OptimizerConfig(lr=_RATE, clip_grad=1.0), 100, SINGLE)
        objective = PolicyObjective(losses.build(LOSS.name, {}), LOSS)
        weighting, limits = aggregation_of(LOSS, max(BATCH[1])), PassLimits(max_tokens, None, 1.0)
        return cls(model, partial(update, model, optimizer, groups, objective, weighting, limits))

    def __call__(self, attention: Way) -> UpdateResult:
        """With attention planned in one of two ways: a micro-batch brings its plan, the model is the same for both."""
        self.model.kernels = replace(self.model.kernels, attention=attention)
        return self.call()


@torch.no_grad()
def draw_weights(model: torch.nn.Module) -> None:
    """Norms are 1, all else is normal; a model of billions takes a moment where the numbers are drawn on a GPU."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, _STD)


@dataclass(frozen=True)
class Product:
    """A plain product of square matrices in bf16, some times in a row."""

    a: Tensor
    b: Tensor
    out: Tensor

    @classmethod
    def draw(cls, size: int, device: torch.device) -> Product:
        """Random values."""
        a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
        return cls(a, b, torch.empty_like(a))

    @property
    def operations(self) -> int:
        """Of a call."""
        return _PRODUCTS * 2 * len(self.a) ** 3

    def __call__(self) -> None:
        """Compute them."""
        for _ in range(_PRODUCTS):
            torch.mm(self.a, self.b, out=self.out)

    def __str__(self) -> str:
        return f"{len(self.a)}^3 in bf16, by turns"
