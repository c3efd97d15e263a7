"""The section on ceilings holds on the CPU in its small form, and fails where products are not exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_check import ceilings, figures
from benchmarks.gpu_check.lines import Status

from .sheets import claims, failed, small_lines

CPU = torch.device("cpu")


def test_section_holds(tmp_path: Path) -> None:
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    lines = small_lines(ceilings.run, tmp_path)
    assert not failed(lines) + claims(lines)
    held = [line.name for line in lines if line.status is Status.ON_CPU]
    assert [name.split(", ")[-1] for name in held] == [
        "logits in fp32",
        "grad hidden in fp32",
        "rounded once",
        "grad weight in fp32",
        "grad weight added by the log-prob",
        "grad weight added in place",
    ]
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction == before


def test_result_that_was_rounded_to_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "wide", lambda a, b: (a @ b).float())
    assert [name.split(", ")[-1] for name in failed(small_lines(ceilings.run, tmp_path))] == [
        "logits in fp32",
        "grad hidden in fp32",
        "grad weight in fp32",
    ]


def test_sum_of_parts_in_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As cuBLAS may make it of a sum over the vocabulary."""

    def split(gradient: Tensor, weight: Tensor, out: Tensor) -> None:
        total = torch.zeros_like(out)
        for part in range(0, len(weight), 20):
            total += (gradient[:, part : part + 20] @ weight[part : part + 20].to(gradient.dtype)).bfloat16()
        out.copy_(total)

    monkeypatch.setattr(ceilings, "_weight_product", split)
    (name,) = failed(small_lines(ceilings.run, tmp_path))
    assert name.endswith("grad hidden of the log-prob, rounded once")


def test_product_that_replaces_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "add_in_place", lambda total, a, b: total.copy_(a.float() @ b.float()))
    (name,) = failed(small_lines(ceilings.run, tmp_path))
    assert name.endswith("grad weight added in place")


def test_version_that_refuses_to_add_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("self and mat2 must have the same dtype\nmore")

    monkeypatch.setattr(ceilings, "add_in_place", refuse)
    lines = small_lines(ceilings.run, tmp_path)
    (line,) = (line for line in lines if line.status is Status.NOT_DONE)
    assert line.note == "refused: self and mat2 must have the same dtype"
    assert not failed(lines)


def test_rounding_bound_is_that_of_sums_toward_zero() -> None:
    """A sum of as many terms, rounded toward zero after every eighth, stays below; one of half the digits does not."""
    terms = 1 << 13
    products = torch.randn(2000, terms // 8, 8, dtype=torch.float64).sum(dim=2)

    def summed(step_bits: int) -> Tensor:
        total = torch.zeros(len(products), dtype=torch.float64)
        for part in products.unbind(1):
            mantissa, exponent = torch.frexp(total + part)
            total = torch.ldexp((mantissa * 2.0**step_bits).trunc() / 2.0**step_bits, exponent)
        return total

    want = products.sum(dim=1)
    assert figures.relative(summed(24), want) < ceilings.rounding_bound(terms)
    assert figures.relative(summed(16), want) > ceilings.rounding_bound(terms)


def test_errors() -> None:
    a = torch.tensor([3.0, 4.0])
    assert figures.relative(torch.tensor([3.0, 4.5]), a) == pytest.approx(0.1)
    assert figures.farthest(torch.tensor([3.0, torch.inf]), torch.tensor([2.5, torch.inf])) == 0.5
    for wrong in (torch.tensor([3.0, torch.nan]), torch.zeros(3)):
        assert not figures.relative(wrong, a) <= 1e9
        assert not figures.farthest(wrong, a) <= 1e9
    big = torch.ones(3, 7, dtype=torch.bfloat16)
    assert figures.relative(big, big) == 0


def test_times_and_counts() -> None:
    calls: list[str] = []
    found = figures.seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, repeats=3)
    assert calls == ["a", "b"] * 4
    assert all(taken >= 0 for taken in found.values())

    def two_operations() -> Any:
        return torch.ones(3) + 1

    assert figures.kernels(two_operations, CPU) == 2
