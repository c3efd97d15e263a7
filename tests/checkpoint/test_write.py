"""Writing a folder: what transformers makes of it, and what is left when it cannot be written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, write_folder
from aspo_megatron.checkpoint.usable import usable_weights
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import read_family
from tiny_models import llama_folder

IDS = torch.tensor([[3, 50, 7, 96, 12, 12, 41]])


def stream(folder: Path) -> Iterator[tuple[str, Tensor]]:
    with SafetensorsFolder(folder) as source:
        for name in source.names():
            yield name, source.read_whole(name)


def config_of(folder: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((folder / "config.json").read_text())
    return config


@torch.no_grad()
def logits(folder: Path) -> Tensor:
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    output: Tensor = model(input_ids=IDS).logits
    return output


@pytest.mark.parametrize("max_shard_bytes", [4 << 30, 40_000, 1])
def test_transformers_reads_it_with_identical_logits(pristine: Path, tmp_path: Path, max_shard_bytes: int) -> None:
    target = tmp_path / "deep" / "hf"
    write_folder(target, stream(pristine), config_of(pristine), pristine, max_shard_bytes)
    assert torch.equal(logits(target), logits(pristine))
    usable_weights(target)
    files = sorted(path.name for path in target.glob("*.safetensors"))
    if max_shard_bytes == 4 << 30:
        assert files == ["model.safetensors"]
    else:
        assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
        index = json.loads((target / "model.safetensors.index.json").read_text())
        sizes = {name: tensor.numel() * 4 for name, tensor in stream(target)}
        assert index["metadata"]["total_size"] == sum(sizes.values())
        for file in files:
            with safe_open(target / file, framework="pt") as opened:
                held = list(opened.keys())
            assert {name for name, where in index["weight_map"].items() if where == file} == set(held)
            assert len(held) == 1 or sum(sizes[name] for name in held) <= max_shard_bytes
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["hf"]


def test_tokenizer_files_come_along_and_others_do_not(pristine: Path, tmp_path: Path) -> None:
    source = tmp_path / "tokenizer"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md", "old.safetensors"):
        (source / name).write_text(name)
    write_folder(tmp_path / "hf", stream(pristine), config_of(pristine), source)
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names == {
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json", "model.safetensors"
    }  # fmt: skip
    assert (tmp_path / "hf" / "tokenizer.json").read_text() == "tokenizer.json"


def test_tensors_may_be_views_that_change_as_the_stream_goes_on(tmp_path: Path) -> None:
    """A trainer's iterator reuses memory and gives slices of its buffers."""
    buffer = torch.zeros(4, 6)

    def views() -> Iterator[tuple[str, Tensor]]:
        for number in range(3):
            buffer.fill_(number)
            yield f"row{number}", buffer[1:, ::2]

    write_folder(tmp_path / "hf", views(), {}, tmp_path)
    with SafetensorsFolder(tmp_path / "hf") as source:
        for number in range(3):
            assert torch.equal(source.read_whole(f"row{number}"), torch.full((3, 3), float(number)))


def test_an_existing_folder_is_refused_and_left_as_it_is(pristine: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "precious").write_text("mine")
    with pytest.raises(CheckpointError, match=r"hf exists already"):
        write_folder(tmp_path / "hf", stream(pristine), config_of(pristine), pristine)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert (tmp_path / "hf" / "precious").read_text() == "mine"


def test_what_a_killed_run_has_left_is_replaced(pristine: Path, tmp_path: Path) -> None:
    (tmp_path / "hf.partial").mkdir()
    (tmp_path / "hf.partial" / "model.safetensors").write_text("half")
    write_folder(tmp_path / "hf", stream(pristine), config_of(pristine), pristine)
    usable_weights(tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


WRITE = """
import json, resource, sys
from pathlib import Path
import torch
from aspo_megatron.checkpoint.hf.folder import write_folder
from aspo_megatron.errors import CheckpointError
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
tensors = ((f"t{i}", torch.ones(256, 256)) for i in range(8))  # 2 MiB
try:
    write_folder(Path(sys.argv[1]), tensors, {}, Path(sys.argv[1]), max_shard_bytes=600_000)
except CheckpointError as error:
    print(error)
"""


def write_elsewhere(target: Path, limit: int = 0) -> str:
    """The error of writing two MiB, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", WRITE, str(target), str(limit)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_clean_failure(target: Path, error: str) -> None:
    assert str(target) in error
    assert "could not be written" in error
    assert len(error.splitlines()) == 1
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("limit", [100, 300_000])
def test_a_write_that_the_system_refuses_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    """The first byte too many, in the first file: a limit on the size of files stands in for a full disk."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    assert_clean_failure(tmp_path / "hf", write_elsewhere(tmp_path / "hf", limit))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_nothing_behind(small_disk: Path) -> None:
    error = write_elsewhere(small_disk / "hf")
    assert "No space left on device" in error
    assert_clean_failure(small_disk / "hf", error)


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/hf: could not be written"):
        write_folder(tmp_path / "file" / "hf", iter([]), {}, tmp_path)


def test_a_byte_order_mark_is_not_written_on(tmp_path: Path) -> None:
    """generation_config.json is read here with one; transformers could not read what is exported."""
    source = llama_folder(tmp_path / "source", tied=True)
    content = (source / "generation_config.json").read_bytes()
    (source / "generation_config.json").write_bytes(b"\xef\xbb\xbf" + content)
    with SafetensorsFolder(source) as tensors:
        every = ((name, tensors.read_whole(name)) for name in tensors.names())
        write_folder(tmp_path / "target", every, read_family(source).hf_config, source)
    assert (tmp_path / "target" / "generation_config.json").read_bytes() == content
