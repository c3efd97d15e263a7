"""The section on log-probs holds on the CPU in its small form, and fails where something is planted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from benchmarks.gpu_check import log_prob, log_prob_time
from benchmarks.gpu_check.lines import Line, Status
from benchmarks.gpu_check.log_prob_cases import Answer, Problem, in_fp64

from .sheets import claims, failed, small_lines

CPU = torch.device("cpu")


@pytest.fixture
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1) as grid:
        yield grid


def number_lines(topology: Topology, folder: Path, with_entropy: bool = False) -> list[Line]:
    problem = Problem.draw(23, 16, 301, 0.7, CPU)
    want = in_fp64(problem, with_entropy=with_entropy)

    def run(sheet: Any, place: Any) -> None:
        log_prob.show_numbers(sheet, place, problem, want, topology.tp.group, with_entropy, False)

    return small_lines(run, folder)


def test_section_holds(tmp_path: Path) -> None:
    lines = small_lines(log_prob.run, tmp_path)
    assert not failed(lines) + claims(lines)
    names = [line.name for line in lines]
    assert sum(name.endswith(": grad weight") for name in names) == 8
    times = [line for line in lines if line.status is Status.MEASURED and "main_grad" in line.name]
    assert times
    assert "of three products" in times[0].note


def test_reference_is_autograd_of_log_softmax() -> None:
    problem = Problem.draw(11, 8, 50, 0.7, CPU)
    hidden, weight = problem.hidden.detach().double(), problem.weight.detach().double()
    hidden.requires_grad_(), weight.requires_grad_()
    log_p = torch.log_softmax(hidden @ weight[:50].t() / 0.7, dim=1)
    log_probs, entropy = log_p.gather(1, problem.targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(dim=1)
    ((log_probs * problem.by_log_prob).sum() + (entropy * problem.by_entropy).sum()).backward()
    found = in_fp64(problem, with_entropy=True)
    assert hidden.grad is not None
    assert weight.grad is not None
    want = Answer(log_probs.detach(), entropy.detach(), hidden.grad, weight.grad)
    for part in ("log_probs", "entropy", "grad_hidden", "grad_weight"):
        torch.testing.assert_close(getattr(found, part), getattr(want, part), rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_entropy", [False, True])
def test_numbers_hold(with_entropy: bool, topology: Topology, tmp_path: Path) -> None:
    lines = number_lines(topology, tmp_path, with_entropy)
    assert len(lines) == 8
    assert not failed(lines)


def rounded_logits(answer: Answer) -> Answer:
    """As with logits in 16 bits."""
    return replace(answer, log_probs=answer.log_probs.bfloat16().float())


def put_not_added(answer: Answer) -> Answer:
    """The weight's gradient replaces what was in the buffer."""
    return replace(answer, grad_weight=answer.grad_weight - torch.randn(answer.grad_weight.shape))


def padding_too(answer: Answer) -> Answer:
    """Rows that pad the vocabulary get a gradient."""
    grad = answer.grad_weight.clone()
    grad[-1] = 1.0
    return replace(answer, grad_weight=grad)


def wrong_sign(answer: Answer) -> Answer:
    return replace(answer, grad_hidden=-answer.grad_hidden)


def one_not_written(answer: Answer) -> Answer:
    entropy = answer.entropy.clone()
    entropy[5] = torch.nan
    return replace(answer, entropy=entropy)


@pytest.mark.parametrize(
    ("planted", "part"),
    [
        (rounded_logits, "log-probs"),
        (put_not_added, "grad weight"),
        (padding_too, "grad weight"),
        (wrong_sign, "grad hidden"),
        (one_not_written, "entropy"),
    ],
)
def test_planted_fault(
    planted: Any, part: str, topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = log_prob.by_token
    monkeypatch.setattr(log_prob, "by_token", lambda *args: planted(real(*args)))
    (name,) = failed(number_lines(topology, tmp_path))
    assert name.endswith(f"token by token, plain: {part}")


def test_gradient_that_is_summed_in_16_bits(
    topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product's own code broken: the weight's gradient is added up in bf16."""
    from aspo_megatron.parallel.log_prob import logit_gradient

    def in_16_bits(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
        total.copy_((total.bfloat16() + (gradient.t() @ hidden.to(gradient.dtype)).bfloat16()).float())

    monkeypatch.setattr(logit_gradient, "_add_hidden_product", in_16_bits)
    names = failed(number_lines(topology, tmp_path))
    assert [name for name in names if name.endswith("token by token, plain: grad weight")]


def test_time_that_runs_out_is_named(topology: Topology, tmp_path: Path) -> None:
    over = time.monotonic() - 1.0
    lines = small_lines(lambda sheet, place: log_prob_time.show_times(sheet, place, topology.tp.group, over), tmp_path)
    assert [(line.name, line.status) for line in lines] == [("time of 40 x 24 x 501", Status.NOT_DONE)]
