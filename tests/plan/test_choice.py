"""What `aspo plan` chooses, of which model and for which GPU: through the command, as its reader sees it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from e2e.command import Finished
from e2e.test_bad_input import call_main

from aspo_megatron.config import ParallelConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.models.family import read_family
from aspo_megatron.plan.compute import Compute, compute_of
from aspo_megatron.plan.estimate import passes_of
from aspo_megatron.plan.hardware import GPUS, H20, H100, Assumptions, gpu_called
from aspo_megatron.plan.layouts import Rated, best_layouts, in_order

from .conftest import ROOT

EXAMPLES = ROOT / "examples"
RUN = str(EXAMPLES / "qwen3_8b" / "run.yaml")
Aspo = Callable[..., Finished]
CONVENTIONAL = (
    ("deepseek_r1_distill_qwen_1_5b", (4, 8)),
    ("qwen3_4b", (4, 8)),
    ("qwen3_8b", (4, 8, 64)),
    ("qwen3_30b_a3b", (16, 32)),
)


@pytest.fixture
def aspo(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Aspo:
    """`aspo plan` in this process."""
    return lambda *argv: call_main(["plan", *argv], monkeypatch, capfd)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a recipe, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(EXAMPLES / "qwen3_8b", "mine"))


def refused(done: Finished) -> str:
    assert done.code == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(("recipe", "gpus"), [(name, n) for name, counts in CONVENTIONAL for n in counts])
def test_the_first_layout_is_one_that_others_run(recipe: str, gpus: int) -> None:
    run, family = load_config(EXAMPLES / recipe / "run.yaml"), read_family(EXAMPLES / recipe / "model")
    found = best_layouts(run, family, gpus, H100, Assumptions(), 5)
    first = found[0]
    assert first.parallel.pp * first.parallel.cp <= 2
    assert first.parallel.tp <= 4
    assert first.memory <= 0.9 * H100.memory
    if family.num_experts:
        assert all(each.parallel.ep > 1 for each in found)
        assert first.parallel.ep == 8
    tight = [each.tight for each in found]
    assert tight == sorted(tight)
    assert all(each.memory > 0.9 * H100.memory for each in found if each.tight)


def test_of_times_that_are_near_the_fewest_parts_come_first() -> None:
    run, family = load_config(Path(RUN)), read_family(EXAMPLES / "qwen3_8b" / "model")
    one = best_layouts(run, family, 4, H100, Assumptions(), 1)[0]

    def timed(seconds: float, **axes: int) -> Rated:
        time = replace(one.time, scoring=0.0, training=seconds, idle=0.0, traffic_seconds=0.0)
        return replace(one, parallel=ParallelConfig(**axes), time=time)

    deep, flat, slow = timed(100, pp=4, cp=2), timed(108, pp=2), timed(112, tp=2)
    assert in_order([slow, deep, flat], 3) == [flat, deep, slow]
    assert in_order([timed(120, pp=2), deep], 2)[0] == deep


def test_tight_layouts_are_marked_and_last(aspo: Aspo) -> None:
    done = aspo(RUN, "--gpus", "8")
    rows = [line for line in done.stdout.splitlines() if line[:1].isdigit() and "{" in line]
    assert len(rows) == 5
    assert ["tight: " in row for row in rows] == [False] * 4 + [True]
    layouts = json.loads(aspo(RUN, "--gpus", "8", "--json").stdout)["best"]["layouts"]
    assert [each["tight"] for each in layouts] == [False] * 4 + [True]
    assert layouts[-1]["trainer_seconds"] < layouts[0]["trainer_seconds"]
    tight = aspo(RUN, "--gpu", "h100", "--gpu-memory", "55").stdout
    assert "52.5 GB on 55 GB (H100 SXM, 55 GB): tight, 2.5 GB to spare: less than 10%" in tight
    assert "does not fit" in aspo(RUN, "--gpu-memory", "52").stdout


def test_a_model_path_that_is_given_has_to_be_there(aspo: Aspo, recipe: Path) -> None:
    line = refused(aspo("mine/run.yaml", "model.path=models/Qwen3-1B"))
    assert "models/Qwen3-1B" in line
    assert "models/Qwen3-1B" in refused(aspo("mine/run.yaml", "model={path: models/Qwen3-1B}"))
    Path("models/Qwen3-8B").mkdir(parents=True)  # a download that has only begun
    assert "models/Qwen3-8B" in refused(aspo("mine/run.yaml"))


def test_the_plan_names_the_config_json_that_it_read(aspo: Aspo, recipe: Path) -> None:
    first = aspo("mine/run.yaml").stdout.splitlines()[0]
    assert first == "config.json  mine/model/config.json (model.path=models/Qwen3-8B does not exist yet)"
    model = json.loads(aspo("mine/run.yaml", "--json").stdout)["model"]
    assert (model["config_json"], model["missing_model_path"]) == ("mine/model/config.json", "models/Qwen3-8B")
    shutil.copytree("mine/model", "models/Qwen3-8B")
    assert aspo("mine/run.yaml").stdout.splitlines()[0] == "config.json  models/Qwen3-8B/config.json"
    assert (
        aspo("mine/run.yaml", "model.path=mine/model").stdout.splitlines()[0] == "config.json  mine/model/config.json"
    )
    model = json.loads(aspo("mine/run.yaml", "--json").stdout)["model"]
    assert (model["config_json"], model["missing_model_path"]) == ("models/Qwen3-8B/config.json", None)


def test_lengths_beyond_the_context_are_refused(aspo: Aspo) -> None:
    line = refused(aspo(RUN, "rollout.sampling.max_response_tokens=40960"))
    assert "rollout.sampling.max_response_tokens=40960 and a prompt exceed the model's context of 40960" in line
    line = refused(aspo(RUN, "data.max_prompt_tokens=4096", "rollout.sampling.max_response_tokens=38000"))
    assert line.startswith("error: data.max_prompt_tokens=4096 and rollout.sampling.max_response_tokens=38000 exceed")
    # 2,048 is the default, which promises no such prompt.
    room = aspo(RUN, "rollout.sampling.max_response_tokens=40000").stdout
    assert "prompts of at most 960 tokens, limited by the model's context of 40,960" in room
    assert aspo(str(EXAMPLES / "tiny" / "run.yaml"), f"model.path={EXAMPLES / 'tiny' / 'model'}").code == 0


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_each_gpu_by_its_short_name(gpu: Any, aspo: Aspo) -> None:
    name = gpu.name.split()[0].lower()
    done = aspo(RUN, "--gpu", name, "--layouts", "1")
    assert f" GB on {gpu.memory / 1e9:g} GB ({gpu.name}): " in done.stdout
    assert (
        f"{gpu.name}: {gpu.bf16 / 1e12:.0f} TFLOP/s, {gpu.hbm / 1e12:g} TB/s, NVLink {gpu.nvlink / 1e9:.0f} GB/s, "
        in (done.stdout)
    )
    assert f"| {gpu.name} |" in (ROOT / "docs" / "planning.md").read_text()


def test_gpus_that_are_not_as_sold(aspo: Aspo) -> None:
    on = json.loads(aspo(RUN, "--gpu", "h20", "--gpu-memory", "141", "--layouts", "1", "--json").stdout)["on"]
    assert [(each["gpu"], each["memory"]) for each in on] == [("H20 SXM, 141 GB", 141 * 10**9)]
    assert gpu_called("h20", 96) == H20
    line = refused(aspo(RUN, "--gpu", "v100"))
    assert "known are a100, a100-40, h100, h800, h200, h20, b200" in line
    assert "--gpu-memory" in refused(aspo(RUN, "--gpu-memory", "0"))


def test_a_gpu_is_as_fast_as_its_products_and_its_memory() -> None:
    assume = Assumptions()
    assert assume.mfu_on(H100) == pytest.approx(0.35)
    assert assume.mfu_on(replace(H100, hbm=1e30)) == pytest.approx(0.7)
    assert assume.mfu_on(replace(H100, bf16=H100.bf16 / 2, hbm=H100.hbm / 2)) == pytest.approx(0.35)
    assert 0.6 < assume.mfu_on(H20) < 0.65
    assert assume.rate(H100, 4) == pytest.approx(0.35 * 67e12)


def test_the_reason_of_the_seconds_and_all_gpus(aspo: Aspo) -> None:
    text = aspo(RUN).stdout
    assert "GPUs         8 in total: 4 for ranks, 4 for servers; 1 node of 8 GPUs" in text
    assert "35% of the BF16 peak in training on an H100 (MFU), assumed: Megatron-LM's README" in text
    assert "41% on H200 SXM" in text
    assert "not included: the rewards' own time, evaluation, saves, exports, " in text
    large = aspo(str(EXAMPLES / "qwen3_30b_a3b" / "run.yaml"), "--json")
    expected = {"ranks": 16, "servers": 16, "shared": False, "nodes": 4, "gpus_of_node": 8, "total": 32}
    assert json.loads(large.stdout)["gpus"] == expected
    alone = aspo(RUN, "rollout.engine=embedded", "--layouts", "1").stdout
    assert "4 in total, for ranks, which also generate; 1 node of 8 GPUs" in alone
    shared = aspo(RUN, "rollout.servers.colocate=true", "rollout.servers.sync=tensor", "--layouts", "1").stdout
    assert "4 in total, shared in turn by 4 ranks and the servers on 4" in shared


def test_small_experts_and_a_stage_with_the_vocabulary_take_longer() -> None:
    """By the formulas of docs/planning.md: the host's calls for each expert, and the last stage's products."""

    def computed(recipe: str, *words: str, **axes: Any) -> Compute:
        run, family = load_config(EXAMPLES / recipe / "run.yaml", words), read_family(EXAMPLES / recipe / "model")
        parallel = ParallelConfig(**axes)
        passes = passes_of(run, parallel, Assumptions())[0]
        return compute_of(run, family, parallel, passes, 1e9, H100, Assumptions())

    sent = "train.max_tokens_per_micro_batch=4096", "model.kernels.experts=sent"
    whole, split = (computed("qwen3_30b_a3b", *sent, dp=16, ep=ep) for ep in (1, 8))
    assert whole.operations == split.operations
    assert whole.training > 1.5 * split.training
    assert whole.starved > 0.4
    assert computed("qwen3_30b_a3b", *sent, "model.kernels.grouped_gemm=true", dp=16).starved == 0.0
    assert computed("qwen3_30b_a3b", sent[0], dp=16).starved == 0.0  # tokens are gathered
    assert split.slowest == pytest.approx(split.work)
    stages = computed("qwen3_8b", dp=2, pp=4)
    assert stages.slowest > 1.1 * stages.work
    assert stages.work == pytest.approx(computed("qwen3_8b", dp=2).work / 4, rel=0.03)


def test_light_recomputation_takes_what_it_moves() -> None:
    """By the formula of docs/planning.md; it is little beside products."""
    parallel = ParallelConfig(tp=4, sequence_parallel=True)
    found = {}
    for word in ("none", "light"):
        run = load_config(EXAMPLES / "qwen3_8b" / "run.yaml", [f"model.recompute={word}"])
        family = read_family(EXAMPLES / "qwen3_8b" / "model")
        passes = passes_of(run, parallel, Assumptions())[0]
        found[word] = compute_of(run, family, parallel, passes, 1e9, H100, Assumptions())
    none, light = found["none"], found["light"]
    assert light.scoring == none.scoring
    assert light.operations == none.operations
    moved = 2 * (2 * 4 * 4096 + 5 * 12288) / 4 * 36  # bytes of a token, on one of four ranks, in all layers
    seconds = passes.training * passes.tokens * moved / (0.8 * 3.35e12)
    assert light.training - none.training == pytest.approx(seconds)
    assert 0.01 < seconds / none.training < 0.03
