"""Reading a checkpoint of somebody else is reading data: nothing in it is run, and nothing that it says is believed."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint.filesystem
from thorough import some_of
from torch.distributed.checkpoint.metadata import MetadataIndex

from aspo_megatron.check.comparison import model_of
from aspo_megatron.checkpoint.convert import compare, converter_layout, hf_to_megatron, megatron_to_hf
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader, check_common
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.inputs.read import read_inputs
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.quantize.run import _weights
from distributed import Ranks
from tiny_models import llama_folder

from . import test_model_path, test_saver
from .hostile import COMMONS, INDEXES, PIECES, Spoil, sign, torch_index, weight_of
from .test_failing_saves import Saves

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = llama_folder(tmp_path_factory.mktemp("model") / "llama", tied=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(test_model_path.TOKENIZER / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def converted(model: Path) -> Path:
    folder = model.parent / "converted"
    hf_to_megatron(model, folder, converter_layout(read_family(model), tp=2), None, lambda _: None)
    return folder


@pytest.fixture
def checkpoint(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "checkpoint"))


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What nothing may make."""
    yield tmp_path / "MARKER"
    assert not (tmp_path / "MARKER").exists()
    assert not hasattr(MetadataIndex, "MARKED")


def refused(read: Callable[[], object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as error:
        read()
    assert one_line(error.value) == str(error.value)
    assert len(str(error.value)) < 1000


# ---- each file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index(checkpoint: Path, marker: Path, kind: str) -> None:
    spoil, reason = INDEXES[kind]
    spoil(checkpoint, marker)
    refused(lambda: TorchDistReader(checkpoint, read_family(checkpoint / "hf")), reason)


@pytest.mark.parametrize("kind", PIECES)
def test_the_words_before_a_tensor(checkpoint: Path, marker: Path, kind: str) -> None:
    spoil, reason = PIECES[kind]
    spoil(checkpoint, marker)
    key = weight_of(torch_index(checkpoint))
    with TorchDistReader(checkpoint, read_family(checkpoint / "hf")) as reader:
        refused(lambda: reader.read(key), reason)
        refused(lambda: reader.fill(key, torch.empty(reader.size(key)), (0, 0)), reason)


@pytest.mark.parametrize("kind", COMMONS)
def test_what_stands_beside_the_tensors(checkpoint: Path, marker: Path, kind: str) -> None:
    spoil, reason = COMMONS[kind]
    spoil(checkpoint, marker)
    refused(lambda: check_common(checkpoint), reason)


def test_what_is_refused_is_what_torch_would_run(checkpoint: Path, tmp_path: Path) -> None:
    """The acts do act: torch's own reading makes the file."""
    INDEXES["open, beside its tensors"][0](checkpoint, tmp_path / "MARKER")
    torch.distributed.checkpoint.filesystem.FileSystemReader(checkpoint).read_metadata()
    assert (tmp_path / "MARKER").exists()


# ---- each reader ----------------------------------------------------------------------------------------------------


def convert(checkpoint: Path, work: Path) -> None:
    megatron_to_hf(checkpoint, work / "back", None, lambda _: None)


def verify(checkpoint: Path, work: Path) -> None:
    compare(checkpoint / "hf", checkpoint, None, lambda _: None)


def check(checkpoint: Path, work: Path) -> None:
    model_of(checkpoint, work)


def quantize(checkpoint: Path, work: Path) -> None:
    family = read_family(checkpoint / "hf")
    with _weights(checkpoint / "hf", family) as source:
        source.read_whole("model.layers.1.mlp.down_proj.weight")


def start(checkpoint: Path, work: Path) -> None:
    """`model.path` of a run, or the model of `aspo eval`."""
    read_inputs(load_config(None, test_model_path.settings(checkpoint)))


READERS: dict[str, Callable[[Path, Path], None]] = {
    "convert": convert,
    "convert --verify": verify,
    "check": check,
    "quantize": quantize,
    "model.path": start,
}
INDEXES_BY_ALL = [
    "bytes for a tensor", "a class of its own", "a class that is changed", "slots of a class", "a dotted name",
    "a thing kept elsewhere", "a place in a huge memory", "elements beyond all", "the file '../__0_0.distcp'",
    "a length beyond the file", "a value for each byte", "two hundred thousand pieces",
    *(kind for kind in INDEXES if kind.endswith("its root")),
]  # fmt: skip
PIECES_BY_ALL = [
    "a pickle instead", "an old torch file", "something else that is saved", "memory of memory", "a bomb for words",
    "compressed elements", "no elements", "a record beyond the file", "torch.load in the words", "eval in the words",
]  # fmt: skip
"""What each reader is given."""


@pytest.mark.parametrize("reader", some_of(READERS, ["convert", "model.path"]))
def test_no_reader_runs_what_an_index_says(
    converted: Path, model: Path, tmp_path: Path, marker: Path, reader: str
) -> None:
    for kind in INDEXES_BY_ALL:
        spoil, reason = INDEXES[kind]
        folder = Path(shutil.copytree(converted, tmp_path / "checkpoint"))
        if reader == "convert --verify":
            shutil.copyfile(model / "model.safetensors", folder / "hf" / "model.safetensors")
        spoil(folder, marker)
        sign(folder)
        refused(lambda: READERS[reader](folder, tmp_path), reason)  # noqa: B023
        assert not marker.exists(), kind
        assert not list(tmp_path.glob("back*"))
        shutil.rmtree(folder)


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader != "model.path"])
def test_no_reader_runs_what_stands_before_a_tensor(
    converted: Path, model: Path, tmp_path: Path, marker: Path, reader: str
) -> None:
    for kind in PIECES_BY_ALL:
        spoil, reason = PIECES[kind]
        folder = Path(shutil.copytree(converted, tmp_path / "checkpoint"))
        if reader == "convert --verify":
            shutil.copyfile(model / "model.safetensors", folder / "hf" / "model.safetensors")
        spoil(folder, marker)
        sign(folder)
        refused(lambda: READERS[reader](folder, tmp_path), reason)  # noqa: B023
        assert not marker.exists(), kind
        shutil.rmtree(folder)


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_takes_files_of_others(converted: Path, model: Path, tmp_path: Path, reader: str) -> None:
    """A link leads to a file with the very content that is expected: whose it is decides."""
    own = tmp_path / "own"
    for name in (
        ".metadata",
        "__1_0.distcp",
        "manifest.json",
        "common.pt",
        "metadata.json",
        "headers",
        "hf/config.json",
    ):
        folder = Path(shutil.copytree(converted, tmp_path / "checkpoint"))
        if reader == "convert --verify":
            shutil.copyfile(model / "model.safetensors", folder / "hf" / "model.safetensors")
        (folder / name).rename(own)
        (folder / name).symlink_to(own)
        refused(lambda: READERS[reader](folder, tmp_path), f"checkpoint/{name}: a link out of the")  # noqa: B023
        assert not list(tmp_path.glob("back*"))
        shutil.rmtree(folder)
        shutil.rmtree(own) if own.is_dir() else own.unlink()


# ---- going on with a run --------------------------------------------------------------------------------------------


def test_going_on_runs_nothing_of_a_state(ranks: Ranks, tmp_path: Path, marker: Path) -> None:
    """Not as the states are looked at, nor if one is exchanged after that."""
    settings = [*test_saver.settings_in(tmp_path), "parallel.dp=1"]
    ranks.run(1, go_on_with_each, settings, tmp_path, marker)


def go_on_with_each(settings: list[str], work: Path, marker: Path) -> None:
    config = load_config(None, settings)
    kinds: dict[str, tuple[Spoil, str]] = {
        **{f"index: {kind}": INDEXES[kind] for kind in INDEXES_BY_ALL},
        **{f"pieces: {kind}": PIECES[kind] for kind in PIECES_BY_ALL},
        **{f"common: {kind}": variant for kind, variant in COMMONS.items() if kind != "a file of 20 GiB"},
    }
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saves = Saves(settings, topology)
        saves.optimizer.zero_grad()
        saves.optimizer.step()
        saves.save(1)
        states = saves.run / "checkpoints"
        whole = shutil.copytree(states / "step-000001", work / "whole")
        for kind, (spoil, reason) in kinds.items():
            shutil.rmtree(states / "step-000001")
            folder = Path(shutil.copytree(whole, states / "step-000001"))
            spoil(folder, marker)
            sign(folder)
            for go_on in (find, load) if not kind.startswith("common") else (find,):
                if not (kind.startswith("pieces") and go_on is find):  # which reads no tensor
                    refused(lambda: go_on(saves, folder), reason)  # noqa: B023
                assert not marker.exists(), kind


def find(saves: Saves, folder: Path) -> None:
    from aspo_megatron.checkpoint.states.run_states import find_state

    find_state(saves.config, saves.model.family, pytest.fail)


def load(saves: Saves, folder: Path) -> None:
    from aspo_megatron.checkpoint.states.run_states import load_state

    load_state(folder, saves.model, saves.optimizer, saves.config.parallel)


def test_whole_states_are_read_without_the_libraries_readers(ranks: Ranks, tmp_path: Path) -> None:
    """Which unpickle what they find: between a look at a file and its use it may be exchanged."""
    ranks.run(2, load_without, test_saver.settings_in(tmp_path))


def load_without(settings: list[str]) -> None:
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology, pytest.MonkeyPatch.context() as patch:
        from megatron.core import dist_checkpointing

        saves = Saves(settings, topology)
        saves.optimizer.zero_grad()
        saves.optimizer.step()
        saves.save(1)
        for module, name in (
            (torch, "load"),
            (torch.serialization, "load"),
            (pickle, "load"),
            (pickle, "loads"),
            (dist_checkpointing, "load"),
            (torch.distributed.checkpoint.filesystem.FileSystemReader, "read_metadata"),
        ):
            patch.setattr(module, name, forbidden)
        find(saves, saves.run / "checkpoints" / "step-000001")
        load(saves, saves.run / "checkpoints" / "step-000001")
        assert all((parameter == 1.0).all() for parameter in saves.model.parameters())


def forbidden(*_: Any, **__: Any) -> None:
    raise AssertionError("a library's reader was called")
