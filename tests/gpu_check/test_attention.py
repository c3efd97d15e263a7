"""The sections on attention hold on the CPU in their small form, and fail where something is planted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aspo_megatron.parallel.device.attention_kernels import attend, attend_backward
from benchmarks.gpu_check import attention, attention_time, attention_varlen
from benchmarks.gpu_check.attention_cases import Case, Group, draw, in_fp64, masked_in_fp64, spans_of
from benchmarks.gpu_check.lines import Line, Status
from benchmarks.gpu_check.varlen import PlainVarlen, Segments, SharedPrompts

from .sheets import claims, failed, small_lines

CAUSAL = Case("causal", 2, 40, 40, 4, 2, 64, True)


def blocks_lines(folder: Path, case: Case = CAUSAL) -> list[Line]:
    return small_lines(lambda sheet, place: attention.show_blocks(sheet, place, case), folder)


def varlen_lines(folder: Path, kernel: Any) -> list[Line]:
    return small_lines(lambda sheet, place: attention_varlen.show_varlen(sheet, place, kernel), folder)


def test_attention_holds(tmp_path: Path) -> None:
    lines = small_lines(attention.run, tmp_path)
    assert not failed(lines) + claims(lines)
    held = [line.name for line in lines if line.status is Status.ON_CPU]
    for part in ("out", "log-sum-exp", "dq", "dk", "dv"):
        for case in attention.SMALL_CASES:
            assert f"{case}: {part}" in held
    assert sum("prompts shared by responses" in name for name in held) == 9
    assert any(name.startswith("FlexAttention") for name in held)
    assert not [line for line in lines if line.status is Status.NOT_DONE]


def test_log_sum_exp_that_the_kernel_reads_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its pointer as [n, heads, queries], while it lies there as [n, queries, heads]."""

    def misread(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any) -> Any:
        n, queries, heads = lse.shape
        return real(grad, q, k, v, out, lse.contiguous().view(n, heads, queries).transpose(1, 2), *rest)

    real = attend_backward
    monkeypatch.setattr(attention, "attend_backward", misread)
    names = failed(blocks_lines(tmp_path))
    assert [name.split(": ")[-1] for name in names] == ["dq", "dk", "dv"]


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (0, lambda out: -out),
        (0, lambda out: out.roll(1, dims=2)),
        (0, lambda out: out.index_fill(1, torch.tensor([3]), torch.nan)),
        (1, lambda lse: lse + 2e-3),
        (1, lambda lse: lse * math.log2(math.e)),
    ],
)
def test_wrong_values(part: int, wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong sign, heads of others, rows that are not written, log-sum-exps a little off or of base 2."""

    def planted(*args: Any) -> tuple[Tensor, ...]:
        results = list(real(*args))
        results[part] = wrong(results[part])
        return tuple(results)

    real = attend
    monkeypatch.setattr(attention, "attend", planted)
    assert f"{CAUSAL}: {('out', 'log-sum-exp')[part]}" in failed(blocks_lines(tmp_path))


def test_merge_without_the_other_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer's blocks: a response that forgets its prompt, and backward passes that do not know of the merge."""
    from aspo_megatron.config import ParallelConfig, PlatformConfig
    from aspo_megatron.parallel.grid.topology import process_grid
    from aspo_megatron.parallel.model import attention as product

    def show(sheet: Any, place: Any) -> None:
        with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1):
            attention.show_layer(sheet, place, attention.SMALL_GROUPS)

    assert not failed(small_lines(show, tmp_path))
    real = attend_backward

    def own_block_alone(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any) -> Any:
        return real(grad, q, k, v, *attend(q, k, v, *rest), *rest)

    monkeypatch.setattr(product, "attend_backward", own_block_alone)
    names = [name.split(": ")[-1] for name in failed(small_lines(show, tmp_path))]
    assert names == ["dq", "dk", "dv"]


def test_fp64_references_agree() -> None:
    """That of blocks and that of a whole mask, on one causal span."""
    case = Case("one span", 1, 30, 30, 4, 2, 8, True)
    q, k, v, grad = draw(case, torch.device("cpu"), torch.float32)
    blocks = in_fp64(q, k, v, grad, True, 0.3)
    masked = masked_in_fp64(q[0], k[0], v[0], grad[0], spans_of([Group(30, ())]), 0.3)
    for part in ("out", "lse", "dq", "dk", "dv"):
        torch.testing.assert_close(getattr(blocks, part)[0], getattr(masked, part), rtol=0, atol=1e-12)


class TopLeft(PlainVarlen):
    """Counts keys from the other corner where there are more of them than queries."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = super().forward(q, k, v, segments, scale)
        if segments.causal and not torch.equal(segments.queries, segments.keys):
            first = Segments.of([1], [1], q.device, causal=True)
            out[:1] = super().forward(q[:1], k[:1], v[:1], first, scale)[0]
        return out, lse


class ZeroWithoutKeys(PlainVarlen):
    """A log-sum-exp of 0 where there is no key."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = super().forward(q, k, v, segments, scale)
        return out, lse.masked_fill(lse == math.inf, 0.0)


class Transposed(PlainVarlen):
    """Its log-sum-exp lies in memory as [tokens, heads]."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = super().forward(q, k, v, segments, scale)
        return out, lse.t().contiguous().t()


class OwnSumsOnly(PlainVarlen):
    """A backward pass that takes no log-sum-exp from outside."""

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, segments: Segments, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = self.forward(q, k, v, segments, scale)
        return super().backward(grad, q, k, v, *own, segments, scale)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (TopLeft(), "more keys than queries (the last query sees all): out"),
        (ZeroWithoutKeys(), "one segment without keys: log-sum-exp"),
        (Transposed(), "causal: log-sum-exp is [heads, tokens] in fp32"),
        (OwnSumsOnly(), "in two merged calls: dq"),
    ],
)
def test_kernel_that_nothing_can_be_built_on(kernel: PlainVarlen, said: str, tmp_path: Path) -> None:
    """It is told, and does not fail: nothing of today depends on it."""
    assert not [line for line in varlen_lines(tmp_path, None) if "does not hold" in line.note]
    lines = varlen_lines(tmp_path, kernel)
    broken = [line.name for line in lines if "does not hold" in line.note]
    assert [name for name in broken if name.endswith(said)]
    assert not failed(lines)
    assert all(line.status is Status.MEASURED for line in lines if line.name in broken)


def test_two_calls_of_padding_alone() -> None:
    """Spans without responses, and no padding."""
    spans = spans_of([Group(3, ()), Group(4, ())])
    plan = SharedPrompts.of(spans, 7, torch.device("cpu"))
    q = torch.randn(7, 2, 8)
    out, lse = plan.forward(PlainVarlen(), q, q, q, 0.3)
    want = masked_in_fp64(q, q, q, q, spans, 0.3)
    torch.testing.assert_close(out.double(), want.out, rtol=0, atol=1e-5)
    torch.testing.assert_close(lse.t().double(), want.lse, rtol=0, atol=1e-5)


def test_times(tmp_path: Path) -> None:
    lines = small_lines(attention_time.run, tmp_path)
    assert not failed(lines) + claims(lines)
    counts = [line for line in lines if line.name.endswith(": operations")]
    assert len(lines) == 2 * (1 + 2 * 5) + len(counts)
    assert lines[-len(counts) :] == counts  # after all times
    assert len(counts) == 2 * 2 * 3
    assert all(line.status is Status.MEASURED and line.figure for line in counts)
    ratios = [line for line in lines if " / " in line.name]
    assert len(ratios) == 8
    assert all(line.status is Status.MEASURED and line.figure for line in ratios)


def test_workloads_are_those_that_are_named() -> None:
    many, few, short, pairs = attention_time.WORKLOADS.values()
    assert sorted(many[0].responses) == list(range(500, 8001, 500))
    assert len(few[0].responses) == 5
    assert [len(group.responses) for group in short] == [16] * 4
    assert [len(group.responses) for group in pairs] == [1] * 64
