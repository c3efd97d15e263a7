"""Memory of the GPU that is needed for a moment only: what is saved, Adam's state, the reference, generation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aspo_megatron.config import ModelConfig, OptimizerConfig, ParallelConfig, RunConfig, SamplingConfig
from aspo_megatron.config.io import save_config
from aspo_megatron.data.samples import Problem
from aspo_megatron.models.family import read_family
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.rollout.engine import Request
from aspo_megatron.simulation.device.ledger import Figures
from aspo_megatron.simulation.rank import simulated_rank

from .runs import Setup, budget, groups_of

Simulated = Callable[..., Any]
SPLIT = ParallelConfig(dp=2, distributed_optimizer=True)
SINGLE = ParallelConfig(tp=2)


@dataclass
class Save:
    """What a save handed to the writer: device, address and thread of each tensor; and what it cost."""

    written: list[tuple[str, int, str]] = field(default_factory=list)
    figures: Figures | None = None


@pytest.mark.parametrize("parallel", [SPLIT, SINGLE], ids=["split", "whole"])
def test_a_save_is_copied_to_the_same_host_memory_and_holds_nothing_on_the_gpu(
    simulated: Simulated, folders: dict[str, Path], tmp_path: Path, parallel: ParallelConfig
) -> None:
    setup = Setup(folders["llama-tied"], parallel)
    saves, held, largest = simulated(save_twice, setup, tmp_path / "run", True)
    first, second = saves
    assert {device for save in saves for device, _, _ in save.written} == {"cpu"}
    assert {thread for save in saves for _, _, thread in save.written} == {"checkpoint"}
    assert [address for _, address, _ in first.written] == [address for _, address, _ in second.written]
    for save in saves:
        assert not save.figures.copies
        assert sum(save.figures.waits.values()) == 1  # the thread's
        more = save.figures.peak_bytes - held
        assert more <= (4 * largest + 1024 if parallel.distributed_optimizer else 0)


def test_a_save_without_a_thread_copies_each_tensor_once(
    simulated: Simulated, folders: dict[str, Path], tmp_path: Path
) -> None:
    (save, _), held, largest = simulated(save_twice, Setup(folders["llama-tied"], SPLIT), tmp_path / "run", False)
    assert {thread for _, _, thread in save.written} == {"MainThread"}
    assert sum(save.figures.waits.values()) == len(save.written)
    assert save.figures.peak_bytes - held <= 4 * largest + 1024


def save_twice(setup: Setup, run: Path, background: bool) -> tuple[list[Save], int, int]:
    """What two saves did, each after an update; what was held before; elements of the largest parameter."""
    config = run_config(setup, run, checkpoint={"async_save": background})
    run.mkdir()
    save_config(config, run / "config.yaml")
    with simulated_rank(setup.parallel) as rank:
        from aspo_megatron.checkpoint.states.run_states import StateSaver
        from aspo_megatron.checkpoint.states.trainer_state import TrainerState
        from aspo_megatron.checkpoint.torch_dist.writer import TorchDistWriter

        model, optimizer = build(setup, rank, OptimizerConfig())
        saver = StateSaver(config, model.family, model, optimizer, lambda said: None)  # other ranks' parts are missing
        saves: list[Save] = []
        write = TorchDistWriter.write

        def noted(writer: TorchDistWriter, key: str, tensor: torch.Tensor, *place: Any) -> None:
            entry = tensor.device.type, tensor.data_ptr(), threading.current_thread().name
            saves[-1].written.append(entry)
            write(writer, key, tensor, *place)

        TorchDistWriter.write = noted  # type: ignore[method-assign, assignment]
        for step in (1, 2):
            empty_update(optimizer)
            held = rank.ledger.held_bytes
            rank.ledger.clear()
            saves.append(Save())
            saver.save(TrainerState(step, 0, 0, 0.0, None, None, ""))
            saver.finish()
            saves[-1].figures = rank.ledger.figures()
        return saves, held, max(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("offload", [False, True], ids=["state on the gpu", "state on the host"])
@pytest.mark.parametrize("parallel", [SPLIT, SINGLE], ids=["split", "whole"])
def test_updates_overwrite_nothing_that_a_save_still_copies(
    simulated: Simulated, folders: dict[str, Path], tmp_path: Path, parallel: ParallelConfig, offload: bool
) -> None:
    """The stand-in refuses what is not in order: tests/simulation/test_mistakes.py leaves the fence out, and more."""
    simulated(updates_beside_a_save, Setup(folders["llama-tied"], parallel), tmp_path / "run", offload)


def updates_beside_a_save(setup: Setup, run: Path, offload: bool = False) -> None:
    """A save, two updates, its end."""
    config = run_config(setup, run)
    run.mkdir()
    save_config(config, run / "config.yaml")
    with simulated_rank(setup.parallel) as rank:
        from aspo_megatron.checkpoint.states.run_states import StateSaver
        from aspo_megatron.checkpoint.states.trainer_state import TrainerState

        make_pieces_small()
        model, optimizer = build(setup, rank, OptimizerConfig(offload=offload))
        empty_update(optimizer)
        saver = StateSaver(config, model.family, model, optimizer, lambda said: None)  # other ranks' parts are missing
        saver.save(TrainerState(1, 0, 0, 0.0, None, None, ""))
        empty_update(optimizer)
        empty_update(optimizer)
        assert saver._pending is not None
        _, writer = saver._pending
        while not writer.is_written():
            time.sleep(0.001)
        if writer._error is not None:  # of this rank; a run would warn, and go on
            raise RuntimeError(writer._error)


@pytest.mark.parametrize(
    ("parallel", "dtype"),
    [(SPLIT, "bfloat16"), (SINGLE, "bfloat16"), (SINGLE, "float32")],
    ids=["split", "whole", "whole-fp32"],
)
def test_an_offloaded_state_is_on_the_gpu_by_pieces_in_a_step_alone(
    simulated: Simulated, folders: dict[str, Path], parallel: ParallelConfig, dtype: str
) -> None:
    setup = Setup(folders["llama-tied"], parallel)
    here, state, largest = simulated(steps, setup, False, dtype)
    away, _, _ = simulated(steps, setup, True, dtype)
    assert here.held_bytes - away.held_bytes == state
    # Clipping makes a second gradient, before any piece comes; Adam's numbers of a step are as many as its slices.
    assert away.peak_bytes - away.held_bytes <= max(4 * largest, 3 * PIECE) + 2048
    assert state > 8 * PIECE
    assert away.copies == here.copies  # nothing of pageable memory
    assert away.waits.total() == here.waits.total()


PIECE = 30_720
"""Bytes of a state: few enough that parameters are cut."""


def make_pieces_small() -> None:
    from aspo_megatron.parallel.update import host_state

    host_state.PIECE_BYTES = PIECE  # type: ignore[attr-defined]


def steps(setup: Setup, offload: bool, dtype: str) -> tuple[Figures, int, int]:
    """An optimizer's third step; bytes of its state on the GPU without offload; elements of the largest gradient."""
    with simulated_rank(setup.parallel) as rank:
        from aspo_megatron.parallel.update.optimizer import Optimizer

        make_pieces_small()
        settings = setup.model.model_copy(update={"dtype": dtype})
        model = build_policy(setup, rank, settings)
        optimizer = Optimizer(model, OptimizerConfig(offload=offload), 10, setup.parallel)
        for _ in range(3):
            optimizer.zero_grad()
            rank.ledger.clear()
            optimizer.step()
        figures = rank.ledger.figures()
        slots = [(slot, slot.main) for slot in optimizer._slots() if slot.main is not None]
        state = [tensor for slot, main in slots for tensor in slot.adam.state[main].values() if not offload]
        state += [main for slot, main in slots if slot.separate]
        return figures, sum(map(_held, state)), max(main.numel() for _, main in slots)


def test_gradients_have_memory_in_updates_alone(simulated: Simulated, folders: dict[str, Path]) -> None:
    setup = Setup(folders["llama-tied"], ParallelConfig(tp=2, sequence_parallel=True))
    gathered, first, (with_them, without, again), figures = simulated(gradients_released, setup)
    assert first == without  # there are none before the first update
    assert gathered > 0
    assert with_them - gathered - without == again - without > 0
    assert again - without == pytest.approx(4 * figures.calls.pop("parameters"), abs=1024)
    assert not figures.waits
    with pytest.raises(RuntimeError, match="computes with memory that was freed"):
        simulated(gradients_released, setup, read_them=True)


def gradients_released(setup: Setup, read_them: bool = False) -> tuple[int, int, tuple[int, int, int], Figures]:
    """Bytes that sequence parallelism keeps; what is held before an update; after it, without gradients, with them."""
    with simulated_rank(setup.parallel) as rank:
        from megatron.core.parallel_state import get_global_memory_buffer

        from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs

        model, optimizer = build(setup, rank, OptimizerConfig(offload=True))
        first = rank.ledger.held_bytes
        empty_update(optimizer)
        groups = groups_of(setup)
        list(response_log_probs(model, groups, PassLimits(budget(groups), None, 1.0)))
        gathered = sum(map(_held, get_global_memory_buffer().buffer.values()))
        held = [rank.ledger.held_bytes]
        rank.ledger.clear()
        optimizer.release()
        held.append(rank.ledger.held_bytes)
        if read_them:
            optimizer.step()
        optimizer.zero_grad()
        held.append(rank.ledger.held_bytes)
        figures = rank.ledger.figures()
        figures.calls["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        return gathered, first, (held[0], held[1], held[2]), figures


def test_the_reference_is_on_the_gpu_while_it_computes_alone(simulated: Simulated, folders: dict[str, Path]) -> None:
    setup = Setup(folders["llama-tied"], ParallelConfig())
    without, _, _, _ = simulated(scored_by_reference, setup, 0.0, None)
    held, weights, passing, figures = simulated(scored_by_reference, setup, 0.01, None)
    assert held - without <= 512  # rotary frequencies
    assert figures.held_bytes == held
    assert not [place for place in figures.copies if "reference" in place]
    there, _, staying, _ = simulated(scored_by_reference, setup, 0.01, "device")
    assert there == held + weights
    assert staying == passing  # the most that a pass holds


def scored_by_reference(setup: Setup, kl_coef: float, where: str | None) -> tuple[int, int, int, Figures]:
    """What a learner holds; its weights' bytes; the most in the reference's pass beside it, and what that did."""
    settings = {} if where is None else {"reference": where}
    config = run_config(setup, Path("run"), loss={"kl_coef": kl_coef}, model_settings=settings)
    config = config.model_copy(update={"train": config.train.model_copy(update={"old_log_probs": "rollout"})})
    with simulated_rank(setup.parallel) as rank:
        from aspo_megatron.train.learner import Learner

        groups = groups_of(setup)
        model = build_policy(setup, rank)
        learner = Learner(config, model, lambda label: nullcontext(), print)
        learner._limits = type(learner._limits)(budget(groups), None, 1.0)
        held = rank.ledger.held_bytes
        rank.ledger.clear()
        learner.add_log_probs(learner.plan([groups]))
        weights = sum(map(_held, model.parameters()))
        return held, weights, rank.ledger.peak_bytes, rank.ledger.figures()


def test_the_host_waits_once_for_eight_tokens(simulated: Simulated, folders: dict[str, Path]) -> None:
    for tokens, waits in ((3, 1), (8, 1), (27, 4)):
        figures, lengths = simulated(generated, folders["qwen3"], tokens, (5, 9))
        assert lengths == [tokens] * 6
        assert 0 <= sum(figures.waits.values()) - waits <= 2  # transformers looks at the prompts' padding
        assert not figures.copies


def generated(folder: Path, tokens: int, prompts: tuple[int, ...]) -> tuple[Figures, list[int]]:
    """What generating three responses to each prompt did; their lengths."""
    family = read_family(folder)
    with simulated_rank(ParallelConfig()) as rank:
        from aspo_megatron.rollout.embedded.engine import EmbeddedEngine

        device = rank.topology.platform.device
        tokenizer: Any = SimpleNamespace(eos_token_id=9)
        engine = EmbeddedEngine(folder, tokenizer, torch.bfloat16, device, 4096)
        sizes = hf_sizes(family.rows, family.shape(tp=1))
        weights = [(name, torch.empty(size, dtype=torch.bfloat16, device=device)) for name, size in sizes.items()]
        engine.update_weights(weights, version=1)
        del weights
        requests = [
            Request(Problem("a", "", tuple(range(20, 20 + length))), 3, (1, number), group=number)
            for number, length in enumerate(prompts)
        ]
        rank.ledger.clear()
        answers = engine.generate(requests, SamplingConfig(max_response_tokens=tokens))
        return rank.ledger.figures(), [len(sample.response_ids) for group in answers for sample in group]


def test_tokens_at_once_follow_from_free_memory(simulated: Simulated, folders: dict[str, Path]) -> None:
    free, of_a_token, most = simulated(room, folders["llama"])
    assert most == int(free / 2) // of_a_token


def room(folder: Path) -> tuple[int, int, int]:
    """Free bytes, those of a token's keys and values, and the tokens that an engine holds at once."""
    family = read_family(folder)
    with simulated_rank(ParallelConfig()) as rank:
        from aspo_megatron.rollout.embedded.engine import EmbeddedEngine

        tokenizer: Any = SimpleNamespace(eos_token_id=9)
        engine = EmbeddedEngine(folder, tokenizer, torch.bfloat16, rank.topology.platform.device, None)
        free, _ = torch.cuda.mem_get_info(rank.topology.platform.device)
        of_a_token = 2 * family.num_layers * family.num_kv_heads * family.head_dim * 2
        return free, of_a_token, engine._most_tokens()


def _held(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // 512) * 512  # as PyTorch gives a GPU's memory out


def run_config(setup: Setup, run: Path, model_settings: Any = None, **sections: Any) -> RunConfig:
    model = {"path": str(setup.folder), "dtype": "bfloat16", **(model_settings or {})}
    data = {"train": {"kind": "jsonl", "path": "none.jsonl"}}
    rollout = {"prompts_per_step": 2, "responses_per_prompt": 3}
    train = {"prompts_per_update": 2}
    given = {"output_dir": str(run), "model": model, "data": data, "rollout": rollout, "train": train, **sections}
    return RunConfig.model_validate(given).model_copy(update={"parallel": setup.parallel})


def build_policy(setup: Setup, rank: Any, settings: ModelConfig | None = None) -> Any:
    from aspo_megatron.parallel.model.policy import PolicyModel

    return PolicyModel(setup.family, rank.topology, settings or setup.model).to(rank.topology.platform.device)


def build(setup: Setup, rank: Any, config: OptimizerConfig) -> Any:
    from aspo_megatron.parallel.update.optimizer import Optimizer

    model = build_policy(setup, rank)
    return model, Optimizer(model, config, 10, setup.parallel)


def empty_update(optimizer: Any) -> None:
    optimizer.zero_grad()
    optimizer.step()
