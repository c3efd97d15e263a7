"""What the card can do at best, and how exact its products are: what the other figures are held against.

Bytes copied a second; a large product; the three products of the output layer (logits, gradients of hidden states and
of the weight), with results in 16 bits and in fp32; and their errors against fp64. PyTorch lets cuBLAS add the parts of
a split sum in 16 bits, which matters where the sum goes over the vocabulary. Products whose result is fp32 must not be
touched by that: these lines have a bound. It is what sums of fp32 that are rounded toward zero, as tensor cores do,
may lose: half a step of 2^-23 for each of K / 8 additions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from aspo_megatron.parallel.log_prob.logit_gradient import _add_hidden_product, _weight_product
from benchmarks.gpu_check.figures import fresh_random, poison, relative, seconds
from benchmarks.gpu_check.lines import Place, Sheet

VOCABULARY = 151936
SIZES = tuple((tokens, hidden) for tokens in (1177, 4096) for hidden in (1536, 4096))
_EXACT = ((1177, 1536), (4096, 1536))
"""Tokens and hidden sizes whose products are held against fp64."""
_FP64 = "the product in fp64"
_REPEATS = 10


def run(sheet: Sheet, place: Place) -> None:
    """Speeds, then errors."""
    fresh_random(place.device)
    with sheet.part("copies"):
        _show_copy(sheet, place)
    with sheet.part("product"):
        _show_product(sheet, place)
    vocabulary = 700 if place.small else VOCABULARY
    for tokens, hidden in ((37, 24),) if place.small else SIZES:
        head = Head.draw(tokens, hidden, vocabulary, place.device)
        with sheet.part(f"{head}, times"):
            _show_head_times(sheet, place, head)
        if place.small or (tokens, hidden) in _EXACT:
            with sheet.part(f"{head}, errors"):
                _show_head_errors(sheet, place, head)
            with sheet.part(f"{head}, sums in 16 bits"):
                _show_reductions(sheet, place, head)


def _show_copy(sheet: Sheet, place: Place) -> None:
    source = torch.ones((1 << 20) if place.small else (1 << 30), dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    taken = seconds({"copy": lambda: target.copy_(source)}, place.device, _REPEATS)["copy"]
    sheet.measured("copy on the device, bytes read and written", 2 * source.nbytes / taken / 1e9, "GB/s")
    if not place.on_gpu:
        return
    host = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    part = target[: host.numel()]
    ways = {"to the device": lambda: part.copy_(host, non_blocking=True)}
    ways["to the host"] = lambda: host.copy_(part, non_blocking=True)
    for way, taken in seconds(ways, place.device, 5).items():
        sheet.measured(f"copy from page-locked memory, {way}", host.nbytes / taken / 1e9, "GB/s")


def _show_product(sheet: Sheet, place: Place) -> None:
    size = 64 if place.small else 8192
    a, b = (torch.randn(size, size, device=place.device).to(torch.bfloat16) for _ in range(2))
    taken = seconds({"mm": lambda: a @ b}, place.device, _REPEATS)["mm"]
    sheet.measured(f"product {size}^3 in bf16", 2 * size**3 / taken / 1e12, "TFLOP/s")


@dataclass(frozen=True)
class Head:
    """Hidden states [n, H], weight [V, H], gradient of logits [n, V], in bf16; the weight's gradient [V, H] in fp32."""

    hidden: Tensor
    weight: Tensor
    gradient: Tensor
    total: Tensor

    @classmethod
    def draw(cls, tokens: int, hidden: int, vocabulary: int, device: torch.device) -> Head:
        """Random values."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device=device)

        states, weight = normal(tokens, hidden).bfloat16(), (normal(vocabulary, hidden) / hidden**0.5).bfloat16()
        return cls(states, weight, normal(tokens, vocabulary).bfloat16(), normal(vocabulary, hidden))

    @property
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of the three products, by what they give."""
        return {
            "logits": (self.hidden, self.weight.t()),
            "grad hidden": (self.gradient, self.weight),
            "grad weight": (self.gradient.t(), self.hidden),
        }

    def __str__(self) -> str:
        return f"{len(self.hidden)} x {self.hidden.size(1)} x {len(self.weight)}"


def wide(a: Tensor, b: Tensor) -> Tensor:
    """The product of 16-bit matrices in fp32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.device.type != "cpu" else a.float() @ b.float()


def add_in_place(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`total` plus their product, in its memory."""
    if a.device.type != "cpu":
        return torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    return total.addmm_(a.float(), b.float())


def _show_head_times(sheet: Sheet, place: Place, head: Head) -> None:
    work = 2 * head.hidden.numel() * len(head.weight)
    for name, (a, b) in head.factors.items():
        narrow = torch.empty(a.size(0), b.size(1), dtype=a.dtype, device=a.device)
        ways: dict[str, Callable[[], object]] = {"bf16": partial(torch.mm, a, b, out=narrow)}
        ways["fp32"] = partial(wide, a, b)
        if name == "grad weight" and _adds_in_place(sheet, head):
            ways["added to fp32 in place"] = partial(add_in_place, head.total, a, b)
        if name == "grad weight" and place.on_gpu:
            ways["added to fp32 as the log-prob does"] = partial(_add_hidden_product, head.total, a.t(), b)
        for way, taken in seconds(ways, place.device, 3 if place.small else _REPEATS).items():
            sheet.measured(f"{head}, {name}: {way}", work / taken / 1e12, "TFLOP/s", note=f"{1e3 * taken:.3f} ms")


def _adds_in_place(sheet: Sheet, head: Head) -> bool:
    """Whether this PyTorch adds a product of 16 bits to fp32; says so if not."""
    a, b = head.gradient.t(), head.hidden
    try:
        add_in_place(head.total, a, b)
    except RuntimeError as error:
        sheet.not_done(f"{head}, grad weight: added to fp32 in place", f"refused: {str(error).splitlines()[0]}")
        return False
    return True


def _show_head_errors(sheet: Sheet, place: Place, head: Head) -> None:
    """Products with fp32 results, and those that the log-prob makes of them."""
    for name, (a, b) in head.factors.items():
        want = a.double() @ b.double()
        bound = rounding_bound(a.size(1))
        poison(place.device)
        sheet.at_most(f"{head}, {name} in fp32", relative(wide(a, b), want), bound, reference=_FP64)
        if name == "logits" and place.on_gpu:
            buffer = torch.full(want.shape, torch.nan, device=place.device)
            torch.mm(a, b, out_dtype=torch.float32, out=buffer)
            error = relative(buffer, want)
            sheet.at_most(f"{head}, {name} into a buffer in fp32", error, bound, reference=_FP64)
        elif name == "grad hidden":
            out = torch.full(want.shape, torch.nan, dtype=torch.bfloat16, device=place.device)
            _weight_product(a if place.on_gpu else a.float(), b, out)
            step = 2.0**-8
            sheet.at_most(f"{head}, {name} of the log-prob, rounded once", relative(out, want), step, reference=_FP64)
        elif name == "grad weight":
            _show_sums(sheet, head, a, b, want, bound)
        del want


def _show_sums(sheet: Sheet, head: Head, a: Tensor, b: Tensor, product: Tensor, bound: float) -> None:
    """The weight's gradient is added to what is there."""
    before = torch.randn_like(head.total) * product.std().float()
    want = product + before.double()
    total = before.clone()
    _add_hidden_product(total, a.t() if total.device.type != "cpu" else a.t().float(), b)
    sheet.at_most(f"{head}, grad weight added by the log-prob", relative(total, want), bound, reference=_FP64)
    total = before.clone()
    try:
        add_in_place(total, a, b)
    except RuntimeError:
        return  # was said when its time was to be taken
    sheet.at_most(f"{head}, grad weight added in place", relative(total, want), bound, reference=_FP64)


def rounding_bound(terms: int) -> float:
    """Relative, of a sum of so many products in fp32 rounded toward zero after every eighth; and the last rounding."""
    return terms / 8 * 2.0**-24 + 2.0**-22


def _show_reductions(sheet: Sheet, place: Place, head: Head) -> None:
    """A sum over the vocabulary with a 16-bit result: with and without parts that are added in 16 bits."""
    want = head.gradient.double() @ head.weight.double()
    figures = {}
    for name, allowed in (("allowed", True), ("not allowed", False)):
        with reduced_precision(allowed):
            got = head.gradient @ head.weight
            taken = seconds({"mm": lambda: head.gradient @ head.weight}, place.device, 3 if place.small else _REPEATS)
        figures[name] = relative(got, want)
        note = f"{1e3 * taken['mm']:.3f} ms"
        line = f"{head}, grad hidden in bf16, sums in 16 bits {name}"
        sheet.measured(line, figures[name], "", reference=_FP64, note=note)


@contextmanager
def reduced_precision(allowed: bool) -> Iterator[None]:
    """Whether cuBLAS may add parts of a sum in 16 bits."""
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before
