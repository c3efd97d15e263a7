"""Processes with the stand-in for a GPU, and model folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .processes import processes


@pytest.fixture(scope="session")
def simulated() -> Iterator[Callable[..., Any]]:
    """Calls a function in a process of its own that has the stand-in."""
    with processes() as server:
        yield server.run


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models, by name: one of each family, of sizes that kernels of a GPU take.

    Those with `-deep` have the four layers that pipeline stages need; two take half the time.
    """
    from tiny_models import llama_folder, qwen2_folder, qwen3_folder, qwen3_moe_folder

    root = tmp_path_factory.mktemp("models")
    return {
        "llama-tied": llama_folder(root / "llama-tied", tied=True, hidden_size=96),
        "llama-tied-deep": llama_folder(root / "llama-tied-deep", tied=True, hidden_size=96, num_hidden_layers=4),
        "llama": llama_folder(root / "llama", tied=False, hidden_size=96),
        "qwen2": qwen2_folder(root / "qwen2", tied=False, hidden_size=96),
        "qwen3": qwen3_folder(root / "qwen3", tied=True),
        "qwen3-moe": qwen3_moe_folder(root / "qwen3-moe", moe_intermediate_size=16),
        "qwen3-moe-deep": qwen3_moe_folder(root / "qwen3-moe-deep", num_hidden_layers=4, moe_intermediate_size=16),
    }
