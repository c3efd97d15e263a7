"""A state is gone on from if all is in it that is wanted; else the one before is, and one line says why."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from thorough import one_in

from aspo_megatron.checkpoint.checked_json import with_digest
from aspo_megatron.checkpoint.torch_dist.manifest import file_entry, read_manifest, write_manifest
from aspo_megatron.checkpoint.torch_dist.reader import read_index
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import MANIFEST
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from distributed import Ranks

from .test_failing_saves import Saves
from .test_saver import build, settings, settings_in

__all__ = ["settings"]

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks() as started:
        yield started


@pytest.fixture(scope="module")
def saved(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with states of steps 1 and 2, each after an update."""
    work = tmp_path_factory.mktemp("saved")
    ranks.run(2, save_two, settings_in(work))
    return work


def save_two(settings: list[str]) -> None:
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saves = Saves(settings, topology)
        for step in (1, 2):
            saves.optimizer.zero_grad()
            saves.optimizer.step()
            saves.save(step)
        assert not saves.said


@pytest.fixture
def run(saved: Path, tmp_path: Path, settings: list[str]) -> Path:
    shutil.copytree(saved / "run", tmp_path / "run")
    return tmp_path / "run"


# ---- checksums agree, but not all is there ----------------------------------------------------------------------

ANY = "decoder.layers.1.mlp.linear_fc2.weight"
MOMENT = f"optimizer.state.exp_avg_sq.{ANY}"


def sign(folder: Path) -> None:
    """A manifest of what is there now."""
    told = read_any(folder)
    (folder / MANIFEST).unlink()
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): file_entry(path) for path in paths}
    write_manifest(folder, told["model"], told["family"], told["layout"], files)


def read_any(folder: Path) -> Any:
    return json.loads((folder / MANIFEST).read_text())


def index(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        metadata = read_index(folder, weights=100)
        change(metadata)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return spoil


def empty(metadata: Any) -> None:
    metadata.state_dict_metadata.clear()
    metadata.storage_data.clear()


def half(metadata: Any) -> None:
    chunk = metadata.state_dict_metadata[ANY].chunks[0]
    chunk.sizes = torch.Size([chunk.sizes[0] // 2, *chunk.sizes[1:]])


def twice(metadata: Any) -> None:
    half(metadata)
    metadata.state_dict_metadata[ANY].chunks *= 2


def outside(metadata: Any) -> None:
    metadata.state_dict_metadata[ANY].chunks[0].offsets = torch.Size([1, 0])


def other_size(metadata: Any) -> None:
    for whole in (metadata.state_dict_metadata[ANY],):
        whole.size = torch.Size([whole.size[0], whole.size[1] // 2])
        whole.chunks[0].sizes = whole.size


def other_size_of_moment(metadata: Any) -> None:
    whole = metadata.state_dict_metadata[MOMENT]
    whole.size = whole.chunks[0].sizes = torch.Size([whole.size[0], whole.size[1] // 2])


def place(**changes: Any) -> Callable[[Any], None]:
    def change(metadata: Any) -> None:
        (key,) = (key for key in metadata.storage_data if key.fqn == ANY)
        metadata.storage_data[key] = replace(metadata.storage_data[key], **changes)

    return change


def state(**changes: Any) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        told = json.loads((folder / "state.json").read_text())
        told = {name: value for name, value in (told | changes).items() if value is not None}
        (folder / "state.json").write_text(json.dumps(told))

    return spoil


LACKING: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty index": (index(empty), "is missing from the checkpoint"),
    "no weight": (index(lambda m: m.state_dict_metadata.pop(ANY)), f"tensor {ANY} is missing"),
    "no moment": (index(lambda m: m.state_dict_metadata.pop(MOMENT)), f"tensor {MOMENT} is missing"),
    "half a weight": (index(half), "elements are present"),
    "a half twice": (index(twice), "two pieces have the same elements"),
    "a piece outside": (index(outside), "lies outside it"),
    "a smaller weight": (index(other_size), "config.json asks for"),
    "a smaller moment": (index(other_size_of_moment), f"tensor {MOMENT} has size"),
    "a piece beyond the file": (index(place(offset=10**9)), "is beyond the end of"),
    "a piece before the file": (index(place(offset=-10)), "is beyond the end of"),
    "a piece of no file": (index(place(relative_path="__9_0.distcp")), "a piece of it is in no file"),
    "no place of a piece": (index(lambda m: m.storage_data.clear()), "a piece of it is in no file"),
    "an index cut": (lambda folder: (folder / ".metadata").write_bytes(b"\x80\x04"), r"\.metadata: cannot be read"),
    "a list for a state": (lambda folder: (folder / "state.json").write_text("[]"), "not the state of a run"),
    "no JSON": (lambda folder: (folder / "state.json").write_text("{"), "state.json: cannot be read"),
    "no step": (state(step=None), "not the state of a run"),
    "no counters": (state(optimizer=None), "not the state of a run"),
    "odd counters": (state(optimizer={"updates": "many", "scheduled": 1}), "not the state of a run"),
    "no random states": (lambda folder: (folder / "random-00001.safetensors").unlink(), "random-00001.* missing"),
    "odd common part": (lambda folder: (folder / "common.pt").write_bytes(b"PK"), r"common\.pt: cannot be read"),
    # What only loading shows.
    "another piece's place": (index(place(offset=0)), "cannot be loaded"),
    "random states of nothing": (
        lambda folder: (folder / "random-00000.safetensors").write_bytes(b"12345678"),
        r"random-00000\.safetensors: cannot be read",
    ),
}


@pytest.mark.parametrize("lack", one_in(3, LACKING))
def test_the_state_before_is_used(ranks: Ranks, settings: list[str], run: Path, lack: str) -> None:
    spoil, message = LACKING[lack]
    spoil(run / "checkpoints" / "step-000002")
    sign(run / "checkpoints" / "step-000002")
    for said in ranks.run(2, go_on, settings):
        (line,) = said
        assert line.startswith("warning: ")
        assert line.endswith("; resuming from step-000001 instead")
        assert len(line.splitlines()) == 1
        assert re.search(message, line), line
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"latest", "step-000001", "step-000002.refused"}
    assert (run / "checkpoints" / "latest").read_text() == "step-000001\n"


def go_on(settings: list[str]) -> list[str]:
    """What a run says that goes on; the weights are those of step 1 then."""
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        return found_and_loaded(config, topology)


def refusal(settings: list[str]) -> str:
    """Of a run that cannot go on. (An error that left the grid would end the ranks.)"""
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        with pytest.raises(CheckpointError) as refused:
            found_and_loaded(config, topology)
        return str(refused.value)


def found_and_loaded(config: RunConfig, topology: Topology) -> list[str]:
    from aspo_megatron.checkpoint.states.run_states import StateSaver, find_state, load_latest

    said: list[str] = []
    model, optimizer = build(config, topology)
    folder = find_state(config, model.family, said.append)
    assert folder is not None
    folder, at = load_latest(folder, config, model.family, model, optimizer, said.append)
    StateSaver(config, model.family, model, optimizer, said.append).go_on_from(at.step)
    assert (folder.name, at.step) == ("step-000001", 1)
    assert all((parameter == 1.0).all() for parameter in model.parameters())
    return said


def test_without_another_state_the_run_ends(ranks: Ranks, settings: list[str], run: Path) -> None:
    for step in (1, 2):
        index(empty)(run / "checkpoints" / f"step-{step:06d}")
        sign(run / "checkpoints" / f"step-{step:06d}")
    for said in ranks.run(2, refusal, settings):
        assert re.search(r"^no saved state of .* can be used: .*step-000002.*missing", said), said
    assert (run / "checkpoints" / "step-000002").exists()


# ---- the manifest vouches for itself ----------------------------------------------------------------------------

EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "model": lambda told: told.update(model="0" * 64),
    "family": lambda told: told.update(family="qwen2"),
    "layout": lambda told: told["layout"].update(tp=2),
    "no file": lambda told: told["files"].pop("state.json"),
    "no tensors": lambda told: told["files"].pop("__0_0.distcp"),
    "no files": lambda told: told["files"].clear(),
    "checksum": lambda told: told["files"]["state.json"].update(xxh3_128="0" * 32),
    "size": lambda told: told["files"]["state.json"].update(size=1),
    "format": lambda told: told.update(format="other"),
    "another key": lambda told: told.update(note=""),
    "no digest": lambda told: told.pop("digest"),
    "digest": lambda told: told.update(digest="0" * 32),
    "digest of another kind": lambda told: told.update(digest=None),
    "older version": lambda told: told.update(version=2),
}


@pytest.mark.parametrize("edited", EDITS)
def test_a_manifest_that_was_changed_is_refused(run: Path, edited: str) -> None:
    folder = run / "checkpoints" / "step-000002"
    read_manifest(folder)
    told = read_any(folder)
    EDITS[edited](told)
    (folder / MANIFEST).write_text(json.dumps(told, indent=1))
    with pytest.raises(CheckpointError, match=r"step-000002/manifest\.json: damaged or edited"):
        read_manifest(folder)


def test_no_bit_of_a_manifest_counts_for_nothing(run: Path) -> None:
    """Each of 400 flipped bits is seen, or changes nothing of what is said."""
    folder = run / "checkpoints" / "step-000002"
    whole, data = read_manifest(folder), (folder / MANIFEST).read_bytes()
    for number in range(400):
        flipped = bytearray(data)
        flipped[number * len(data) // 400] ^= 1 << number % 8
        (folder / MANIFEST).write_bytes(flipped)
        with suppress(CheckpointError):
            assert read_manifest(folder) == whole


def test_a_state_of_an_older_version_is_gone_on_from(ranks: Ranks, settings: list[str], run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-000002")
    folder = run / "checkpoints" / "step-000001"
    told = {**read_any(folder), "version": 2}
    del told["digest"]
    (folder / MANIFEST).write_text(json.dumps(told, indent=1) + "\n")
    assert ranks.run(2, go_on, settings) == [[], []]


def test_what_is_told_is_what_is_read() -> None:
    told = {"b": [1, 2.5, None], "a": {"\u00e9": "x"}}
    assert json.loads(with_digest(told)) == {**told, "digest": json.loads(with_digest(told))["digest"]}
