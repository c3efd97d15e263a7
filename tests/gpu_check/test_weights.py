"""The section `weights` holds on the CPU, and finds bytes, log-probs and memory that are not as they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.multiprocessing import reductions

from aspo_megatron.rollout.weight_sync.shared_bucket import SharedBucket
from benchmarks.gpu_check import weights_bucket
from benchmarks.gpu_check.lines import Sheet, Status, read_lines
from benchmarks.gpu_check.policies import dense_folder

from .in_process import Lines, cpu, failed, held, not_done, section, stand_in

pytestmark = pytest.mark.distributed

BUCKET = "a bucket of weights in another process"
NEW = ("", ", with new weights")
ENGINE = {
    *(f"float32{new}: engine_log_prob_diff/max" for new in NEW),
    *(f"{dtype}{new}: engine_log_prob_diff of 90 % of tokens" for dtype in ("float32", "bfloat16") for new in NEW),
    *(f"{dtype}{new}: responses name their weights" for dtype in ("float32", "bfloat16") for new in NEW),
    *(f"{dtype}: change of log-probs by new weights" for dtype in ("float32", "bfloat16")),
}


def test_on_the_cpu(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_cpu(section, "weights", tmp_path / "good")
    assert held(lines) == ENGINE | {BUCKET}
    assert not_done(lines) == {"rollout.max_batch_tokens: null"}
    assert failed(lines) == set()


def keep_the_first_weights_and_tell_other_log_probs() -> None:
    from aspo_megatron.rollout.embedded import engine
    from aspo_megatron.rollout.embedded.sampling import sample_tokens as sample
    from aspo_megatron.rollout.embedded.weights import EmbeddedWeights
    from benchmarks.gpu_check import weights

    load = EmbeddedWeights.load
    first: list[Any] = []

    def load_first(own: Any, tensors: Any) -> None:
        first[:] = first if first and own is first[0] else [own, [(name, t.clone()) for name, t in tensors]]
        load(own, first[1])

    def other(*args: Any) -> Any:
        tokens, log_probs = sample(*args)
        return tokens, log_probs + 3e-4

    EmbeddedWeights.load, engine.sample_tokens = load_first, other  # type: ignore[method-assign, attr-defined, assignment]
    weights.shared_bucket = lambda sheet, place: None  # type: ignore[attr-defined]


def test_another_policy_than_the_trainers_is_found(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_cpu(section, "weights", tmp_path / "bad", keep_the_first_weights_and_tell_other_log_probs)
    assert failed(lines) >= {
        "float32: engine_log_prob_diff of 90 % of tokens",
        "float32: engine_log_prob_diff/max",
        "float32: change of log-probs by new weights",
        "bfloat16: change of log-probs by new weights",
    }


def test_bytes_that_differ_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Damaged(SharedBucket):
        def pickled(self) -> bytes:
            self._flat[-1] += 1
            return super().pickled()

    monkeypatch.setattr(weights_bucket, "SharedBucket", Damaged)
    weights_bucket.shared_bucket(Sheet("weights", tmp_path / "lines", on_gpu=False), cpu(tmp_path))
    (line,) = read_lines(tmp_path / "lines")
    assert line.status is Status.FAILED
    assert line.figure == 1


def test_a_process_that_cannot_open_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedBucket, "pickled", lambda bucket: b"no pickle")
    weights_bucket.shared_bucket(Sheet("weights", tmp_path / "lines", on_gpu=False), cpu(tmp_path))
    (line,) = read_lines(tmp_path / "lines")
    assert line.status is Status.FAILED
    assert "UnpicklingError" in line.note


def test_a_gpu_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="ab"[number]))
    monkeypatch.setattr(reductions, "rebuild_cuda_tensor", lambda *arguments: given.extend(arguments))
    weights_bucket._by_uuid(*range(6), "b", *range(7, 15))
    assert given == [0, 1, 2, 3, 4, 5, 1, *range(7, 15)]


def engine_memory(folder: Path, plant: Callable[[], None] | None = None) -> Lines:
    """The engine's memory, and its batches where little is free."""
    with stand_in(folder, plant) as (rank, sheet, lines):
        from benchmarks.gpu_check import policies, weights, weights_budget

        for name, value in {"_RESPONSES": 3, "_TOKENS": 3, "_FREE": 1 << 19}.items():
            setattr(weights_budget, name, value)
        weights._TOKENS_ON_GPU, weights._UPDATES = 3, 1
        model = dense_folder(folder / "model", small=True, num_hidden_layers=1, vocab_size=97)
        own = policies.Weights(model)
        engine = weights.engine_and_trainer(sheet, rank.topology, model, own, "bfloat16", 80)
        weights_budget.batch_tokens(sheet, engine, rank.topology.platform.device)
    return lines


MEMORY = {"bfloat16: memory of the engine", "bfloat16: memory that it keeps"}
SHARES = {f"max_batch_tokens null: {what}" for what in ("batches", "keys and values", "drawing tokens")}
PEAK = "max_batch_tokens null: most that generation holds"


def keep_memory_and_take_all_at_once() -> None:
    from aspo_megatron.rollout.embedded import engine
    from aspo_megatron.rollout.embedded.weights import EmbeddedWeights

    EmbeddedWeights.release = lambda weights: None  # type: ignore[method-assign, assignment]
    engine.most_tokens = lambda model, device: 10**9  # type: ignore[attr-defined]
    engine.most_rows = lambda model, device, sampling: 10**9  # type: ignore[attr-defined]


@pytest.mark.thorough
def test_memory_on_the_stand_in(on_stand_in: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_stand_in(engine_memory, tmp_path / "good")
    assert held(lines) >= MEMORY | SHARES | {"max_batch_tokens null: all responses come"}
    lines = on_stand_in(engine_memory, tmp_path / "bad", keep_memory_and_take_all_at_once)
    assert failed(lines) >= {"bfloat16: memory of the engine", "max_batch_tokens null: batches"}
