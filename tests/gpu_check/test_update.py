"""The section `update` holds on the CPU and on the stand-in for a GPU, and fails where something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .in_process import Lines, failed, held, not_done, section, stand_in

pytestmark = pytest.mark.distributed

KINDS = ("one rank's optimizer", "distributed optimizer")
SAVED = {f"what that save holds, {kind}" for kind in KINDS}
VALUES = {
    "Adam is fused",
    "weights after two updates with optimizer.offload",
    "log-probs of a reference in the host's memory",
    *SAVED,
    *(f"changed by an update behind a save, {kind}" for kind in KINDS),
    *(f"an update after loading, {kind}" for kind in KINDS),
}
OFFLOAD = {"state away between updates", "an update's memory with offload"}
REFERENCE = {"memory of a reference that waits", "memory left after its passes"}
SAVES = {f"memory {when} a save, {kind}" for kind in KINDS for when in ("of", "after")}


def share_what_is_saved() -> None:
    """A save that writes what is there when it writes, not what was there when it began."""
    from aspo_megatron.parallel.device.host_copies import HostCopies

    HostCopies.take = lambda copies, tensor, *, lasts: tensor  # type: ignore[method-assign, assignment]
    slow_down_writing()


def slow_down_writing() -> None:
    import time

    from aspo_megatron.checkpoint.states.writer import CheckpointWriter

    write = CheckpointWriter._write

    def late(writer: Any, *args: Any) -> None:
        time.sleep(0.5)
        write(writer, *args)

    CheckpointWriter._write = late  # type: ignore[method-assign, assignment]


def test_on_the_cpu(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_cpu(section, "update", tmp_path / "good", slow_down_writing)
    assert held(lines) == VALUES
    assert not_done(lines) == {
        "memory with optimizer.offload",
        "memory of a reference in the host's memory",
        *(f"memory of a save, {kind}" for kind in KINDS),
    }
    assert failed(lines) == set()


def test_what_is_saved_must_be_a_copy(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_cpu(section, "update", tmp_path / "shared", share_what_is_saved)
    assert failed(lines) >= SAVED


def memory_lines(folder: Path, plant: Callable[[], None] | None = None) -> Lines:
    """All figures of memory."""
    with stand_in(folder, plant) as (rank, sheet, lines):
        from benchmarks.gpu_check import policies, update, update_saves

        model = policies.dense_folder(folder / "model", small=True, num_hidden_layers=1, vocab_size=97)
        weights = policies.Weights(model)
        update.offload(sheet, rank.topology, model, weights)
        update.reference(sheet, rank.topology, model, weights, 80)
        for distributed in (False, True) if plant is None else (True,):
            update_saves.saves(sheet, rank.topology, model, weights, folder, distributed=distributed)
    return lines


def keep_what_goes_away() -> None:
    from aspo_megatron.parallel.device.host_copies import HostCopies
    from aspo_megatron.parallel.model.reference import HostWeights
    from aspo_megatron.parallel.update.host_state import HostState

    kept: list[Any] = []
    take, run = HostCopies.take, HostState.run

    def keep(copies: Any, tensor: Any, *, lasts: bool) -> Any:
        kept.append(tensor.clone())
        return take(copies, tensor, lasts=lasts)

    def stay(state: Any, pieces: Any) -> None:
        kept.append([piece.rows for piece in pieces])
        run(state, pieces)

    HostCopies.take = keep  # type: ignore[method-assign, assignment]
    HostState.run = stay  # type: ignore[method-assign, assignment]
    HostWeights.release = lambda weights: None  # type: ignore[method-assign, assignment]


@pytest.mark.thorough
def test_memory_on_the_stand_in(on_stand_in: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_stand_in(memory_lines, tmp_path / "good")
    assert held(lines) >= OFFLOAD | REFERENCE | SAVES
    lines = on_stand_in(memory_lines, tmp_path / "kept", keep_what_goes_away)
    wrong = {"state away between updates", "memory of a reference that waits"}
    assert failed(lines) >= wrong | {
        "memory of a save, distributed optimizer",
        "memory after a save, distributed optimizer",
    }
