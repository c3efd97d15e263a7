"""The training loop: rollouts, rewards, advantages, updates, weight sync, evaluation. No parallelism is in sight.

Every rank runs this same loop (SPMD). Each generates and scores its share of the prompts; each data-parallel replica
then trains on its share of the samples.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aspo_megatron import losses
from aspo_megatron.checkpoint.card import model_card
from aspo_megatron.checkpoint.hf import write_folder
from aspo_megatron.checkpoint.training import StateSaver, TrainerState, load_state, problems_digest
from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.data.stream import ProblemStream
from aspo_megatron.errors import CheckpointError, UserError
from aspo_megatron.evaluate import evaluate
from aspo_megatron.inputs import Inputs
from aspo_megatron.losses.advantages import group_relative
from aspo_megatron.metrics.plots import draw_curves
from aspo_megatron.metrics.progress import ProgressDisplay
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.parallel.exchange import to_replicas
from aspo_megatron.parallel.model import PolicyModel
from aspo_megatron.parallel.objective import PolicyObjective
from aspo_megatron.parallel.optimizer import Optimizer
from aspo_megatron.parallel.step import PassLimits, UpdateResult, aggregation_of, score, update
from aspo_megatron.rewards.pool import RewardPool
from aspo_megatron.rollout.engine import Request, RolloutEngine
from aspo_megatron.step_metrics import rollout_metrics, update_metrics
from aspo_megatron.stop import StopRequest

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
        stop: StopRequest,
    ) -> None:
        """`model` has the weights that the run starts with, from the beginning: the KL refers to them."""
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
        self._saver = StateSaver(config, inputs.family, model, self._optimizer, progress.message)
        self._stop = stop
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()
        self._at = TrainerState(0, 0, 0, 0.0, None, None, "")

    def run(self, state: Path | None) -> dict[str, Any] | None:
        """Train, evaluate before, during and after, export; returns what summary.json holds.

        Args:
            state: a saved state of this run to go on from; None to begin.

        Returns:
            None if the run was asked to stop: its state is saved then.
        """
        started = time.perf_counter()
        steps, every = self._config.train.steps, self._config.eval.every
        if state is not None:
            self._load(state)
        self._started = started - self._at.seconds
        self._sync(version=self._at.step)
        if self._at.step == 0:
            before = self._evaluate(step=0)
            self._at = replace(self._at, heldout_before=before, heldout_after=before)
        for step in range(self._at.step + 1, steps + 1):
            if self._must_stop():
                return None
            self._seconds = {}
            began = time.perf_counter()
            groups, metrics = self._rollout(step)
            batches = to_replicas(groups, self._config.train.prompts_per_update, self._topology)
            self._score(batches)
            metrics |= self._update(batches)
            self._sync(version=step)
            tokens = int(metrics["tokens"])
            elapsed = time.perf_counter() - began
            metrics |= {"tokens_per_second": tokens / elapsed, "seconds/step": elapsed}
            after = self._at.heldout_after
            if step == steps or (every and step % every == 0):
                after = self._evaluate(step, metrics)
            self._at = replace(
                self._at,
                step=step,
                asked=self._stream.position,
                tokens=self._at.tokens + tokens,
                heldout_after=after,
            )
            self._record(step, metrics)
            self._keep()
        self._saver.finish()
        self._export(self._config.output_dir / "hf")
        return self._summarize()

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
        metrics = rollout_metrics(groups, [reward.error is not None for reward in scored])
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
        return update_metrics(results)

    def _sync(self, version: int) -> None:
        """Give the engine the trained weights."""
        with self._phase("sync"):
            self._engine.update_weights(self._model.hf_tensors(), version)

    def _evaluate(self, step: int, metrics: dict[str, float] | None = None) -> float | None:
        """Accuracy on the held-out problems, which also goes into `metrics`, or into a line of its own."""
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
        if self._recorder:
            result.write(self._config.output_dir / "eval" / f"step-{step:06d}.jsonl")
            if metrics is None:
                self._recorder.log(step, result.metrics())
        if metrics is not None:
            metrics |= result.metrics()
        self._progress.message(f"held-out accuracy at step {step}: {result.average:.1%}")
        return result.average

    # ---- what a run goes on from -----------------------------------------------------------------------------

    def _load(self, state: Path) -> None:
        """Stand where the run stood."""
        with self._phase("load state"):
            self._at = load_state(state, self._model, self._optimizer, self._config.parallel)
        self._stream.position = self._at.asked
        if self._at.problems != problems_digest(self._inputs.train):
            self._progress.message("warning: data.train gives other problems than before; the run goes on with them")
        self._progress.message(f"going on after step {self._at.step}, from {state}")

    def _keep(self) -> None:
        """Save or export what is due after a step."""
        config, step = self._config.checkpoint, self._at.step
        if config.every and (step % config.every == 0 or step == self._config.train.steps):
            self._save()
        if config.export_every and step % config.export_every == 0:
            self._export_beside()

    def _must_stop(self) -> bool:
        """Whether a signal has asked to stop; then all is saved. Also completes a save that is written."""
        stop, writing = self._stop.agree(self._saver.writing, self._topology.platform.device)
        if stop:
            self._save()
            if self._at.step:
                self._export_beside()
            self._saver.finish()
        elif not writing:
            self._saver.finish()
        return stop

    def _save(self) -> None:
        with self._phase("save"):
            if self._recorder:
                self._recorder.flush()
            seconds = time.perf_counter() - self._started
            self._saver.save(replace(self._at, seconds=seconds, problems=problems_digest(self._inputs.train)))

    def _export_beside(self) -> None:
        """Export into a folder of this step's own; without room for it the run goes on."""
        folder = self._config.output_dir / "exports" / f"step-{self._at.step:06d}"
        try:
            self._export(folder)
        except CheckpointError as error:  # on the leader alone, which has drawn all tensors
            self._progress.message(f"warning: {error}; the run goes on")

    def _export(self, folder: Path) -> None:
        """Write the trained weights as a Hugging Face folder. A collective."""
        with self._phase("export"):
            tensors = self._model.hf_tensors()
            try:
                if self._recorder:
                    at = self._at
                    write_folder(
                        folder,
                        tensors,
                        self._inputs.family.hf_config | {"dtype": self._config.model.dtype},
                        tokenizer_from=self._config.model.path,
                        card=model_card(self._config, at.step, at.tokens, at.heldout_before, at.heldout_after),
                        replace=True,
                    )
            finally:
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
            heldout=self._at.heldout_after,
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

    def _summarize(self) -> dict[str, Any]:
        summary = {
            "heldout_before": self._at.heldout_before,
            "heldout_after": self._at.heldout_after,
            "heldout_problems": len(self._inputs.heldout[: self._config.eval.max_problems]),
            "seconds": time.perf_counter() - self._started,
            "steps": self._config.train.steps,
            "tokens": self._at.tokens,
        }
        if self._recorder:
            folder = self._config.output_dir
            draw_curves([folder], folder / "curves.png")
            # Last, and at once: it says that the run is finished.
            (folder / "summary.json.partial").write_text(json.dumps(summary, indent=2) + "\n")
            (folder / "summary.json.partial").replace(folder / "summary.json")
        return summary
