"""Triton's kernels for norms of heads and rotary positions, interpreted on the CPU, against PyTorch in fp64.

In small: the interpreter takes milliseconds for each token. `test_triton_compiles.py` has what a compiler makes of the
same kernels for a GPU.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aspo_megatron.parallel.device import rotary
from aspo_megatron.parallel.device.rotary import HeadNorms, rotary_table, rotated_heads
from benchmarks.gpu_check.heads import EPS, Problem, eager, fused

NAMES = ("q", "k", "v", "by projection", "by weight of q", "by weight of k")


def drawn(tokens: int, groups: int, group: int, size: int, *, normed: bool) -> Problem:
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    keys = (tokens, groups, size)
    return Problem(
        normal(tokens, groups, (group + 2) * size),
        torch.outer(torch.arange(tokens).double() * 37, 1e4 ** -(torch.arange(size // 2).double() / size)),
        (normal(size), normal(size)) if normed else (),
        (normal(tokens, groups * group, size), normal(*keys), normal(*keys)),
    )


def table(problem: Problem, dtype: torch.dtype) -> Tensor:
    return torch.cat((problem.angles.cos(), problem.angles.sin()), dim=-1).to(dtype)[:, None, None, :]


def assert_near(got: list[Tensor], want: list[Tensor], bound: float) -> None:
    """Everywhere no further apart than `bound`, relative to the largest number of each."""
    errors = {
        name: float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
        for name, ours, theirs in zip(NAMES, got, want, strict=False)
    }
    assert len(errors) == len(got) == len(want)
    assert {name: error for name, error in errors.items() if not error <= bound} == {}


SHAPES = {  # tokens, groups, queries of a group, size of a head
    "one-token": (1, 2, 2, 16),
    "one-group": (5, 1, 3, 16),
    "many-groups": (2, 9, 1, 64),
    "more-heads-than-a-tile": (3, 4, 5, 128),
    "odd-half": (3, 2, 2, 80),
    "two-blocks-and-a-rest": (9, 2, 1, 16),
}


@pytest.mark.parametrize("normed", [True, False], ids=["norms", "no-norms"])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_in_float64(shape: str, normed: bool) -> None:
    problem = drawn(*SHAPES[shape], normed=normed)
    assert_near(fused(problem, table(problem, torch.float64)), eager(problem), 1e-13)


def test_shapes_are_of_several_tiles_and_blocks() -> None:
    _, groups, group, size = SHAPES["more-heads-than-a-tile"]
    rows, columns = rotary._tile(groups * group, size)
    assert rows < groups * group
    assert (rows * columns, 2 * columns) == (rotary._ELEMENTS, size)
    assert 2 * rotary._SPAN < SHAPES["two-blocks-and-a-rest"][0] < 3 * rotary._SPAN


@pytest.mark.parametrize("normed", [True, False], ids=["norms", "no-norms"])
def test_float32_is_as_good_as_plain_pytorch(normed: bool) -> None:
    problem = drawn(5, 2, 3, 64, normed=normed)
    short = replace(problem.to(torch.float32), angles=problem.angles.float().double())
    assert_near(fused(short, table(short, torch.float32)), eager(short), 1e-6)


@pytest.mark.parametrize("normed", [True, False], ids=["norms", "no-norms"])
def test_bfloat16_is_rounded_once(normed: bool) -> None:
    """The interpreter cuts off what bf16 cannot hold: one step of it, where plain PyTorch takes several."""
    problem = drawn(5, 2, 3, 64, normed=normed).to(torch.bfloat16)
    got, want = fused(problem, table(problem, torch.float32)), eager(problem.to(torch.float64))
    assert {tensor.dtype for tensor in got} == {torch.bfloat16}
    for name, ours, theirs in zip(NAMES, got, want, strict=False):
        assert ((ours.double() - theirs).abs() <= 2.0**-7 * theirs.abs() + 1e-5).all(), name
    assert torch.equal(got[2], problem.projection[:, :, -64:])


def test_no_tokens() -> None:
    problem = drawn(0, 2, 2, 16, normed=True)
    got = fused(problem, table(problem, torch.float64))
    assert [tuple(each.shape) for each in got] == [(0, 4, 16), (0, 2, 16), (0, 2, 16), (0, 2, 64), (16,), (16,)]
    assert not got[4].any()
    assert not got[5].any()


def test_a_part_of_a_wider_projection() -> None:
    """As where ranks share a group. Nothing is written to it."""
    problem = drawn(3, 1, 2, 16, normed=True)
    wide = torch.full((3, 1, 200), 9.0, dtype=torch.float64)
    wide[:, :, 64:128] = problem.projection
    norms, before = HeadNorms(problem.weights[0], problem.weights[1], EPS), wide.clone()
    out = rotated_heads(wide[:, :, 64:128], table(problem, torch.float64), norms, problem.group)
    assert_near(list(out), eager(problem)[:3], 1e-13)
    assert torch.equal(wide, before)


@pytest.mark.parametrize("normed", [True, False], ids=["norms", "no-norms"])
def test_what_is_kept_for_backward(normed: bool) -> None:
    """The table; and with norms their weights and the projection, which the values are a part of then."""
    problem = drawn(3, 2, 2, 16, normed=normed)
    projection = problem.projection.clone().requires_grad_()
    norms = HeadNorms(problem.weights[0], problem.weights[1], EPS) if normed else None
    angles = table(problem, torch.float64)
    q, k, v = rotated_heads(projection, angles, norms, problem.group)
    assert q.grad_fn is not None
    kept = [each for each in q.grad_fn.saved_tensors if each is not None]  # type: ignore[attr-defined]
    want = [projection, angles, *problem.weights] if normed else [angles]
    assert [each.data_ptr() for each in kept] == [each.data_ptr() for each in want]
    assert (v.untyped_storage().data_ptr() == projection.untyped_storage().data_ptr()) == normed
    assert q.is_contiguous()
    assert k.is_contiguous()
    assert v.is_contiguous() != normed


def test_table_of_positions() -> None:
    """In fp32, of angles that are products in fp32, as megatron's and Hugging Face's are."""
    frequencies, positions = torch.tensor([1.0, 0.1, 0.003]), torch.tensor([0, 3, 40_000])
    angles = positions.float()[:, None] * frequencies
    made = rotary_table(positions, frequencies)
    assert (made.shape, made.dtype) == ((3, 1, 1, 6), torch.float32)
    assert torch.equal(made[:, 0, 0], torch.cat((angles.cos(), angles.sin()), dim=1))


@pytest.mark.parametrize("normed", [True, False], ids=["norms", "no-norms"])
def test_bytes_that_a_head_costs(normed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All loads and stores of 16-bit heads: a number is read once and written once, each way; with norms it is read
    once more in backward. The table and the sums for the weights come on top, 4 bytes each."""
    from triton.runtime.interpreter import interpreter_builder

    moved: Counter[str] = Counter()
    load, store = interpreter_builder.create_masked_load, interpreter_builder.create_masked_store

    def loaded(pointers: Any, mask: Any, *rest: Any) -> Any:
        value = load(pointers, mask, *rest)
        moved["loaded"] += int(np.count_nonzero(mask.data)) * value.data.itemsize
        return value

    def stored(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        moved["stored"] += int(np.count_nonzero(mask.data)) * value.data.itemsize
        return store(pointers, value, mask, *rest)

    monkeypatch.setattr(interpreter_builder, "create_masked_load", loaded)
    monkeypatch.setattr(interpreter_builder, "create_masked_store", stored)
    tokens, groups, group, size = 2 * rotary._SPAN, 8, 4, 128
    problem = drawn(tokens, groups, group, size, normed=normed).to(torch.float16)
    leaves = [tensor.requires_grad_() for tensor in (problem.projection, *problem.weights)]
    norms = HeadNorms(leaves[1], leaves[2], EPS) if normed else None
    out = rotated_heads(leaves[0], table(problem, torch.float32), norms, group)
    heads, values = 2 * tokens * groups * (group + 1) * size, 2 * tokens * groups * size
    angles, weights = 4 * tokens * size, 2 * 2 * size if normed else 0
    forward = {"loaded": heads + angles + tokens * weights, "stored": heads}
    if not normed:
        forward = {key: value + values for key, value in forward.items()}
    assert moved == forward
    moved.clear()
    torch.autograd.backward(out, problem.upstream)
    sums = 2 * 4 * size * 2 if normed else 0
    backward = {"loaded": heads * (1 + normed) + values + angles + tokens * weights, "stored": heads + values + sums}
    assert moved == backward
