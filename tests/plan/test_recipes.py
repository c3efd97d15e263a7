"""The recipes: each can be read and planned, fits, has its plan in its README, and starts in its tiny form."""

from __future__ import annotations

import json
import shutil
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from forked import Server, fork_ranks, kill
from thorough import some_of

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.models.family import read_family
from aspo_megatron.models.hf_config import transformers_config
from aspo_megatron.models.tiny import RANKS, tiny_layout, tiny_run
from aspo_megatron.plan.readme import with_plan
from aspo_megatron.plan.report import make_plan
from aspo_megatron.slurm.layout import shape

from .conftest import ROOT

EXAMPLES = ROOT / "examples"
RECIPES = ("deepseek_r1_distill_qwen_1_5b", "qwen3_4b", "qwen3_8b", "qwen3_30b_a3b")
FILES = (*(f"{name}/run.yaml" for name in RECIPES), "deepseek_r1_distill_qwen_1_5b/code.yaml")


@pytest.mark.parametrize("name", RECIPES)
def test_readme_has_the_plan(name: str) -> None:
    written = (EXAMPLES / name / "README.md").read_text()
    assert written == with_plan(EXAMPLES / name), f"python -m aspo_megatron.plan.readme examples/{name}"


@pytest.mark.parametrize("file", FILES)
def test_recipe_fits(file: str) -> None:
    path = EXAMPLES / file
    run = load_config(path)
    plan = make_plan(run, read_family(path.parent / "model"), count=1)
    assert all(on.fits for on in plan.on)


def test_large_recipe_fills_its_nodes() -> None:
    run = load_config(EXAMPLES / "qwen3_30b_a3b" / "run.yaml")
    assert shape(run) == (2, 8)
    plan = make_plan(run, read_family(EXAMPLES / "qwen3_30b_a3b" / "model"), count=1)
    servers = run.rollout.servers
    assert run.parallel.world_size + run.slurm.server_nodes * servers.count * servers.tp == 32
    assert plan.on[0].memory == max(stage.total for stage in plan.on[0].stages)


def test_layout_for_four_ranks() -> None:
    def tiny(experts: bool = False, **axes: object) -> ParallelConfig:
        return tiny_layout(ParallelConfig.model_validate(axes), experts)

    assert tiny(tp=8) == ParallelConfig(tp=4)
    assert tiny(tp=2, dp=16) == ParallelConfig(tp=2, dp=2)
    assert tiny(tp=2, cp=2, dp=2, pp=2, vpp=3) == ParallelConfig(tp=2, pp=2, vpp=2)
    assert tiny(cp=4, dp=2, distributed_optimizer=True) == ParallelConfig(cp=2, dp=2, distributed_optimizer=True)
    large = {"tp": 2, "pp": 2, "cp": 4, "ep": 8, "etp": 1, "sequence_parallel": True}
    assert tiny(True, **large) == ParallelConfig(tp=2, pp=2, ep=2, etp=1, sequence_parallel=True)
    assert tiny(True, dp=16, ep=8) == ParallelConfig(dp=4, ep=2)


@pytest.mark.parametrize("file", FILES)
def test_tiny_form_keeps_what_matters(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, changes = tiny_run(EXAMPLES / file, ["train.steps=5", "loss.kl_coef=0.01"])
    before = load_config(EXAMPLES / file)
    assert (run.train.steps, run.loss.kl_coef) == (5, 0.01)
    assert run.parallel.world_size <= RANKS
    assert (run.optimizer, run.advantage, run.train.epochs) == (before.optimizer, before.advantage, before.train.epochs)
    assert run.output_dir.name == f"{before.output_dir.name}-tiny"
    small, full = read_family(run.model.path), read_family(EXAMPLES / Path(file).parent / "model")
    for trait in ("name", "tied_embeddings", "qk_norm", "qkv_bias", "norm_topk"):
        assert getattr(small, trait) == getattr(full, trait)
    assert small.num_heads // small.num_kv_heads == full.num_heads // full.num_kv_heads
    small.check_layout(run.parallel)
    assert any("layout:" in line for line in changes)


def train(path: Path) -> None:
    """What a rank does."""
    from aspo_megatron.inputs.read import read_inputs
    from aspo_megatron.launch.stop import StopRequest
    from aspo_megatron.train.main import train

    run = load_config(path)
    sys.exit(train(run, read_inputs(run), StopRequest()))


def train_in_ranks(path: Path, world_size: int) -> list[int | None]:
    ranks: list[BaseProcess] = fork_ranks(world_size, train, path)
    for rank in ranks:
        rank.join(100)
    kill(ranks)
    return [rank.exitcode for rank in ranks]


def test_a_model_that_names_the_kind_of_each_layer(tmp_path: Path) -> None:
    """As transformers writes them since 4.53."""
    recipe = Path(shutil.copytree(EXAMPLES / "qwen3_8b", tmp_path / "recipe"))
    shape = json.loads((recipe / "model" / "config.json").read_text())
    shape["layer_types"] = ["full_attention"] * shape["num_hidden_layers"]
    (recipe / "model" / "config.json").write_text(json.dumps(shape))
    run, _ = tiny_run(recipe / "run.yaml", [f"output_dir={tmp_path / 'run'}"])
    assert transformers_config(read_family(run.model.path)).num_hidden_layers < shape["num_hidden_layers"]


@pytest.mark.distributed
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", some_of(RECIPES, RECIPES[3:]))
def test_tiny_form_trains(name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks of the tiny layout, from the configuration that `aspo train --tiny` makes."""
    monkeypatch.chdir(tmp_path)
    run, _ = tiny_run(EXAMPLES / name / "run.yaml", [f"output_dir={tmp_path / 'run'}"])
    path = _saved(run)
    assert server.run(train_in_ranks, path, run.parallel.world_size) == [0] * run.parallel.world_size
    lines = [json.loads(line) for line in (run.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward/mean" in line] == [1, 2]
    assert all(line["engine_log_prob_diff/mean"] < 1e-4 for line in lines if "reward/mean" in line)
    assert (run.output_dir / "hf" / "config.json").is_file()


def _saved(run: RunConfig) -> Path:
    run.output_dir.mkdir(parents=True)
    path = run.output_dir / "config.yaml"
    save_config(run, path)
    return path
