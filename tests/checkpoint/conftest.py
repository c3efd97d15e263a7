"""A small model folder to read from, damage and write back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny_models import llama_folder, qwen2_folder

FOLDERS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda path: llama_folder(path, tied=True),
    "qwen2": lambda path: qwen2_folder(path, tied=False),
}


@pytest.fixture(scope="session", params=FOLDERS)
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Llama or an untied Qwen2; not to be changed."""
    return FOLDERS[request.param](tmp_path_factory.mktemp("pristine") / request.param)


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))
