"""Whole runs: what they leave, that layouts and launchers agree, and that the checkpoint is what was evaluated."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from thorough import some_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from aspo_megatron.config.io import load_config
from aspo_megatron.data.prompts import load_problems

from .command import TINY_MODEL, Finished, RunFolder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ALWAYS = {
    "approx_kl", "clip/fraction", "engine_log_prob_diff/above_0.001", "engine_log_prob_diff/above_0.01",
    "engine_log_prob_diff/above_0.1", "engine_log_prob_diff/above_1", "engine_log_prob_diff/k3",
    "engine_log_prob_diff/max", "engine_log_prob_diff/mean", "entropy", "grad_norm",
    "groups/all_agree", "groups/asked", "groups/trained", "kl_ref", "loss/policy", "loss/total", "lr",
    "repetition/mean", "response_tokens/cut", "response_tokens/mean",
    "reward/failed", "reward/mean", "tokens", "tokens_per_second", "updates/skipped",
}  # fmt: skip
"""In every step; figures of positive or negative samples are left out of a step that has none."""

SIGNED = {
    "clip/dual", "clip/neg_high", "clip/neg_low", "clip/pos_high", "clip/pos_low", "ratio/neg", "ratio/pos",
    "response_ratio/neg", "response_ratio/pos",
    "weight/neg", "weight/pos",
}  # fmt: skip


@pytest.fixture(params=some_of(["first", "tp1", "tp2", "dp2", "under_torchrun"], ["first", "tp1", "tp2"]))
def run(request: pytest.FixtureRequest) -> RunFolder:
    folder: RunFolder = request.getfixturevalue(request.param)
    return folder


def test_the_run_folder_is_complete(run: RunFolder) -> None:
    config = load_config(run.path / "config.yaml")
    assert config.output_dir == Path(run.path.name)
    steps = config.train.steps
    summary = run.summary()
    assert summary.keys() == {"heldout_before", "heldout_after", "heldout_problems", "seconds", "steps", "tokens"}
    assert summary["steps"] == steps
    assert summary["tokens"] == sum(line.get("tokens", 0) for line in run.metrics())
    assert summary["seconds"] > 0
    assert (run.path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((run.path / "tensorboard").iterdir())) == 1
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert {line["step"] for line in samples} == set(range(1, steps + 1))
    names = {"step", "problem", "question", "prompt", "answer", "response", "reward", "advantage", "finish_reason"}
    assert all(line.keys() == names | {"tokens", "log_probs", "weights", "weight_versions"} for line in samples)
    for step in range(1, steps + 1):
        asked = [line["problem"] for line in samples if line["step"] == step]
        assert len(asked) == len(set(asked)) > 0
    for line in samples:
        assert line["prompt"] == f"{line['question']} ="
        assert line["weight_versions"] == [[line["step"] - 1, len(line["tokens"])]]
        assert len(line["tokens"]) == len(line["weights"]) > 0
        assert "".join(line["tokens"]).replace(" ", "") == line["response"].replace(" ", "")
        assert all(0.0 <= weight <= 3.0 for weight in line["weights"])  # ASPO's cap
        assert line["advantage"] != 0 or not any(line["weights"])
    expected = {0, steps} | set(range(2, steps + 1, 2))
    assert {path.name for path in (run.path / "eval").iterdir()} == {f"step-{step:06d}.jsonl" for step in expected}
    assert not list(run.path.glob("*.partial"))
    assert not list((run.path / "logs").glob("*.json"))


def test_every_step_has_all_figures_and_they_are_finite(run: RunFolder) -> None:
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(len(lines)))
    for line in lines:
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in line.values())
    for line in lines[1:]:
        assert line.keys() >= ALWAYS
        assert line.keys() <= ALWAYS | SIGNED | {"step"} | {n for n in line if n.startswith(("seconds/", "eval/"))}
        assert line["engine_log_prob_diff/max"] < 1e-4
        assert line["reward/failed"] == 0
    assert set().union(*lines) >= SIGNED
    assert any(0 < line["clip/fraction"] < 1 for line in lines[1:])  # the updates do leave the old policy
    assert any(line["grad_norm"] > 0 for line in lines[1:])


def test_accuracy_is_that_of_the_responses_kept(run: RunFolder) -> None:
    summary = run.summary()
    last = run.metrics()[-1]["step"]
    for step, name in ((0, "heldout_before"), (last, "heldout_after")):
        records = run.evaluation(step)
        right = sum(record["reward"] >= 1.0 for record in records) / len(records)
        (metric,) = [value for key, value in run.step(step).items() if key.startswith("eval/avg@")]
        assert summary[name] == metric == right
    assert {record["index"] for record in run.evaluation(last)} == set(range(summary["heldout_problems"]))
    assert all(record["prompt"] == f"{record['question']} =" for record in run.evaluation(last))


def test_the_profile_of_a_step(tp2: RunFolder) -> None:
    folder = tp2.path / "profile"
    assert {path.name for path in folder.iterdir()} == {"summary.txt", "memory.png", "rank-0.json.gz", "rank-1.json.gz"}
    lines = (folder / "summary.txt").read_text().splitlines()
    phases = {line.split("  ")[0]: line for line in lines[3:12] if line}
    assert "reward" in phases  # scored by the time that generation ends, it may take no time
    for phase in ("generate", "old log-probs", "reference log-probs", "update", "sync", "step"):
        assert float(phases[phase].removeprefix(phase).split()[0]) > 0
    assert any(line.startswith("collectives") for line in lines)
    with gzip.open(folder / "rank-1.json.gz") as trace:
        events = json.load(trace)["traceEvents"]
    assert {"generate", "update"} <= {event.get("name") for event in events}


def test_heldout_problems_are_never_trained_on(tp2: RunFolder) -> None:
    config = load_config(tp2.path / "config.yaml", [f"model.path={TINY_MODEL}", "log.samples_per_step=1"])
    tokenizer = AutoTokenizer.from_pretrained(tp2.path / "hf")
    train, heldout = load_problems(config.data, tokenizer, 256, 4)
    trained = {json.loads(line)["question"] for line in (tp2.path / "samples.jsonl").read_text().splitlines()}
    asked = {record["question"] for record in tp2.evaluation(4)}
    assert trained <= {problem.question for problem in train}
    assert asked <= {problem.question for problem in heldout}
    assert not trained & asked


def test_the_warm_up_has_taught_something(first: RunFolder) -> None:
    """Else the tests of rewards and evaluation would compare zeros."""
    assert 0.02 < first.summary()["heldout_before"] < 0.9


# ---- layouts and launchers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", some_of(["tp2", "dp2"], ["tp2"]))
def test_layouts_agree_on_the_first_step(tp1: RunFolder, layout: str, request: pytest.FixtureRequest) -> None:
    """To rounding, although it holds two updates: the same responses, loss, gradients and ratios."""
    one, other = tp1.step(1), request.getfixturevalue(layout).step(1)
    for name in one.keys() | other.keys():
        if name.startswith(("eval/", "engine_log_prob_diff/")):
            continue
        assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_run_under_torchrun(tp2: RunFolder, under_torchrun: RunFolder) -> None:
    """Also: the configuration kept in the run folder says all, and the launcher makes no difference."""
    assert [line.keys() for line in tp2.metrics()] == [line.keys() for line in under_torchrun.metrics()]
    for step in range(5):
        assert tp2.step(step) == under_torchrun.step(step)
    for name in ("samples.jsonl", "eval/step-000004.jsonl"):
        assert (tp2.path / name).read_bytes() == (under_torchrun.path / name).read_bytes()
    assert (tp2.path / "hf/model.safetensors").read_bytes() == (
        under_torchrun.path / "hf/model.safetensors"
    ).read_bytes()


# ---- the checkpoint --------------------------------------------------------------------------------------------


def test_aspo_eval_gives_the_accuracy_of_training_answer_for_answer(tp2: RunFolder, evaluated: Finished) -> None:
    """The model is read back from its checkpoint, in one process instead of two."""
    kept = (tp2.path / "eval" / "step-000004.jsonl").read_bytes()
    assert (tp2.path.parent / "eval.jsonl").read_bytes() == kept
    summary = tp2.summary()
    assert f"{summary['heldout_problems']} problems, 2 responses each" in evaluated.stdout
    assert f"avg@2  {summary['heldout_after']:.1%}" in evaluated.stdout
    assert f"pass@2  {tp2.step(4)['eval/pass@2']:.1%}" in evaluated.stdout


def test_a_run_from_a_checkpoint_begins_where_the_checkpoint_was(first: RunFolder, tp2: RunFolder) -> None:
    """Evaluated by the run that wrote it and by the one that read it, with the same random numbers."""
    assert tp2.evaluation(0) == first.evaluation(1)


def test_transformers_generates_what_was_evaluated(tp1: RunFolder) -> None:
    """Greedy responses of the last evaluation, by `generate` of transformers from the checkpoint alone."""
    tokenizer = AutoTokenizer.from_pretrained(tp1.path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tp1.path / "hf", dtype=torch.float32)
    records = tp1.evaluation(4)
    assert len({record["response"] for record in records}) > 3
    for record in records:
        ids = tokenizer(f"{record['question']} =", return_tensors="pt").input_ids
        output = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(output, skip_special_tokens=True) == record["response"]
        assert len(output) == record["tokens"]


def test_the_checkpoint_is_a_whole_model_folder(run: RunFolder) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(run.path / "hf", output_loading_info=True)
    assert not any(report.values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    given, own = AutoTokenizer.from_pretrained(TINY_MODEL), AutoTokenizer.from_pretrained(run.path / "hf")
    assert own("12 - 7 = 5")["input_ids"] == given("12 - 7 = 5")["input_ids"]
    assert own.eos_token_id == model.config.eos_token_id == given.eos_token_id
