"""Which configurations are those of the run that a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from aspo_megatron.config import RunConfig
from aspo_megatron.config_io import load_config, save_config
from aspo_megatron.errors import ConfigError
from aspo_megatron.run_folder import refuse_foreign_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
OLDER = {
    "model.kernels.fp8_recipe": "delayed",
    "rollout.servers.sync": "distributed",
    "rollout.max_batch_tokens": 65536,
}
"""Values that were defaults once, and stand in the folders of runs that began then."""


def with_folder(tmp_path: Path, *settings: str) -> RunConfig:
    return load_config(EXAMPLES / "tiny" / "run.yaml", [f"output_dir={tmp_path}", *settings])


def test_a_run_that_began_with_other_defaults_is_the_same(tmp_path: Path) -> None:
    save_config(with_folder(tmp_path, *(f"{key}={value}" for key, value in OLDER.items())), tmp_path / "config.yaml")
    refuse_foreign_folder(with_folder(tmp_path))
    refuse_foreign_folder(with_folder(tmp_path, "model.reference=device", "model.kernels.expert_fusion=false"))


def test_another_recipe_of_fp8_is_another_run(tmp_path: Path) -> None:
    save_config(with_folder(tmp_path, "model.kernels.fp8=e4m3"), tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"differs in model\.kernels\.fp8_recipe"):
        refuse_foreign_folder(with_folder(tmp_path, "model.kernels.fp8=e4m3", "model.kernels.fp8_recipe=delayed"))


@pytest.mark.parametrize("name", ["tiny", "quickstart"])
def test_first_runs_need_no_gpu_for_each_rank(name: str) -> None:
    run = load_config(EXAMPLES / name / "run.yaml")
    assert run.parallel.world_size > 1
    assert run.platform.device == "cpu"
