"""The training loop. `Trainer.step` is one step on one page; no parallelism is in sight.

Every rank runs this same loop (SPMD). Each generates and scores its share of the prompts; each data-parallel replica
then trains on its share of the samples.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from aspo_megatron.checkpoint.fingerprint import Fingerprint
from aspo_megatron.checkpoint.states.trainer_state import TrainerState, noted_weights
from aspo_megatron.config import RunConfig
from aspo_megatron.data.prompt_sampler import PromptSampler, SamplerState
from aspo_megatron.data.stream import ProblemStream
from aspo_megatron.errors import AgreedError
from aspo_megatron.evaluation.evaluator import evaluate
from aspo_megatron.folders import TRAINED_MODEL
from aspo_megatron.inputs.shared import SharedInputs
from aspo_megatron.launch.stop import StopRequest
from aspo_megatron.parallel.grid.exchange import to_replicas
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rollout.engine import RolloutEngine, ServersLostError
from aspo_megatron.train.advantages import set_advantages
from aspo_megatron.train.collector import Collector
from aspo_megatron.train.learner import Learner
from aspo_megatron.train.outputs import RunOutputs
from aspo_megatron.train.phase_timer import PhaseTimer
from aspo_megatron.train.policy_engine import PolicyEngine
from aspo_megatron.train.save_and_resume import SaveAndResume
from aspo_megatron.train.step_metrics import rollout_metrics, staleness_metrics


class Trainer:
    """One run."""

    def __init__(
        self,
        config: RunConfig,
        inputs: SharedInputs,
        model: PolicyModel,
        engine: RolloutEngine,
        rewards: RewardPool,
        outputs: RunOutputs,
        stop: StopRequest,
    ) -> None:
        """`model` has the weights that the run starts with, from the beginning: the KL refers to them."""
        self._config, self._inputs, self._rewards, self._outputs = config, inputs, rewards, outputs
        tell, rollout, self._topology = outputs.progress.message, config.rollout, model.topology
        self._phases = PhaseTimer(config, model, outputs.progress)
        self._learner = Learner(config, model, self._phases, tell)
        self._engine = PolicyEngine(config, model, engine, tell, self._learner.release_memory)
        self._sampler = PromptSampler(
            ProblemStream(inputs.train, config.seed),
            rollout.prompts_per_step,
            rollout.cut_off,
            self._topology.rank,
            self._topology.world_size,
        )
        self._collector = Collector(
            config, self._engine, rewards, inputs.tokenizer, self._sampler, self._topology, self._phases
        )
        self._states = SaveAndResume(config, inputs, self._learner, outputs, self._phases, stop)
        self._state = TrainerState(0, 0, 0, 0.0, None, None, "")
        self._started = time.perf_counter()

    def run(self, saved: Path | None, weights: Fingerprint) -> dict[str, Any] | None:
        """Train, evaluate before, during and after, export; returns what summary.json holds.

        Args:
            saved: a saved state of this run to go on from; None to begin.
            weights: of the weights in `model.path`; an empty one where they are random.

        Returns:
            None if the run was asked to stop: its state is saved then.
        """
        started = time.perf_counter()
        if saved is not None:
            self._state = self._states.load(saved, weights)
            self._sampler.load_state(SamplerState(self._state.asked, tuple(self._state.carried)))
        self._state = noted_weights(self._state, weights)
        self._outputs.begin(None if saved is None else self._state.step)
        self._started = started - self._state.seconds
        self._sync(version=self._state.step)
        if self._state.heldout_after is None:  # the run begins, or its servers were lost before they were asked
            after = self._evaluate(self._state.step)
            before = self._state.heldout_before if self._state.step else after
            self._state = replace(self._state, heldout_before=before, heldout_after=after)
        self._states.export_missing(self._now)
        for step in range(self._state.step + 1, self._config.train.steps + 1):
            if self._states.must_stop(self._now):
                return None
            try:
                with self._phases.step(step):
                    self.step(step)
            except ServersLostError as lost:
                self._states.save(self._now)
                self._states.finish()
                cure = f"with servers the same command resumes after step {self._state.step}"
                raise ServersLostError(f"{lost}; {cure}") from lost
            except AgreedError:
                self._states.finish()  # else the state before, which is written, would have no name yet
                raise
            self._states.keep(self._now)
        self._states.finish()
        self._outputs.flush()  # a run is not finished while lines wait for room on the disk
        self._states.export(self._state, self._config.output_dir / TRAINED_MODEL)
        self._learner.tell_if_no_update()
        return self._outputs.summarize(self._now)

    def step(self, step: int) -> None:
        """A rollout and its updates. Without servers it stops before the updates, or goes without an evaluation.

        Raises:
            ServersLostError: then this step or the one before is the last finished one.
        """
        config, began = self._config, time.perf_counter()

        # Generate: responses and their rewards.
        rollout = self._collector.collect(step)
        self._states.complete_written()
        self._engine.release_memory()
        metrics = rollout_metrics(rollout)
        if config.rollout.engine == "sglang":
            metrics |= staleness_metrics(rollout, version=step - 1)

        # Exchange: each replica is handed the groups that it trains on, mini-batch by mini-batch.
        batches = to_replicas(rollout.groups, config.train.prompts_per_update, self._topology, config.mini_batches)

        # Log-probs: old and reference log-probs. Then advantages, and the updates.
        planned = self._learner.plan(batches)
        self._learner.add_log_probs(planned)
        metrics |= set_advantages(batches, config, self._topology)
        metrics |= self._learner.update(step, planned)
        self._states.complete_written()
        self._outputs.record_samples(step, self._learner.shown_tokens(batches), self._learner.loss)
        self._phases.count_work([group for batch in batches for group in batch], self._learner.needs_log_probs(batches))

        # Sync and evaluate: the engine is given the trained weights.
        lost, heldout = None, self._state.heldout_after
        try:
            metrics |= self._sync(version=step)
            metrics["seconds/step"] = time.perf_counter() - began
            if self._evaluates(step):
                heldout = self._evaluate(step, metrics)
        except ServersLostError as error:
            lost, heldout = error, None

        # Record, also where the servers are lost: this step is finished then.
        tokens = int(metrics["tokens"])
        metrics["tokens_per_second"] = tokens / metrics.setdefault("seconds/step", time.perf_counter() - began)
        self._state = replace(
            self._state,
            step=step,
            asked=self._sampler.state.asked,
            carried=list(self._sampler.state.carried),
            tokens=self._state.tokens + tokens,
            heldout_after=heldout,
        )
        self._outputs.record_step(step, metrics | self._phases.seconds, heldout)
        if lost is not None:
            raise lost

    @property
    def _now(self) -> TrainerState:
        """The state as it would be saved now."""
        return replace(self._state, seconds=time.perf_counter() - self._started)

    def _sync(self, version: int) -> dict[str, float]:
        """Give the engine the trained weights; what to log of it. Responses in flight are waited for, or go on."""
        with self._phases("generate"):
            self._engine.wait_in_flight()
        with self._phases("sync"):
            return self._engine.sync(version)

    def _evaluates(self, step: int) -> bool:
        every = self._config.eval.every
        return step == self._config.train.steps or bool(every and step % every == 0)

    def _evaluate(self, step: int, metrics: dict[str, float] | None = None) -> float | None:
        """Accuracy on the held-out problems, whose metrics go into `metrics`, or into a line of their own.

        Returns:
            avg@K; None without such problems.
        """
        if not self._inputs.heldout:
            return None
        with self._phases("evaluate"):
            result = evaluate(
                self._engine,
                self._rewards,
                self._inputs.tokenizer,
                self._inputs.heldout,
                self._config.eval,
                self._config.eval_sampling,
                self._config.seed,
                self._topology.rank,
                self._topology.world_size,
            )
        self._outputs.record_evaluation(step, result, own_line=metrics is None)
        if metrics is not None:
            metrics |= result.metrics()
        return result.average
