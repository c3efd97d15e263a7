"""What is kept of a run's states, and what a save that fails leaves."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from file_size import limited

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from distributed import Ranks
from tiny_models import llama_folder

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    return settings_in(tmp_path)


def settings_in(tmp_path: Path) -> list[str]:
    folder = llama_folder(tmp_path / "llama", tied=True)
    return [
        f"output_dir={tmp_path / 'run'}",
        f"model.path={folder}",
        "data.train={kind: jsonl, path: none.jsonl}",
        "platform.device=cpu",
        "parallel={dp: 2, distributed_optimizer: true}",
        "checkpoint.keep=2",
    ]


@pytest.mark.parametrize("background", ["true", "false"])
def test_the_last_states_are_kept(ranks: Ranks, settings: list[str], tmp_path: Path, background: str) -> None:
    said = ranks.run(2, save_five, [*settings, f"checkpoint.async_save={background}"], None)[0]
    assert said == []
    assert names(tmp_path) == ["latest", "step-000004", "step-000005"]
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-000005\n"


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_full_disk_costs_the_save_alone(ranks: Ranks, settings: list[str], tmp_path: Path, background: str) -> None:
    """Files cannot grow beyond 20 kB during saves 3 and 4; save 5 works again."""
    said = ranks.run(2, save_five, [*settings, f"checkpoint.async_save={background}"], (3, 4))[0]
    assert len(said) == 2
    assert said[0].startswith(
        f"warning: {tmp_path / 'run' / 'checkpoints' / 'step-000003'} was not saved (File too large"
    )
    assert said[0].endswith("the run continues, older states are kept")
    assert names(tmp_path) == ["latest", "step-000002", "step-000005"]


def test_that_older_states_are_kept_is_said_where_there_are_some(ranks: Ranks, settings: list[str]) -> None:
    said = ranks.run(2, save_five, settings, (1, 2, 4))[0]
    assert [line.rpartition("; ")[2] for line in said] == [
        "the run continues, and none was saved before",
        "the run continues, and none was saved before",
        "the run continues, older states are kept",
    ]


def test_a_state_that_is_there_is_pointed_at_and_not_written_again(
    ranks: Ranks, settings: list[str], tmp_path: Path
) -> None:
    """A run that is stopped before its first step has nothing new; one that was killed may have lost the pointer."""
    states = tmp_path / "run" / "checkpoints"
    ranks.run(2, save_five, settings, None)
    written = {path: path.stat().st_mtime_ns for path in (states / "step-000005").iterdir()}
    (states / "latest").write_text("step-000004\n")
    assert ranks.run(2, save_again, settings) == [[], []]
    assert (states / "latest").read_text() == "step-000005\n"
    assert {path: path.stat().st_mtime_ns for path in (states / "step-000005").iterdir()} == written
    assert names(tmp_path) == ["latest", "step-000004", "step-000005"]


def save_again(settings: list[str]) -> list[str]:
    """Saves step 5 as soon as the run continues from it."""
    config = load_config(None, settings)
    said: list[str] = []
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        from aspo_megatron.checkpoint.states.run_states import StateSaver, find_state, load_state

        model, optimizer = build(config, topology)
        saver = StateSaver(config, model.family, model, optimizer, said.append)
        folder = find_state(config, model.family, said.append)
        assert folder is not None
        saver.save(load_state(folder, model, optimizer, config.parallel))
        saver.finish()
    return said


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())


def save_five(settings: list[str], full: tuple[int, ...] | None) -> list[str]:
    """Saves after steps 1 to 5, each with other weights; what was said, and the last state is read back."""
    config = load_config(None, settings)
    said: list[str] = []
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        from aspo_megatron.checkpoint.states.run_states import StateSaver, find_state, load_state
        from aspo_megatron.checkpoint.states.trainer_state import TrainerState

        model, optimizer = build(config, topology)
        if topology.is_leader:
            config.output_dir.mkdir()
            save_config(config, config.output_dir / "config.yaml")
        torch.distributed.barrier()
        saver = StateSaver(config, model.family, model, optimizer, said.append)
        for step in range(1, 6):
            for parameter in model.parameters():
                parameter.data.fill_(float(step))
            with limited(20_000 if full and step in full else resource.RLIM_INFINITY):
                saver.save(TrainerState(step, step * 3, step * 7, 1.0, None, 0.5, "digest"))
                for parameter in model.parameters():
                    parameter.data.fill_(-1.0)  # training goes on
                saver.finish()
        folder = find_state(config, model.family, said.append)
        assert folder is not None
        assert folder.name == "step-000005"
        state = load_state(folder, model, optimizer, config.parallel)
        assert state == TrainerState(5, 15, 35, 1.0, None, 0.5, "digest")
        assert all((parameter == 5.0).all() for parameter in model.parameters())
    return said


def build(config: RunConfig, topology: Any) -> Any:
    from aspo_megatron.parallel.model.policy import build_model
    from aspo_megatron.parallel.update.optimizer import Optimizer

    family = read_family(config.model.path)
    with SafetensorsFolder(config.model.path) as tensors:
        model = build_model(family, topology, config.model, tensors)
    return model, Optimizer(model, config.optimizer, 20, config.parallel)
