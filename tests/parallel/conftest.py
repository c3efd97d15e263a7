"""Ranks and model folders that all tests of the parallel core share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    with Ranks() as running:
        yield running


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models, by name."""
    from models import llama_folder, qwen2_folder, qwen3_folder

    root = tmp_path_factory.mktemp("models")
    return {
        "llama-tied": llama_folder(root / "llama-tied", tied=True),
        "llama": llama_folder(root / "llama", tied=False),
        "qwen2": qwen2_folder(root / "qwen2", tied=False),
        "qwen3": qwen3_folder(root / "qwen3", tied=True),
        "two-kv-heads": qwen2_folder(root / "two-kv-heads", tied=False, num_attention_heads=4, num_key_value_heads=2),
        "one-kv-head": llama_folder(root / "one-kv-head", tied=True, num_attention_heads=4, num_key_value_heads=1),
    }
