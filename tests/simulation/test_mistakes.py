"""Mistakes of each kind that a CPU would not show, put into the program: the stand-in's tests fail of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_megatron.config import ParallelConfig
from aspo_megatron.simulation.device.ledger import Figures

from .runs import Setup, updates
from .test_host_memory import scored_by_reference, updates_beside_a_save
from .test_layouts import check_budgets
from .test_work import all_work, saved

Simulated = Callable[..., Any]
ALONE = ParallelConfig()


def with_indices_left_on_the_cpu(setup: Setup) -> dict[str, Figures]:
    from aspo_megatron.parallel.model.micro_batch import MicroBatch

    move = MicroBatch.to
    MicroBatch.to = lambda batch, device: replace(move(batch, device), attention=batch.attention)  # type: ignore[method-assign, assignment]
    return updates(setup)


def with_targets_left_on_the_cpu(setup: Setup) -> dict[str, Figures]:
    from aspo_megatron.parallel.model.micro_batch import MicroBatch

    move = MicroBatch.to

    def to(batch: MicroBatch, device: torch.device) -> MicroBatch:
        moved = move(batch, device)
        return replace(moved, scored=replace(moved.scored, targets=batch.scored.targets))

    MicroBatch.to = to  # type: ignore[method-assign, assignment]
    return updates(setup)


def with_a_strided_log_sum_exp(setup: Setup) -> dict[str, Figures]:
    from aspo_megatron.parallel.device.varlen_kernels import attend_segments_backward as attend
    from aspo_megatron.parallel.model import varlen_attention

    contiguous = torch.Tensor.contiguous

    def strided(*args: Any) -> Any:
        args = (*args[:5], args[5].t().contiguous().t(), *args[6:])
        torch.Tensor.contiguous = lambda tensor: tensor  # type: ignore[method-assign, assignment, misc]
        try:
            return attend(*args)
        finally:
            torch.Tensor.contiguous = contiguous  # type: ignore[method-assign]

    varlen_attention.attend_segments_backward = strided  # type: ignore[attr-defined, assignment]
    return updates(setup)


def with_a_number_read_in_the_forward_pass(setup: Setup) -> dict[str, Figures]:
    from aspo_megatron.parallel.model.chunk import ModelChunk

    hidden_states = ModelChunk.hidden_states

    def read(chunk: ModelChunk, *args: Any) -> Any:
        hidden = hidden_states(chunk, *args)
        assert hidden.float().norm().item() > 0
        return hidden

    ModelChunk.hidden_states = read  # type: ignore[method-assign, assignment]
    return updates(setup)


def with_a_list_made_a_tensor_in_the_forward_pass(setup: Setup) -> dict[str, Figures]:
    from aspo_megatron.parallel.model.chunk import ModelChunk

    hidden_states = ModelChunk.hidden_states

    def scaled(chunk: ModelChunk, *args: Any) -> Any:
        hidden = hidden_states(chunk, *args)
        return hidden * torch.tensor([1.0], device=hidden.device, dtype=hidden.dtype)

    ModelChunk.hidden_states = scaled  # type: ignore[method-assign, assignment]
    return updates(setup)


def with_gpu_tensors_for_the_writer(setup: Setup, state: Path, run: Path) -> Any:
    from aspo_megatron.parallel.device.host_copies import HostCopies

    HostCopies.take = lambda copies, tensor, *, lasts: tensor  # type: ignore[method-assign, assignment]
    return all_work(setup, state, run)


def without_a_fence(setup: Setup, run: Path) -> None:
    from aspo_megatron.parallel.device.host_copies import HostCopies

    HostCopies.fence = lambda copies: None  # type: ignore[method-assign, assignment]
    updates_beside_a_save(setup, run)


def without_waiting_for_what_is_copied(setup: Setup, run: Path) -> None:
    from aspo_megatron.simulation.device.streams import Stream

    Stream.wait_stream = lambda stream, other: None  # type: ignore[method-assign, assignment]
    updates_beside_a_save(setup, run)


def without_waiting_for_the_copies(setup: Setup, run: Path) -> None:
    from aspo_megatron.parallel.device.host_copies import HostCopies

    take = HostCopies.take

    def read_at_once(copies: HostCopies, tensor: torch.Tensor, *, lasts: bool) -> torch.Tensor:
        return take(copies, tensor, lasts=lasts) + 0

    HostCopies.take = read_at_once  # type: ignore[method-assign, assignment]
    updates_beside_a_save(setup, run)


def without_waiting_for_the_state(setup: Setup, run: Path) -> None:
    from aspo_megatron.parallel.update.host_state import HostState

    HostState.wait = lambda state: None  # type: ignore[method-assign, assignment]
    updates_beside_a_save(setup, run, offload=True)


def with_adam_before_its_piece_is_there(setup: Setup, run: Path) -> None:
    from aspo_megatron.parallel.device.piece_copies import PieceCopies

    PieceCopies._compute_after = lambda copies, mark: None  # type: ignore[method-assign, assignment]
    updates_beside_a_save(setup, run, offload=True)


def with_pieces_that_do_not_wait(direction: str, setup: Setup, run: Path) -> None:
    from aspo_megatron.parallel.device.piece_copies import PieceCopies

    copy = PieceCopies._copy

    def at_once(copies: Any, stream: Any, pairs: Any, after: Any) -> Any:
        now = torch.cuda.Event()  # which marks the beginning of all
        return copy(copies, stream, pairs, now if stream is getattr(copies, direction) else after)

    PieceCopies._copy = at_once  # type: ignore[method-assign, assignment]
    updates_beside_a_save(setup, run, offload=True)


def with_a_piece_that_goes_before_adam(setup: Setup, run: Path) -> None:
    with_pieces_that_do_not_wait("_going", setup, run)


def with_a_piece_that_comes_over_another(setup: Setup, run: Path) -> None:
    with_pieces_that_do_not_wait("_coming", setup, run)


def with_memory_freed_while_it_is_copied(setup: Setup, run: Path) -> None:
    from aspo_megatron.parallel.device.host_copies import HostCopies
    from aspo_megatron.simulation.device.timeline import Timeline

    take = HostCopies.take
    HostCopies.take = lambda copies, tensor, *, lasts: take(copies, tensor, lasts=True)  # type: ignore[method-assign, assignment]
    Timeline.keep = lambda *_: None  # type: ignore[method-assign]
    updates_beside_a_save(setup, run)


def with_a_reference_of_garbage(setup: Setup, run: Path) -> None:
    from aspo_megatron.parallel.model.reference import HostWeights

    def bring(weights: HostWeights) -> None:
        for parameter, _ in weights._places:
            parameter.untyped_storage().resize_(parameter.nbytes)

    HostWeights.bring = bring  # type: ignore[method-assign, assignment]
    scored_by_reference(setup, 0.01, None)


def with_a_reference_that_is_away(setup: Setup, run: Path) -> None:
    from aspo_megatron.parallel.model.reference import HostWeights

    HostWeights.bring = lambda weights: None  # type: ignore[method-assign, assignment]
    scored_by_reference(setup, 0.01, None)


WHOLE, SPLIT = ParallelConfig(tp=2), ParallelConfig(dp=2, distributed_optimizer=True)


@pytest.mark.parametrize(
    ("mistake", "parallel", "message"),
    [
        (without_a_fence, WHOLE, "overwrites what another stream may still copy"),
        (without_waiting_for_what_is_copied, WHOLE, "another stream may not have made its input yet"),
        (without_waiting_for_the_copies, WHOLE, "looks at memory that a copy from the device may not have filled yet"),
        (without_waiting_for_the_state, WHOLE, "looks at memory that a copy from the device may not have filled yet"),
        (with_adam_before_its_piece_is_there, WHOLE, "another stream may not have made its input yet"),
        (with_a_piece_that_goes_before_adam, WHOLE, "another stream may not have made its input yet"),
        (with_a_piece_that_comes_over_another, SPLIT, "may not have made its input yet|another stream may still copy"),
        (with_memory_freed_while_it_is_copied, SPLIT, "memory was freed from which another stream may still copy"),
        (with_a_reference_of_garbage, WHOLE, "reads memory that was reallocated and not written to since"),
        (with_a_reference_that_is_away, WHOLE, "computes with memory that was freed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_would_be_garbage_at_times_is_an_error(
    mistake: Callable[..., Any],
    parallel: ParallelConfig,
    message: str,
    simulated: Simulated,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(RuntimeError, match=message):
        simulated(mistake, Setup(folders["llama-tied"], parallel), tmp_path / "run")


def test_without_a_mistake_nothing_fails(simulated: Simulated, folders: dict[str, Path]) -> None:
    check_budgets(simulated(updates, Setup(folders["qwen3"], ALONE)))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (with_indices_left_on_the_cpu, "device"),
        (with_targets_left_on_the_cpu, "device"),
        (with_a_strided_log_sum_exp, "logsumexp must be fp32, contiguous"),
    ],
)
def test_what_would_be_wrong_is_an_error(
    mistake: Callable[..., Any], message: str, simulated: Simulated, folders: dict[str, Path]
) -> None:
    with pytest.raises(RuntimeError, match=message):
        simulated(mistake, Setup(folders["qwen3"], ALONE))


@pytest.mark.parametrize(
    "mistake", [with_a_number_read_in_the_forward_pass, with_a_list_made_a_tensor_in_the_forward_pass]
)
def test_what_would_be_slow_breaks_the_budget(
    mistake: Callable[..., Any], simulated: Simulated, folders: dict[str, Path]
) -> None:
    figures = simulated(mistake, Setup(folders["qwen3"], ALONE))
    with pytest.raises(AssertionError):
        check_budgets(figures)


def test_what_the_writer_may_not_have_is_seen(simulated: Simulated, folders: dict[str, Path], tmp_path: Path) -> None:
    setup = Setup(folders["qwen3"], ALONE)
    state = simulated(saved, setup, tmp_path / "before")
    _, devices, _ = simulated(with_gpu_tensors_for_the_writer, setup, state, tmp_path / "run")
    assert devices == {"gpu"}
