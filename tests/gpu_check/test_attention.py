"""The sections on attention hold on the CPU in their small form, and fail where something is planted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aspo_megatron.parallel.device.attention_kernels import attend, attend_backward
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.device.varlen_kernels import Segments, attend_segments, attend_segments_backward
from benchmarks.gpu_check import attention, attention_time, attention_varlen
from benchmarks.gpu_check.attention_cases import ERROR, Case, Group, draw, in_fp64, masked_in_fp64, spans_of
from benchmarks.gpu_check.figures import relative
from benchmarks.gpu_check.lines import Line, Status

from .sheets import claims, failed, small_lines

CAUSAL = Case("causal", 2, 40, 40, 4, 2, 64, True)


def blocks_lines(folder: Path, case: Case = CAUSAL) -> list[Line]:
    return small_lines(lambda sheet, place: attention.show_blocks(sheet, place, case), folder)


def test_attention_holds(tmp_path: Path) -> None:
    lines = small_lines(attention.run, tmp_path)
    assert not failed(lines) + claims(lines)
    held = [line.name for line in lines if line.status is Status.ON_CPU]
    for part in ("out", "log-sum-exp", "dq", "dk", "dv"):
        for case in attention.SMALL_CASES:
            assert f"{case}: {part}" in held
    assert sum("prompts shared by responses" in name for name in held) == 4 * 5
    assert sum(name.startswith("varlen, ") for name in held) == 3 * 6
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


@pytest.mark.parametrize("way", ["blocks", "varlen"])
def test_merge_without_the_other_part(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer: backward passes that do not know of the merge."""
    from aspo_megatron.config import ParallelConfig, PlatformConfig
    from aspo_megatron.parallel.grid.topology import process_grid
    from aspo_megatron.parallel.model import block_attention, varlen_attention

    def show(sheet: Any, place: Any) -> None:
        with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1):
            attention.show_layer(sheet, place, attention.SMALL_GROUPS, way, attention.WAYS[way], 1)

    assert not failed(small_lines(show, tmp_path))

    def own_block_alone(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any) -> Any:
        return attend_backward(grad, q, k, v, *attend(q, k, v, *rest), *rest)

    def own_segments_alone(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any) -> Any:
        return attend_segments_backward(grad, q, k, v, *attend_segments(q, k, v, *rest), *rest)

    monkeypatch.setattr(block_attention, "attend_backward", own_block_alone)
    monkeypatch.setattr(varlen_attention, "attend_segments_backward", own_segments_alone)
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


def top_left(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """Counts keys from the other corner where there are more of them than queries."""
    out, lse = attend_segments(q, k, v, segments, scale)
    if segments.causal and not torch.equal(segments.queries, segments.keys):
        out[:1] = attend_segments(q[:1], k[:1], v[:1], Segments.of([1], [1], causal=True), scale)[0]
    return out, lse


def zero_without_keys(*args: Any) -> tuple[Tensor, Tensor]:
    """A log-sum-exp of 0 where there is no key."""
    out, lse = attend_segments(*args)
    return out, lse.masked_fill(lse == math.inf, 0.0)


def transposed(*args: Any) -> tuple[Tensor, Tensor]:
    """Its log-sum-exp lies in memory as [tokens, heads]."""
    out, lse = attend_segments(*args)
    return out, lse.t().contiguous().t()


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (top_left, "more keys than queries (the last query sees all): out"),
        (zero_without_keys, "one segment without keys: log-sum-exp"),
        (transposed, "causal: log-sum-exp is [heads, tokens] in fp32"),
    ],
)
def test_segments_of_another_kernel(kernel: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_varlen, "attend_segments", kernel)
    assert [name for name in failed(small_lines(attention_varlen.show_varlen, tmp_path)) if name.endswith(said)]


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


@pytest.mark.parametrize("groups", attention_time.SMALL_WORKLOADS.values(), ids=attention_time.SMALL_WORKLOADS)
@torch.no_grad()
def test_flex_attention_is_given_the_same_mask(groups: list[Group]) -> None:
    """Forward: on a CPU it has no backward pass."""
    tokens = spans_of(groups)[-1].stop
    q, grad = torch.randn(2, tokens, 2, 64).to(torch.bfloat16)
    k, v = torch.randn(2, tokens, 1, 64).to(torch.bfloat16)
    flex = attention_time.Flex(groups, q, k, v, grad)
    blocks = attention_time.Planned(Kernels(attention="blocks"), groups, q, k, v, grad)
    assert relative(flex.forward(), blocks.forward()) <= ERROR


def test_flex_attention_that_fails_costs_itself_alone(tmp_path: Path) -> None:
    def make() -> attention_time.Flex:
        raise RuntimeError("no kernel for this card")

    ways: dict[str, Any] = {}
    (line,) = small_lines(lambda sheet, place: attention_time.add_flex(sheet, "1 prompt", ways, make), tmp_path)
    assert (line.name, line.status) == ("1 prompt: FlexAttention", Status.NOT_DONE)
    assert "no kernel for this card" in str(line)
    assert not ways
