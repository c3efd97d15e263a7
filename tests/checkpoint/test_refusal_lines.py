"""What a folder of others holds is refused in one short line, whatever it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aspo_megatron.checkpoint.headers import kept_extra
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.errors import CheckpointError

HEADER = json.dumps({"a": {"dtype": "x\x1b" * 20_000, "shape": [1], "data_offsets": [0, 4]}}).encode()
DAMAGED = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)


def test_tensors_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "extra.safetensors").write_bytes(DAMAGED)
    with pytest.raises(CheckpointError, match=r"extra\.safetensors: truncated or damaged") as refused:
        kept_extra(tmp_path)
    assert len(str(refused.value)) < 1000


def test_header(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(DAMAGED)
    with pytest.raises(CheckpointError, match="truncated or damaged") as refused:
        SafetensorsFolder(tmp_path)
    assert len(str(refused.value)) < 1000
    assert str(refused.value).isprintable()


def test_name_in_an_index(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "a\n\x1b[2J.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is missing") as refused:
        SafetensorsFolder(tmp_path)
    assert str(refused.value).isprintable()
