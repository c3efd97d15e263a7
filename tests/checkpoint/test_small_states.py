"""What a state says is what is read of it, and a tensor's parts are found in it; without ranks, in a moment."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aspo_megatron.checkpoint.convert import compare
from aspo_megatron.checkpoint.fingerprint import Fingerprint
from aspo_megatron.checkpoint.states import rng_state
from aspo_megatron.checkpoint.states.folders import publish, saved_steps, step_folder
from aspo_megatron.checkpoint.states.trainer_state import TrainerState, changed_weights, noted_weights, read_state
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.checkpoint.torch_dist.writer import TorchDistWriter, write_index
from aspo_megatron.config import RunConfig
from aspo_megatron.errors import CheckpointError
from tiny_models import llama_folder

from .test_convert import convert, ignore, in_parts
from .test_pieces import FAMILY

STATE = TrainerState(
    3, 17, 900, 4.5, 0.25, 0.5, "digest", [9, 12], "whole", {"a.safetensors": "1", "b.safetensors": "2"}
)
CONFIG = RunConfig.model_validate(
    {"output_dir": "run", "model": {"path": "model"}, "data": {"train": {"kind": "jsonl", "path": "none"}}}
)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    for state in (STATE, replace(STATE, heldout_after=None, carried=[])):
        (tmp_path / "state.json").write_text(json.dumps(asdict(state)))
        assert read_state(tmp_path) == state


def test_other_weights_than_the_runs_are_named() -> None:
    same = Fingerprint(STATE.weights, STATE.weight_files)
    assert changed_weights(CONFIG, STATE, same) is None
    other = Fingerprint("others", {**STATE.weight_files, "b.safetensors": "3"})
    said = changed_weights(CONFIG, STATE, other)
    assert said is not None
    assert said.endswith("has other weights than those that the run began with (b.safetensors differs)")
    assert noted_weights(STATE, other) == STATE
    assert noted_weights(replace(STATE, weights="", weight_files={}), other).weights == "others"


def test_random_states_come_back(tmp_path: Path) -> None:
    def drawn() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.random(), np.random.normal(), torch.rand(1).item()]

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        drawn()  # a normal number is drawn in pairs: one of each waits
        (tmp_path / "states").write_bytes(rng_state.capture())
        first = drawn()
        assert drawn() != first
        rng_state.restore(str(tmp_path / "states"))
        assert drawn() == first
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def test_the_newest_states_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        step_folder(tmp_path, step).mkdir(parents=True)
        assert publish(tmp_path, step, keep=2) is None
        assert (tmp_path / "checkpoints" / "latest").read_text() == f"step-{step:06d}\n"
        assert saved_steps(tmp_path) == [step, step - 1][:step]


def test_any_part_of_a_tensor_is_found_in_its_pieces(tmp_path: Path) -> None:
    whole = torch.arange(54.0).reshape(6, 9)
    with TorchDistWriter(tmp_path, 0) as writer:
        for rows, columns in ((slice(0, 4), slice(0, 5)), (slice(0, 4), slice(5, 9)), (slice(4, 6), slice(0, 9))):
            writer.write("t", whole[rows, columns], whole.shape, (rows.start, columns.start))
    write_index(tmp_path, writer.pieces)
    with TorchDistReader(tmp_path, FAMILY) as reader:
        assert torch.equal(reader.read("t"), whole)
        for top, left, height, width in ((0, 0, 6, 9), (3, 4, 2, 3), (5, 6, 1, 3), (1, 5, 2, 4), (4, 0, 4, 2)):
            target = torch.full((height, width), -1.0)
            reader.fill("t", target, (top, left))
            there = whole[top : top + height, left : left + width]
            assert torch.equal(target[: there.shape[0]], there)
            assert (target[there.shape[0] :] == -1).all()  # beyond the end


def test_a_tensor_that_differs_is_found(tmp_path: Path) -> None:
    folder = in_parts(llama_folder(tmp_path / "model", tied=True))
    convert(folder, tmp_path / "megatron", tp=2)
    path = folder / "model-00001-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tensor model\.\S+ differs between"):
        compare(folder, tmp_path / "megatron", None, ignore)
