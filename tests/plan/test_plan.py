"""What the plan computes from config.json alone, with numbers that can be checked by hand; the command around it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from aspo_megatron.cli.app import app
from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.config.words import Recompute
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.family import read_family
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.plan.estimate import passes_of
from aspo_megatron.plan.hardware import H100, H200, Assumptions
from aspo_megatron.plan.layouts import StageMemory, best_layouts, candidates
from aspo_megatron.plan.memory.host import LockedMemory
from aspo_megatron.plan.memory.log_probs import log_prob_bytes
from aspo_megatron.plan.memory.parameters import rank_parameters
from aspo_megatron.plan.memory.rank import in_flight, optimizer_shards
from aspo_megatron.plan.memory.setting import setting_of
from aspo_megatron.plan.memory.workload import local_batch, worst_groups
from aspo_megatron.plan.report import make_plan
from aspo_megatron.plan.traffic import traffic_of

from .conftest import ROOT

EXAMPLES = ROOT / "examples"
BILLIONS = {  # as their model cards have them
    "deepseek_r1_distill_qwen_1_5b": 1.78,
    "qwen3_4b": 4.02,
    "qwen3_8b": 8.19,
    "qwen3_30b_a3b": 30.5,
}


def run_of(recipe: str, *overrides: str) -> RunConfig:
    return load_config(EXAMPLES / recipe / "run.yaml", [f"model.path={EXAMPLES / recipe / 'model'}", *overrides])


@pytest.mark.parametrize("name", BILLIONS)
def test_parameters_of_published_models(name: str) -> None:
    family = read_family(EXAMPLES / name / "model")
    assert model_elements(family) / 1e9 == pytest.approx(BILLIONS[name], rel=0.003)


def test_a_log_prob_takes_a_chunk_by_the_gpus_memory() -> None:
    """20,000 tokens of Qwen3-8B on one GPU: 151,936 words, 6 bytes for each logit of a chunk; hidden states, sums."""
    run = run_of("qwen3_8b")
    family, setting = read_family(run.model.path), setting_of(run, ParallelConfig())
    rest = 20_000 * (family.hidden_size * 2 + 4 * 4)

    def forward(memory: int, **changed: Any) -> int:
        return log_prob_bytes(family, ParallelConfig(), replace(setting, gpu_memory=memory, **changed), 20_000).forward

    assert forward(H100.memory) == 4000 * 151_936 * 6 + rest  # five equal chunks of at most 4,096
    assert forward(24 << 30) == 1334 * 151_936 * 6 + rest  # fifteen that fit in a twentieth of 24 GiB
    tile = (32 << 20) // (151_936 * 4) * 151_936 * 4
    assert forward(H100.memory, eager_log_prob=True) == 4000 * 151_936 * 6 + tile + rest
    eager = run_of("qwen3_8b", "model.kernels.log_prob=eager")
    assert [setting_of(each, ParallelConfig()).eager_log_prob for each in (run, eager)] == [False, True]


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "qwen3_moe"])
def test_shards_add_up_to_the_model(name: str, models: Path) -> None:
    family = read_family(models / name)
    whole = sum(math.prod(size) for size in hf_sizes(family.rows, family.shape(1)).values())
    assert model_elements(family) == whole
    assert rank_parameters(family, ParallelConfig(), 0).total == whole
    split = ParallelConfig(pp=2, vpp=2)
    copy = family.vocab_size * family.hidden_size if family.tied_embeddings else 0
    assert sum(rank_parameters(family, split, stage).total for stage in (0, 1)) == whole + copy


def test_micro_batches_in_flight() -> None:
    assert [in_flight(ParallelConfig(pp=4), stage, 8) for stage in range(4)] == [(4,), (3,), (2,), (1,)]
    assert in_flight(ParallelConfig(pp=4), 0, 2) == (2,)
    assert [in_flight(ParallelConfig(pp=2, vpp=2), stage, 4) for stage in (0, 1)] == [(3, 2), (2, 1)]


def test_optimizer_is_split_over_replicas_and_contexts() -> None:
    layout = ParallelConfig(tp=2, cp=2, dp=4, ep=4, etp=1, sequence_parallel=True, distributed_optimizer=True)
    assert optimizer_shards(layout) == (8, 4)
    assert optimizer_shards(layout.model_copy(update={"distributed_optimizer": False})) == (1, 1)


def test_micro_batch_at_its_worst() -> None:
    # A sample longer than the budget has a micro-batch to itself; else responses share their prompt.
    small = run_of("qwen3_4b", "train.max_tokens_per_micro_batch=4096")
    assert worst_groups(small, 40960) == ((2048, (8192,)),)
    large = run_of("qwen3_4b", "train.max_tokens_per_micro_batch=20000")
    ((prompt, responses),) = worst_groups(large, 40960)
    assert (prompt, responses) == (2048, (8192, 8192))
    batch = local_batch(((100, (51, 51)),), 1, 1)
    assert (batch.tokens, batch.scored) == (200, 102)
    halves = local_batch(((100, (51, 51)),), 2, 4)
    assert halves.tokens == 100
    assert halves.all_tokens == 200


def test_recomputation_and_more_ranks_take_less() -> None:
    def memory(*overrides: str) -> int:
        run = run_of("qwen3_8b", "parallel={tp: 2, sequence_parallel: true}", *overrides)
        return make_plan(run, read_family(run.model.path), count=1).on[0].memory

    none, light, selective, full = (memory(f"model.recompute={mode}") for mode in get_args(Recompute))
    assert none > light > selective > full
    assert memory("parallel.tp=4") < light
    assert memory("optimizer.offload=true") < light
    there = memory("model.reference=device")
    assert memory("loss.kl_coef=0") == pytest.approx(there - 8.19e9, rel=0.01)  # half of it, in two bytes each
    assert memory("loss.kl_coef=0", "shaping.kl_coef=0.1", "model.reference=device") == there
    assert light == memory("loss.kl_coef=0")  # the reference comes when there is nothing of an update


def test_reference_takes_memory_when_it_computes() -> None:
    def stage_of(where: str) -> StageMemory:
        run = run_of("qwen3_8b", f"model.reference={where}")
        (stage,) = make_plan(run, read_family(run.model.path), count=1).on[0].stages
        return stage

    stage = stage_of("host")
    assert stage.resident.reference == 0
    assert stage.passing.reference > stage.resident.weights  # its own, and a pass
    stage = stage_of("device")
    assert stage.resident.reference == stage.resident.weights
    assert stage.passing.reference == stage.passing.scoring


def test_embedded_engine_takes_half_of_what_is_free() -> None:
    run = run_of("qwen3_4b", "rollout.engine=embedded", "parallel={tp: 2, dp: 2, sequence_parallel: true}")
    on = make_plan(run, read_family(run.model.path), count=1).on[0]
    held = on.stages[0].resident.total - on.stages[0].resident.gradients
    free = H100.memory - Assumptions().reserved - held - on.engine.weights
    prompt = 16 * (2048 + 8192) * 2 * 36 * 8 * 128 * 2  # keys and values of all responses to one
    assert free / 2 - prompt < on.engine.cache <= free / 2
    assert on.engine.cache % prompt == 0
    assert on.engine.drawing >= on.engine.cached_tokens // (2048 + 8192) * 151936 * 26
    run = run_of("qwen3_4b", "rollout.engine=embedded", "rollout.max_batch_tokens=1000")
    engine = make_plan(run, read_family(run.model.path), count=1).on[0].engine
    assert engine.cached_tokens == 16 * (2048 + 8192)  # one prompt is always generated for


def test_kl_of_either_kind_takes_a_pass() -> None:
    def forward(*overrides: str) -> float:
        run = run_of("qwen3_4b", "train.epochs=3", *overrides)  # with one, the first update needs no pass
        return passes_of(run, run.parallel, Assumptions())[0].forward

    assert forward() == forward("loss.kl_coef=0", "shaping.kl_coef=0.1") == 2
    assert forward("loss.kl_coef=0") == 1


def test_a_loss_that_looks_at_the_whole_update_takes_a_pass_before_each() -> None:
    def forward(*overrides: str) -> float:
        run = run_of("qwen3_4b", "loss.kl_coef=0", *overrides)
        return passes_of(run, run.parallel, Assumptions())[0].forward

    assert forward("loss.name=m2po") == forward() + 1
    assert forward("loss.name=kl-cov", "train.epochs=3") == forward("train.epochs=3") + 3


def test_locked_memory_of_the_host() -> None:
    def locked(*overrides: str) -> tuple[LockedMemory, int]:
        run = run_of("qwen3_8b", *overrides)
        plan = make_plan(run, read_family(run.model.path), count=1)
        return plan.locked[0], plan.locked_on_node

    parameters = rank_parameters(read_family(EXAMPLES / "qwen3_8b" / "model"), ParallelConfig(tp=4), 0).total
    alone, node = locked()
    assert (alone.reference, alone.optimizer, alone.save) == (2 * parameters, 0, 14 * parameters)
    assert node == 4 * alone.total
    bare, _ = locked("loss.kl_coef=0", "checkpoint.async_save=false", "optimizer.offload=true")
    assert (bare.reference, bare.optimizer, bare.save) == (0, 12 * parameters, 0)
    never, _ = locked("checkpoint.every=0")
    assert (never.reference, never.save) == (alone.reference, 0)
    there, _ = locked("model.reference=device")
    assert there.reference == 0
    split, both = locked("parallel.dp=2", "parallel.distributed_optimizer=true", "model.recompute=full")
    assert split.save == pytest.approx((2 + 12 / 2) * parameters, rel=0.01)
    assert both < 8 * split.total  # the second replica writes no weights
    on_cpu, _ = locked("platform.device=cpu")
    assert on_cpu.total == 0


def test_servers_and_cache() -> None:
    run = run_of("qwen3_8b", "rollout.servers={count: 2, tp: 2, memory_fraction: 0.5}")
    (first, _) = make_plan(run, read_family(run.model.path), count=1).on
    token = 2 * 36 * 8 * 128 * 2  # keys and values, layers, heads, size, bytes
    assert first.engine.weights == pytest.approx(8.19e9, rel=0.01)
    assert first.engine.cached_tokens == pytest.approx((40e9 - 8.19e9) / (token / 2), rel=0.01)


def test_experts_that_tp_ranks_have_copies_of_are_summed() -> None:
    run = run_of("qwen3_30b_a3b")
    family = read_family(run.model.path)

    def axes(**parallel: int) -> set[str]:
        layout = ParallelConfig(tp=4, sequence_parallel=True, **parallel)
        passes = passes_of(run, layout, Assumptions())[0]
        return {each.axis for each in traffic_of(run, family, layout, passes, H100)}

    assert axes(etp=4) == {"tp", "sync"}
    assert axes(etp=1) == {"tp", "dp", "sync"}
    assert axes(etp=1, ep=4) == {"tp", "ep", "sync"}


def test_best_layouts_fit() -> None:
    run = run_of("qwen3_30b_a3b")
    family = read_family(run.model.path)
    best = best_layouts(run, family, 16, H100, Assumptions(), 5)
    assert len(best) == 5
    assert all(each.fits and each.memory <= H100.memory and each.parallel.world_size == 16 for each in best)
    roomier = best_layouts(run, family, 16, H200, Assumptions(), 1)
    assert roomier[0].time.trainer <= best[0].time.trainer
    assert all(each.ep <= 16 for each in candidates(family, 16))
    (smallest, *_) = best_layouts(run, family, 1, H100, Assumptions(), 3)
    assert not smallest.fits


@pytest.fixture
def plan_of(tmp_path: Path) -> Any:
    def plan(*argv: str) -> Any:
        return CliRunner().invoke(app, ["plan", *argv])

    return plan


def test_json_for_scripts(plan_of: Any) -> None:
    done = plan_of(str(EXAMPLES / "qwen3_4b" / "run.yaml"), "--gpus", "8", "--gpu", "h200", "--layouts", "2", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["model"]["family"] == "qwen3"
    assert [each["gpu"] for each in plan["on"]] == ["H200 SXM"]
    assert plan["best"]["gpus"] == 8
    assert len(plan["best"]["layouts"]) == 2
    stage = plan["on"][0]["stages"][0]
    assert stage["total"] > sum(stage["resident"].values())
    assert plan["assumptions"]["mfu"] == 0.35


def test_errors_name_the_key(plan_of: Any, tmp_path: Path) -> None:
    recipe = str(EXAMPLES / "qwen3_8b" / "run.yaml")
    for overrides, key in (
        (["parallel.tp=3", "parallel.sequence_parallel=true"], "parallel.tp=3"),
        (["parallel={tp: 2, sequence_parallel: true, ep: 2, etp: 1}"], "parallel.ep"),
        (["loss.name=nope"], "nope"),
    ):
        with pytest.raises(ConfigError, match=key):
            raise plan_of(recipe, *overrides).exception
    away = tmp_path / "run.yaml"
    away.write_text((EXAMPLES / "qwen3_8b" / "run.yaml").read_text())
    with pytest.raises(UserError, match=r"model\.path"):
        raise plan_of(str(away)).exception
    with pytest.raises(ConfigError, match="--gpu"):
        raise plan_of(recipe, "--gpu", "v100").exception
