"""A run of two steps with an engine in memory: what a step does in which order, and that its record is what happened.

The engine gives responses that the test knows. The model, the updates, the states and the files are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from parallel.layouts import PLATFORM
from safetensors.torch import load_file

from aspo_megatron.checkpoint.fingerprint import Fingerprint
from aspo_megatron.config import RunConfig, SamplingConfig
from aspo_megatron.config.io import save_config
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.data.split_over_ranks import Held
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.inputs.read import open_weights
from aspo_megatron.inputs.shared import SharedInputs
from aspo_megatron.metrics.progress import SilentProgress
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.update.micro_batches import PlannedGroups
from aspo_megatron.rewards.workers.pool import Reward
from aspo_megatron.rollout.engine import Deferred, Generation, Request, ServersLostError, WhenComplete
from distributed import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

MODEL = Path(__file__).parents[2] / "examples" / "tiny" / "model"
PROMPTS, RESPONSES, STEPS = 4, 3, 2
COEFFICIENT = 0.5
STATES = {"every": 1, "keep": STEPS, "async_save": False}
EXPORTS = {**STATES, "export_every": 1}
Weights = dict[str, torch.Tensor]


def response(problem: str, index: int) -> list[int]:
    """Token ids, the same in every step."""
    generator = np.random.default_rng(crc32(f"{problem} {index}".encode()))
    return generator.integers(5, 60, generator.integers(2, 7)).tolist()


def reward_of(text: str) -> float:
    return float(crc32(text.encode()) % 2)


class GivenResponses:
    """A `RolloutEngine` that is asked in `calls`, and keeps the weights that it is given, by version."""

    def __init__(self, calls: list[str], lost_in_version: int | None) -> None:
        self._calls, self._lost_in_version = calls, lost_in_version
        self.weights: dict[int, Weights] = {}

    def start(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        enough: int | None = None,
        when_complete: WhenComplete | None = None,
    ) -> Generation:
        return Deferred(lambda: self.generate(requests, sampling))

    def generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[list[Sample]]:
        self._calls.append("engine: generate")
        return [[self._sample(request, index) for index in range(request.count)] for request in requests]

    def _sample(self, request: Request, index: int) -> Sample:
        ids = np.array(response(request.problem.id, index))
        return Sample(
            problem_id=request.problem.id,
            group=request.group,
            prompt_ids=np.array(request.problem.prompt_ids),
            response_ids=ids,
            response_mask=np.ones(len(ids), dtype=np.bool_),
            rollout_log_probs=np.full(len(ids), -4.0, dtype=np.float32),
            weight_version=max(self.weights),
            finish_reason="stop",
        )

    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> dict[str, float]:
        self._calls.append(f"engine: weights {version}")
        weights = {name: tensor.clone() for name, tensor in tensors}
        if version == self._lost_in_version:
            raise ServersLostError("no server is left")
        self.weights[version] = weights
        return {"sync/bytes": 17.0}

    def prompt_log_probs(self, token_ids: Sequence[int]) -> dict[str, list[float]]:
        raise AssertionError("an embedded engine is not probed")

    def release_memory(self) -> None:
        self._calls.append("engine: release memory")

    def resume_memory(self, what: str) -> None:
        self._calls.append(f"engine: resume {what}")

    def await_servers(self, seconds: float) -> bool:
        return False

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True)
class Scored:
    """Rewards that are there."""

    rewards: list[Reward]

    def result(self) -> list[Reward]:
        return self.rewards


@dataclass(frozen=True)
class Scorer:
    """Rewards a text as `reward_of` does, or each with nothing."""

    nothing: bool

    def submit(self, items: Iterable[tuple[Problem, str]]) -> Scored:
        return Scored([Reward(0.0 if self.nothing else reward_of(text)) for _, text in items])


class Problems(Held):
    """All of them, in each rank."""

    digest = "these"

    def __init__(self, prefix: str, count: int) -> None:
        problems = [Problem(f"{prefix}{number}", f"{prefix}?", (3 + number, 7), "9") for number in range(count)]
        super().__init__(problems)
        self._by_id = {problem.id: problem for problem in problems}

    def named(self, ids: Iterable[str]) -> Mapping[str, Problem]:
        return {name: self._by_id[name] for name in ids}


class NeverStop:
    """Nobody asks to stop, and no save is under way, as none is asynchronous."""

    def agree(self, busy: bool, device: torch.device) -> tuple[bool, bool]:
        assert not busy
        return False, False


class Shown(SilentProgress):
    """Phases and finished steps go into `calls`, lines into `said`."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.said: list[str] = []

    def phase(self, label: str) -> None:
        self._calls.append(label)

    def update(self, step: int, *, reward: float, tokens_per_second: float, heldout: float | None = None) -> None:
        self._calls.append(f"step {step} is done")

    def message(self, text: str) -> None:
        self.said.append(text)


@dataclass
class Seen:
    """What a rank saw of a run."""

    calls: list[str]
    said: list[str]
    weights: dict[int, Weights]
    trained_on: dict[int, list[Sample]] = field(default_factory=dict)
    """This replica's samples of each step, as the updates had them."""
    summary: dict[str, Any] | None = None
    lost: str | None = None


def run_config(folder: Path, dp: int, **settings: Any) -> RunConfig:
    sections: dict[str, Any] = {
        "output_dir": folder,
        "model": {"path": MODEL, "init": "random"},
        "parallel": {"dp": dp},
        "data": {"train": {"kind": "jsonl", "path": "unused"}},
        "rollout": {"prompts_per_step": PROMPTS, "responses_per_prompt": RESPONSES, "servers": {"recovery_minutes": 0}},
        "loss": {"kl_coef": 0.01},
        "optimizer": {"lr": 1e-2},
        "train": {"steps": STEPS, "prompts_per_update": 2, "old_log_probs": "recompute"},
        "eval": {"every": 0, "max_problems": 2},
        "log": {"tensorboard": False, "samples_per_step": PROMPTS * RESPONSES},
        "checkpoint": STATES,
    }
    return RunConfig.model_validate({**sections, **settings})


def train(
    config: RunConfig, after: int | None = None, lost_in_version: int | None = None, no_rewards: bool = False
) -> Seen:
    """A run from its beginning, or from its state after a step, to its end or until its servers are lost."""
    with process_grid(config.parallel, PLATFORM, config.seed) as topology:
        from aspo_megatron.checkpoint.states.folders import step_folder
        from aspo_megatron.metrics.record import Recorder
        from aspo_megatron.parallel.model.policy import build_model
        from aspo_megatron.train.outputs import RunOutputs
        from aspo_megatron.train.trainer import Trainer

        calls: list[str] = []
        progress, engine = Shown(calls), GivenResponses(calls, lost_in_version)
        family = read_family(MODEL)
        problems: Any = Problems("p", PROMPTS)
        heldout: Any = Problems("h", 3)
        outside: Any = (Scorer(no_rewards), NeverStop())
        rewards, stop = outside
        recorders = []

        def record(after: int | None) -> Recorder:
            recorders.append(Recorder(config.output_dir, tensorboard=False, after_step=after, warn=progress.message))
            return recorders[0]

        if topology.is_leader:
            config.output_dir.mkdir(exist_ok=True)
            save_config(config, config.output_dir / "config.yaml")
        torch.distributed.barrier()
        inputs = SharedInputs(family, load_tokenizer(MODEL), problems, heldout)
        trainer = Trainer(
            config,
            inputs,
            build_model(family, topology, config.model, open_weights(config, family)),
            engine,
            rewards,
            RunOutputs(config, inputs, record if topology.is_leader else None, progress),
            stop,
        )
        seen = Seen(calls, progress.said, engine.weights)
        update = trainer._learner.update

        def watched(step: int, batches: Sequence[PlannedGroups]) -> dict[str, float]:
            seen.trained_on[step] = [sample for batch in batches for sample in batch.samples]
            return update(step, batches)

        trainer._learner.update = watched  # type: ignore[method-assign]
        try:
            seen.summary = trainer.run(None if after is None else step_folder(config.output_dir, after), Fingerprint())
        except ServersLostError as error:
            seen.lost = str(error)
        for recorder in recorders:
            recorder.__exit__(None, None, None)
    return seen


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def state(folder: Path, step: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "checkpoints" / f"step-{step:06d}" / "state.json").read_text())
    return content


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


GIVEN = ["engine: resume weights", "engine: weights {}", "engine: resume kv_cache"]
"""The calls of a sync; {} is the version."""


def sync(version: int) -> list[str]:
    return ["generate", "sync", *(call.format(version) for call in GIVEN)]


TRAINING = [
    *("generate", "engine: generate", "reward", "engine: release memory"),
    *("old log-probs", "reference log-probs", "update", "samples"),
]
EVALUATION = ["evaluate", "engine: generate"]


def test_a_step_in_its_order(ranks: Ranks, tmp_path: Path) -> None:
    """All ranks do the same, in the same order."""
    one, other = ranks.run(2, train, run_config(tmp_path / "run", dp=2))
    assert one.calls == other.calls
    assert one.calls == [
        *sync(0), *EVALUATION,
        *TRAINING, *sync(1), "step 1 is done", "save",
        *TRAINING, *sync(2), *EVALUATION, "step 2 is done", "save",
        "export",
    ]  # fmt: skip
    for version in range(STEPS + 1):
        assert same(one.weights[version], other.weights[version])
    assert one.summary is not None
    assert one.summary == {**other.summary, "seconds": one.summary["seconds"]}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def whole(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """The folder of a run that nothing disturbs and that exports after each step."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    (seen,) = ranks.run(1, train, run_config(folder, dp=1, checkpoint=EXPORTS))
    return folder, seen


def test_what_is_recorded_is_what_happened(whole: tuple[Path, Seen]) -> None:
    folder, seen = whole
    tokenizer: Any = load_tokenizer(MODEL)
    given = [response(f"p{number}", index) for number in range(PROMPTS) for index in range(RESPONSES)]
    rewards = [reward_of(tokenizer.decode(ids, skip_special_tokens=True)) for ids in given]
    tokens = sum(map(len, given)) + 2 * len(given)  # prompts are of two tokens
    before, *steps = lines(folder / "metrics.jsonl")
    assert [line["step"] for line in (before, *steps)] == [0, 1, 2]
    assert before.keys() == {"step", "eval/avg@1", "eval/pass@1", "eval/problems"}
    for line in steps:
        assert line["reward/mean"] == pytest.approx(sum(rewards) / len(rewards))
        assert line["response_tokens/mean"] == pytest.approx(sum(map(len, given)) / len(given))
        assert (line["tokens"], line["sync/bytes"], line["updates/skipped"]) == (tokens, 17.0, 0.0)
        assert ("eval/avg@1" in line) == (line["step"] == STEPS)
        timed = ("generate", "reward", "old_log_probs", "reference_log_probs", "update", "samples", "sync", "step")
        assert all(line[f"seconds/{name}"] >= 0.0 for name in timed)
    samples = lines(folder / "samples.jsonl")
    prompts = {f"p{number}": tokenizer.decode((3 + number, 7)) for number in range(PROMPTS)}
    assert all(sample["prompt"] == prompts[sample["problem"]] for sample in samples)
    evaluated = lines(folder / "eval" / "step-000000.jsonl")
    assert [record["prompt"] for record in evaluated] == [tokenizer.decode((3 + number, 7)) for number in range(2)]
    for step in (1, 2):
        shown = [sample for sample in samples if sample["step"] == step]
        assert sorted(sample["response"] for sample in shown) == sorted(map(tokenizer.decode, given))
        assert all(sample["weight_versions"] == [[step - 1, len(sample["tokens"])]] for sample in shown)
        assert all(sample["log_probs"] == [-4.0] * len(sample["tokens"]) for sample in shown)  # the engine's
        trained_on = [(s.problem_id, s.reward, s.advantage) for s in seen.trained_on[step]]
        assert sorted((s["problem"], s["reward"], s["advantage"]) for s in shown) == sorted(trained_on)
        assert sorted(reward for _, reward, _ in trained_on) == sorted(rewards)
        saved = state(folder, step)
        assert (saved["step"], saved["asked"], saved["tokens"]) == (step, step * PROMPTS, step * tokens)
        assert saved["problems"] == "these"
    assert state(folder, 1)["heldout_after"] == before["eval/avg@1"]
    assert state(folder, 2)["heldout_after"] == steps[1]["eval/avg@1"]
    assert seen.summary is not None
    assert json.loads((folder / "summary.json").read_text()) == seen.summary
    assert (seen.summary["heldout_problems"], seen.summary["tokens"]) == (2, STEPS * tokens)


def test_a_run_exports_what_it_trained(whole: tuple[Path, Seen]) -> None:
    folder, seen = whole
    for step in (1, 2):
        exported = folder / "exports" / f"step-{step:06d}" / "model.safetensors"
        assert same(load_file(exported), seen.weights[step])
    assert not same(seen.weights[0], seen.weights[1])
    assert same(load_file(folder / "hf" / "model.safetensors"), seen.weights[STEPS])
    done = [call for call in seen.calls if call in {"save", "export"} or call.startswith("step")]
    assert done == ["step 1 is done", "save", "export", "step 2 is done", "save", "export", "export"]


def test_a_run_without_a_signal_leaves_the_weights_alone(ranks: Ranks, tmp_path: Path) -> None:
    """All rewards agree. Of what rounding leaves of the gradient of a KL to the same model Adam would make steps."""
    folder = tmp_path / "run"
    (seen,) = ranks.run(1, train, run_config(folder, dp=1, checkpoint={"every": 0}), no_rewards=True)
    assert all(same(seen.weights[0], seen.weights[version]) for version in (1, 2))
    assert same(seen.weights[0], load_file(folder / "hf" / "model.safetensors"))
    assert [line["updates/skipped"] for line in lines(folder / "metrics.jsonl")[1:]] == [2.0, 2.0]
    why = "every prompt's rewards agree"
    nothing = f"no update was made, as there was nothing to learn from: {why}"
    assert seen.said[1:] == [
        f"warning: step 1: {nothing}",
        "held-out accuracy at step 2: 0.0%",
        f"warning: steps 1 to 2: {nothing}",
        f"warning: no step made an update, so the model is the one that the run began with: {why}",
    ]


def test_an_export_that_fails_costs_no_state_and_tokens_of_another_engine_are_masked(
    ranks: Ranks, tmp_path: Path
) -> None:
    """The engine says -4 of each token, which is far from what the trainer finds of some."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "exports").write_text("in the way")
    masked = {"rollout_correction": "icepop", "rollout_ratio_min": 0.2, "rollout_ratio_max": 0.3}
    (seen,) = ranks.run(1, train, run_config(folder, dp=1, checkpoint=EXPORTS, loss=masked))
    for step, line in enumerate(lines(folder / "metrics.jsonl")[1:], start=1):
        old = [sample.old_log_probs for sample in seen.trained_on[step] if sample.old_log_probs is not None]
        weights = []
        for update in (old[: len(old) // 2], old[len(old) // 2 :]):
            ratios = np.exp(np.concatenate(update) + 4.0)
            kept = (ratios >= 0.2) & (ratios <= 0.3)
            assert 0 < kept.sum() < len(kept)
            weights.append((ratios * kept).mean())
        assert line["rollout_correction/weight"] == pytest.approx(sum(weights) / 2, rel=1e-4)
    warnings = [line for line in seen.said if line.startswith("warning: ")]
    assert len(warnings) == STEPS
    assert all("exports" in line and line.endswith("; the run continues") for line in warnings)
    assert [state(folder, step)["step"] for step in (1, 2)] == [1, 2]
    assert same(load_file(folder / "hf" / "model.safetensors"), seen.weights[STEPS])


def test_a_step_with_a_kl_in_the_reward(ranks: Ranks, tmp_path: Path) -> None:
    """Advantages are those of rewards less the KL to the model as it began; there is none in the loss."""
    folder = tmp_path / "run"
    settings = {"loss": {"kl_coef": 0.0}, "shaping": {"kl_coef": COEFFICIENT, "kl_estimator": "k1"}}
    parts = ranks.run(2, train, run_config(folder, dp=2, **settings))
    _, first, second = lines(folder / "metrics.jsonl")
    assert "kl_ref" not in second
    assert first["reward/kl"] == pytest.approx(0.0, abs=1e-6)
    assert abs(second["reward/kl"]) > 1e-3
    samples = {step: [sample for part in parts for sample in part.trained_on[step]] for step in (1, 2)}
    began = {(s.problem_id, tuple(s.response_ids)): s.old_log_probs for s in samples[1]}
    groups: dict[int, list[tuple[float, float]]] = {}
    kls = []
    for sample in samples[2]:
        assert sample.old_log_probs is not None
        assert sample.ref_log_probs is not None
        start = began[sample.problem_id, tuple(sample.response_ids)]
        assert start is not None
        np.testing.assert_allclose(sample.ref_log_probs, start, atol=1e-5)
        kls.append(float((sample.old_log_probs.astype(np.float64) - sample.ref_log_probs).sum()))
        groups.setdefault(sample.group, []).append((sample.reward - COEFFICIENT * kls[-1], sample.advantage))
    assert second["reward/kl"] == pytest.approx(sum(kls) / len(kls))
    assert len(groups) == PROMPTS
    for group in groups.values():
        values, advantages = np.array(group).T
        np.testing.assert_allclose(advantages, (values - values.mean()) / (values.std(ddof=1) + 1e-6), rtol=1e-6)


def test_servers_that_are_lost_in_a_sync_leave_the_run_after_its_step(
    ranks: Ranks, tmp_path: Path, whole: tuple[Path, Seen]
) -> None:
    folder = tmp_path / "run"
    config = run_config(folder, dp=1, checkpoint={"every": 0, "async_save": False})
    (lost,) = ranks.run(1, train, config, lost_in_version=1)
    assert lost.lost == "no server is left; with servers the same command resumes after step 1"
    assert lost.calls[-2:] == ["step 1 is done", "save"]
    assert [line["step"] for line in lines(folder / "metrics.jsonl")] == [0, 1]
    assert (state(folder, 1)["step"], state(folder, 1)["heldout_after"]) == (1, None)
    (again,) = ranks.run(1, train, config, after=1)
    assert again.calls[:6] == ["load state", *sync(1)]
    assert again.calls[6:8] == EVALUATION
    assert list(again.trained_on) == [2]
    assert "sync/bytes" in lines(folder / "metrics.jsonl")[-1]
    _, undisturbed = whole
    assert same(again.weights[STEPS], undisturbed.weights[STEPS])
    assert again.summary is not None
    assert undisturbed.summary is not None
    assert again.summary == {**undisturbed.summary, "seconds": again.summary["seconds"]}
