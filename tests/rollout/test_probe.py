"""Proofs that servers compute as the trainer does: rounding ends no run, another model does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aspo_megatron.config import RunConfig, SamplingConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import UserError
from aspo_megatron.train import policy_engine
from aspo_megatron.train.policy_engine import PolicyEngine

VOCABULARY = 97


class Trainer:
    """Servers and a trainer, by whose log-probs they differ; what the servers were asked for, and what was told."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        dtype: str,
        experts: int = 0,
        tolerance: float | None = None,
        fp8: str = "none",
        server_arguments: tuple[str, ...] = (),
    ) -> None:
        self.noise: Sequence[float] = (0.0,)
        self.noise_of_another: Sequence[float] | None = None  # of a second server, if there is one
        self.asked: list[list[int]] = []
        self.told: list[str] = []
        self.groups: list[list[Sample]] = []
        self._expected = np.zeros(0, dtype=np.float32)
        monkeypatch.setattr(policy_engine, "response_log_probs", self._score)
        engine: Any = SimpleNamespace(
            update_weights=lambda tensors, version: {},
            prompt_log_probs=self._prompt_log_probs,
            start=lambda *arguments: SimpleNamespace(finish=lambda: self.groups),
        )
        shape = SimpleNamespace(vocab_size=VOCABULARY, num_experts=experts)
        model: Any = SimpleNamespace(shape=shape, hf_tensors=lambda bucket_bytes: [])
        servers = {"probe_every": 10, "probe_tolerance": tolerance, "extra_args": server_arguments}
        settings = {
            "output_dir": "run",
            "model": {"path": ".", "dtype": dtype, "kernels": {"fp8": fp8}},
            "data": {"train": {"kind": "jsonl", "path": "p"}},
            "rollout": {"engine": "sglang", "servers": servers},
        }
        self.engine = PolicyEngine(RunConfig.model_validate(settings), model, engine, self.told.append, lambda: None)

    def _score(self, model: Any, groups: list[list[Sample]], limits: Any) -> Iterator[tuple[Sample, np.ndarray]]:
        ((sample,),) = groups
        drawn = np.random.default_rng(1).exponential(2.0, len(sample.response_ids))
        self._expected = -drawn.astype(np.float32)
        yield sample, self._expected

    def _prompt_log_probs(self, tokens: list[int]) -> dict[str, list[float]]:
        self.asked.append(tokens)
        of_prompt = [-50.0] * (len(tokens) - 1 - len(self._expected))
        by = {"http://a:1": self.noise, "http://b:1": self.noise_of_another}
        return {
            name: of_prompt + (self._expected + np.resize(noise, len(self._expected))).tolist()
            for name, noise in by.items()
            if noise is not None
        }


def sample(prompt: Sequence[int], response: Sequence[int]) -> Sample:
    size = len(response)
    return Sample(
        problem_id="p",
        group=0,
        prompt_ids=np.array(prompt),
        response_ids=np.array(response),
        response_mask=np.ones(size, dtype=np.bool_),
        rollout_log_probs=np.zeros(size, dtype=np.float32),
        weight_version=0,
        finish_reason="stop",
    )


@pytest.mark.parametrize(("dtype", "experts", "noise"), [("bfloat16", 0, 0.15), ("bfloat16", 64, 0.4)])
def test_rounding_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch, dtype: str, experts: int, noise: float) -> None:
    trainer = Trainer(monkeypatch, dtype, experts)
    trainer.noise = (noise, -noise, 0.0)
    assert trainer.engine.sync(0)["sync/probe_difference"] == pytest.approx(noise, rel=1e-3)
    assert trainer.told == []


def test_a_few_tokens_may_be_far_off(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch, "bfloat16")
    trainer.noise = (8.0, *[0.01] * 29)
    assert trainer.engine.sync(0)["sync/probe_difference"] == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 3e-4), ("bfloat16", 0.6)])
def test_a_doubt_is_told_proved_at_the_next_sync_and_then_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, dtype: str, noise: float
) -> None:
    trainer = Trainer(monkeypatch, dtype)
    trainer.noise = (noise,)
    trainer.engine.sync(0)
    (told,) = trainer.told
    assert told.startswith("warning: http://a:1 computes other log-probs than the trainer")
    assert "rollout.servers.probe_tolerance" in told
    with pytest.raises(UserError, match="is it a server of another model or precision"):
        trainer.engine.sync(1)


def test_a_doubt_that_is_cured_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch, "bfloat16", tolerance=0.1)
    trainer.noise = (0.2,)
    trainer.engine.sync(0)
    trainer.noise = (0.0,)
    for version in range(1, 10):
        trainer.engine.sync(version)
    assert len(trainer.asked) == 2
    trainer.noise = (0.2,)
    trainer.engine.sync(10)
    assert len(trainer.told) == 2


def test_a_server_is_doubted_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch, "bfloat16")
    trainer.noise, trainer.noise_of_another = (0.3,), (0.0,)
    trainer.engine.sync(0)
    trainer.noise, trainer.noise_of_another = (0.0,), (0.3,)
    trainer.engine.sync(1)
    assert ["http://a:1" in trainer.told[0], "http://b:1" in trainer.told[1]] == [True, True]
    with pytest.raises(UserError, match="http://b:1 computes other log-probs"):
        trainer.engine.sync(2)


@pytest.mark.parametrize(
    "quantised",
    [{"fp8": "hybrid"}, {"server_arguments": ("--quantization", "fp8")}, {"server_arguments": ("--quantization=fp8",)}],
)
def test_where_one_side_quantises_a_difference_ends_the_run_only_if_the_user_has_set_it(
    monkeypatch: pytest.MonkeyPatch, quantised: dict[str, Any]
) -> None:
    trainer = Trainer(monkeypatch, "bfloat16", **quantised)
    trainer.noise = (0.4,)
    trainer.engine.sync(0)
    assert not trainer.told
    trainer.noise = (4.0,)
    for version in range(1, 21):
        trainer.engine.sync(version)
    assert [told.startswith("warning: http://a:1 computes other log-probs") for told in trainer.told] == [True, True]
    strict = Trainer(monkeypatch, "bfloat16", tolerance=0.3, **quantised)
    strict.noise = (0.4,)
    strict.engine.sync(0)
    with pytest.raises(UserError, match=r"beyond 0\.3"):
        strict.engine.sync(1)


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 0.01), ("bfloat16", 1.5), ("bfloat16", float("nan"))])
def test_another_model_ends_the_run_at_once(monkeypatch: pytest.MonkeyPatch, dtype: str, noise: float) -> None:
    trainer = Trainer(monkeypatch, dtype)
    trainer.noise = (noise,)
    with pytest.raises(UserError, match="http://a:1 computes other log-probs"):
        trainer.engine.sync(0)


def test_what_is_proved_is_a_response_to_a_prompt_once_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(monkeypatch, "float32")
    trainer.engine.sync(0)
    assert len(trainer.asked[0]) == 64
    # Servers score the vocabulary's last token wrongly in a prompt.
    trainer.groups = [[sample([3, VOCABULARY - 1], [5])], [sample([7, 8, 9], [10, 11]), sample([7, 8, 9], [12])]]
    trainer.engine.generate([], SamplingConfig())
    for version in range(1, 11):
        trainer.engine.sync(version)
    assert trainer.asked[1] == [7, 8, 9, 10, 11]
    trainer.groups = [[sample(range(1, 90), [4] * 2000)]]
    trainer.engine.generate([], SamplingConfig())
    for version in range(11, 21):
        trainer.engine.sync(version)
    assert trainer.asked[2] == [*range(1, 90), *[4] * 256]
