"""Model folders for tests: the tiny model's, with something changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TINY = Path(__file__).parents[2] / "examples" / "tiny" / "model"
BASE: dict[str, Any] = json.loads((TINY / "config.json").read_text())
MOE: dict[str, Any] = {
    **BASE,
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


def copy_of_tiny(folder: Path) -> Path:
    """The tiny model's folder, without weights."""
    return Path(shutil.copytree(TINY, folder))


def with_config(folder: Path, config: object) -> Path:
    """A folder with nothing but this config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def change_json(path: Path, **fields: object) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def the_line(error: BaseException, *words: str) -> str:
    """What an error says: a line with these words."""
    (line,) = str(error).splitlines()
    for word in words:
        assert word in line, line
    assert len(line) < 700
    return line
