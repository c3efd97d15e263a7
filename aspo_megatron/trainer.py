"""The training loop: rollouts, rewards, advantages, updates, weight sync, evaluation. No parallelism is in sight.

Every rank runs this same loop (SPMD). Each generates and scores its share of the prompts; each data-parallel replica
then trains on its share of the samples.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from aspo_megatron import losses
from aspo_megatron.checkpoint.hf import write_folder
from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.data.stream import ProblemStream
from aspo_megatron.errors import UserError
from aspo_megatron.evaluate import Evaluation, evaluate
from aspo_megatron.inputs import Inputs
from aspo_megatron.losses import Stat
from aspo_megatron.losses.advantages import group_relative
from aspo_megatron.metrics.plots import draw_curves
from aspo_megatron.metrics.progress import ProgressDisplay
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.parallel.exchange import to_replicas
from aspo_megatron.parallel.model import PolicyModel
from aspo_megatron.parallel.objective import PolicyObjective
from aspo_megatron.parallel.optimizer import Optimizer
from aspo_megatron.parallel.statistics import StepStatistics
from aspo_megatron.parallel.step import PassLimits, UpdateResult, aggregation_of, score, update
from aspo_megatron.rewards.pool import RewardPool
from aspo_megatron.rollout.engine import Request, RolloutEngine

_ROLLOUT_STREAM = 0
"""Separates the random numbers of rollouts from those of evaluation."""

Groups = list[list[Sample]]


class Trainer:
    """One run. `recorder` is None on every rank but the leader."""

    def __init__(
        self,
        config: RunConfig,
        inputs: Inputs,
        model: PolicyModel,
        engine: RolloutEngine,
        rewards: RewardPool,
        recorder: Recorder | None,
        progress: ProgressDisplay,
    ) -> None:
        self._config, self._inputs, self._model, self._engine = config, inputs, model, engine
        self._rewards, self._recorder, self._progress = rewards, recorder, progress
        self._topology = model.topology
        self._reference = model.copy().requires_grad_(False) if config.loss.kl_coef else None
        rollout, train = config.rollout, config.train
        self._updates_per_step = rollout.prompts_per_step // train.prompts_per_update * train.epochs
        self._optimizer = Optimizer(
            model,
            config.optimizer,
            train.steps * self._updates_per_step,
            distributed_optimizer=config.parallel.distributed_optimizer,
        )
        self._objective = PolicyObjective(losses.build(config.loss.name, config.loss.hyperparameters), config.loss)
        self._weighting = aggregation_of(config.loss, rollout.sampling.max_response_tokens)
        self._limits = PassLimits(train.max_tokens_per_micro_batch, train.log_prob_chunk, rollout.sampling.temperature)
        self._stream = ProblemStream(inputs.train, config.seed)
        self._seconds: dict[str, float] = {}
        self._tokens = 0
        self._heldout: float | None = None

    def run(self) -> dict[str, Any]:
        """Train, evaluate before, during and after, export; returns what summary.json holds."""
        started = time.perf_counter()
        self._sync(version=0)
        before = self._evaluate(step=0)
        after = before
        steps, every = self._config.train.steps, self._config.eval.every
        for step in range(1, steps + 1):
            self._seconds = {}
            began = time.perf_counter()
            groups, metrics = self._rollout(step)
            batches = to_replicas(groups, self._config.train.prompts_per_update, self._topology)
            self._score(batches)
            metrics |= self._update(batches)
            self._sync(version=step)
            tokens = int(metrics["tokens"])
            self._tokens += tokens
            elapsed = time.perf_counter() - began
            metrics |= {"tokens_per_second": tokens / elapsed, "seconds/step": elapsed}
            if step == steps or (every and step % every == 0):
                after = self._evaluate(step)
                metrics |= after.metrics() if after else {}
            self._record(step, metrics)
        self._export()
        return self._summarize(before, after, time.perf_counter() - started)

    # ---- one method an arrow ---------------------------------------------------------------------------------

    def _rollout(self, step: int) -> tuple[Groups, dict[str, float]]:
        """This rank's share of the step's groups, with rewards and advantages."""
        config, topology = self._config.rollout, self._topology
        asked = list(enumerate(self._stream.take(config.prompts_per_step)))[topology.rank :: topology.world_size]
        requests = [
            Request(problem, config.responses_per_prompt, (self._config.seed, _ROLLOUT_STREAM, step, number), number)
            for number, problem in asked
        ]
        with self._phase("generate"):
            groups = self._engine.generate(requests, config.sampling)
        with self._phase("reward"):
            texts = [[self._decode(sample) for sample in group] for group in groups]
            scored = self._rewards.score(
                (request.problem, text) for request, group in zip(requests, texts, strict=True) for text in group
            )
        samples = [sample for group in groups for sample in group]
        for sample, reward in zip(samples, scored, strict=True):
            sample.reward = reward.value
        advantages = group_relative(
            np.array([sample.reward for sample in samples]),
            np.array([sample.group for sample in samples]),
            self._config.advantage.normalize_std,
        )
        for sample, advantage in zip(samples, advantages.tolist(), strict=True):
            sample.advantage = advantage
        self._record_samples(step, requests, groups, texts)
        metrics = _rollout_metrics(groups, [reward.error is not None for reward in scored])
        if metrics["reward/failed"] == 1.0:
            error = scored[0].error if scored else "see the other ranks' logs"
            raise UserError(f"reward.kind={self._config.reward.kind}: no response of step {step} was scored ({error})")
        return groups, metrics

    def _score(self, batches: Sequence[Groups]) -> None:
        """Old and reference log-probs of every sample."""
        groups = [group for batch in batches for group in batch]
        with self._phase("old log-probs"):
            if self._config.train.old_log_probs == "recompute":
                for sample, log_probs in score(self._model, groups, self._limits):
                    sample.old_log_probs = log_probs
            else:
                for group in groups:
                    for sample in group:
                        sample.old_log_probs = sample.rollout_log_probs
        if self._reference is not None:
            with self._phase("reference log-probs"):
                for sample, log_probs in score(self._reference, groups, self._limits):
                    sample.ref_log_probs = log_probs

    def _update(self, batches: Sequence[Groups]) -> dict[str, float]:
        """All optimizer updates of a step; their figures, averaged over the updates."""
        results: list[UpdateResult] = []
        with self._phase("update"):
            for _ in range(self._config.train.epochs):
                for batch in batches:
                    results.append(
                        update(
                            self._model,
                            self._optimizer,
                            batch,
                            self._objective,
                            self._weighting,
                            self._limits,
                            self._config.loss.router_aux_coef,
                        )
                    )
        done = [result for result in results if not result.skipped]
        metrics = {"updates/skipped": float(len(results) - len(done))}
        if not done:
            return metrics
        for name in sorted({name for result in done for name in result.stats}):
            values = [result.stats[name] for result in done if name in result.stats]
            # Engine and trainer hold the same weights in the first update only.
            metrics[name] = values[0] if name.startswith("engine_log_prob_diff/") else sum(values) / len(values)
        return metrics | {
            "loss/total": sum(result.loss for result in done) / len(done),
            "grad_norm": sum(result.grad_norm for result in done) / len(done),
            "lr": done[-1].lr,
        }

    def _sync(self, version: int) -> None:
        """Give the engine the trained weights."""
        with self._phase("sync"):
            self._engine.update_weights(self._model.hf_tensors(), version)

    def _evaluate(self, step: int) -> Evaluation | None:
        if not self._inputs.heldout:
            return None
        with self._phase("evaluate"):
            result = evaluate(
                self._engine,
                self._rewards,
                self._inputs.tokenizer,
                self._inputs.heldout,
                self._config.eval,
                self._config.eval.sampling or self._config.rollout.sampling,
                self._config.seed,
                self._topology.rank,
                self._topology.world_size,
            )
        self._heldout = result.average
        if self._recorder:
            result.write(self._config.output_dir / "eval" / f"step-{step:06d}.jsonl")
            if step == 0:
                self._recorder.log(0, result.metrics())
        self._progress.message(f"held-out accuracy at step {step}: {result.average:.1%}")
        return result

    def _export(self) -> None:
        """Write the trained weights as a Hugging Face folder."""
        with self._phase("export"):
            tensors = self._model.hf_tensors()
            if self._recorder:
                write_folder(
                    self._config.output_dir / "hf",
                    tensors,
                    self._inputs.family.hf_config | {"dtype": self._config.model.dtype},
                    tokenizer_from=self._config.model.path,
                )
            for _ in tensors:  # the other ranks give their shards
                pass

    # ---- what is written -------------------------------------------------------------------------------------

    @contextmanager
    def _phase(self, label: str) -> Iterator[None]:
        self._progress.phase(label)
        began = time.perf_counter()
        yield
        name = f"seconds/{label.replace(' ', '_').replace('-', '_')}"
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    def _decode(self, sample: Sample) -> str:
        text: str = self._inputs.tokenizer.decode(sample.response_ids, skip_special_tokens=True)
        return text

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        if self._recorder:
            self._recorder.log(step, metrics | self._seconds)
        self._progress.update(
            step,
            reward=metrics["reward/mean"],
            tokens_per_second=metrics["tokens_per_second"],
            heldout=self._heldout,
        )

    def _record_samples(
        self, step: int, requests: Sequence[Request], groups: Groups, texts: Sequence[Sequence[str]]
    ) -> None:
        if self._recorder is None:
            return
        records = [
            {
                "problem": request.problem.id,
                "question": request.problem.question,
                "answer": request.problem.answer,
                "response": text,
                "reward": sample.reward,
                "advantage": sample.advantage,
                "finish_reason": sample.finish_reason,
            }
            for request, group, group_texts in zip(requests, groups, texts, strict=True)
            for sample, text in zip(group, group_texts, strict=True)
        ]
        self._recorder.log_samples(step, records[: self._config.log.samples_per_step])

    def _summarize(self, before: Evaluation | None, after: Evaluation | None, seconds: float) -> dict[str, Any]:
        summary = {
            "heldout_before": before.average if before else None,
            "heldout_after": after.average if after else None,
            "heldout_problems": len(self._inputs.heldout[: self._config.eval.max_problems]),
            "seconds": seconds,
            "steps": self._config.train.steps,
            "tokens": self._tokens,
        }
        if self._recorder:
            folder = self._config.output_dir
            (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
            draw_curves([folder], folder / "curves.png")
        return summary


def _rollout_metrics(groups: Groups, failed: Sequence[bool]) -> dict[str, float]:
    """Means over all responses of the step, on all ranks."""
    samples = [sample for group in groups for sample in group]

    def over_samples(values: Sequence[float]) -> Stat:
        return Stat(torch.tensor(values, dtype=torch.float64), torch.ones(len(values)))

    agree = [float(len({sample.reward for sample in group}) == 1) for group in groups]
    statistics = StepStatistics()
    statistics.add(
        {
            "reward/mean": over_samples([sample.reward for sample in samples]),
            "reward/failed": over_samples([float(value) for value in failed]),
            "groups/all_agree": over_samples(agree),
            "response_tokens/mean": over_samples([float(len(sample.response_ids)) for sample in samples]),
            "response_tokens/cut": over_samples([float(sample.finish_reason == "length") for sample in samples]),
            "tokens_per_sample": over_samples([float(sample.num_tokens) for sample in samples]),
            "samples_per_rank": Stat(torch.tensor([float(len(samples))]), torch.ones(1)),
        }
    )
    metrics = statistics.reduce()
    total = metrics.pop("samples_per_rank") * torch.distributed.get_world_size()
    return metrics | {"tokens": metrics.pop("tokens_per_sample") * total}
