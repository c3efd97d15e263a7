"""The training loop: rollouts, rewards, advantages, updates, weight sync, evaluation. No parallelism is in sight.

Every rank runs this same loop (SPMD). Each generates and scores its share of the prompts; each data-parallel replica
then trains on its share of the samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from aspo_megatron import losses
from aspo_megatron.checkpoint.fingerprint import Fingerprint
from aspo_megatron.checkpoint.hf.folder import write_folder
from aspo_megatron.checkpoint.hf.model_card import model_card
from aspo_megatron.checkpoint.states.run_states import StateSaver, load_latest
from aspo_megatron.checkpoint.states.trainer_state import TrainerState, changed_weights, noted_weights
from aspo_megatron.config import RunConfig
from aspo_megatron.data.prompt_sampler import Asking, Standing
from aspo_megatron.data.samples import Sample
from aspo_megatron.data.stream import ProblemStream
from aspo_megatron.errors import AgreedError, CheckpointError, UserError
from aspo_megatron.evaluation.evaluator import evaluate
from aspo_megatron.files import write_whole
from aspo_megatron.folders import EVALUATIONS, EXPORTS, PROFILE, TRAINED_MODEL, step_name
from aspo_megatron.foreign_text import one_line
from aspo_megatron.inputs.shared import SharedInputs
from aspo_megatron.launch.stop import StopRequest
from aspo_megatron.metrics.progress import ProgressDisplay
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.parallel.grid.exchange import from_leader, to_replicas
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.model.reference import Reference
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.step import PassLimits, score, token_outputs
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rollout.engine import RolloutEngine, ServersLostError
from aspo_megatron.streams import say
from aspo_megatron.train.advantages import charge_kl
from aspo_megatron.train.collector import Collector
from aspo_megatron.train.outputs import first_samples, sample_records, write_summary
from aspo_megatron.train.policy_engine import SyncedEngine
from aspo_megatron.train.profiler import StepProfile, Work, product_rate, whole_work, work_of
from aspo_megatron.train.step_metrics import rollout_metrics, staleness_metrics
from aspo_megatron.train.updates import StepUpdates

Groups = list[list[Sample]]


class Trainer:
    """One run."""

    def __init__(
        self,
        config: RunConfig,
        inputs: SharedInputs,
        model: PolicyModel,
        engine: RolloutEngine,
        rewards: RewardPool,
        record: Callable[[int | None], Recorder] | None,
        progress: ProgressDisplay,
        stop: StopRequest,
    ) -> None:
        """`model` has the weights that the run starts with, from the beginning: the KL refers to them.

        `record` opens what records the run, given the step that it goes on after; None on every rank but the leader.
        """
        self._config, self._inputs, self._model = config, inputs, model
        self._engine = SyncedEngine(config, model, engine, progress.message)
        self._rewards, self._record_after, self._progress = rewards, record, progress
        self._recorder: Recorder | None = None
        self._topology = model.topology
        self._reference = Reference(model, config.model.reference) if config.has_reference else None
        rollout, train = config.rollout, config.train
        updates = train.steps * config.updates_per_step
        self._optimizer = Optimizer(model, config.optimizer, updates, config.parallel)
        self._objective = PolicyObjective(losses.build(config.loss.name, config.loss.hyperparameters), config.loss)
        self._limits = PassLimits(train.max_tokens_per_micro_batch, train.log_prob_chunk, rollout.sampling.temperature)
        self._updates = StepUpdates(config, model, self._optimizer, self._objective, self._limits, progress.message)
        self._asking = Asking(
            ProblemStream(inputs.train, config.seed),
            rollout.prompts_per_step,
            rollout.cut_off,
            self._topology.rank,
            self._topology.world_size,
        )
        self._collector = Collector(
            config, self._engine, rewards, inputs.tokenizer, self._asking, self._topology, self._phase
        )
        self._saver = StateSaver(config, inputs.family, model, self._optimizer, progress.message)
        self._stop = stop
        self._seconds: dict[str, float] = {}
        self._profile: StepProfile | None = None
        self._work: dict[str, Work] = {}
        self._started = time.perf_counter()
        self._at = TrainerState(0, 0, 0, 0.0, None, None, "")

    def run(self, state: Path | None, weights: Fingerprint) -> dict[str, Any] | None:
        """Train, evaluate before, during and after, export; returns what summary.json holds.

        Args:
            state: a saved state of this run to go on from; None to begin.
            weights: of the weights in `model.path`; an empty one where they are random.

        Returns:
            None if the run was asked to stop: its state is saved then.
        """
        started = time.perf_counter()
        if state is not None:
            self._load(state, weights)
        self._at = noted_weights(self._at, weights)
        if self._record_after is not None:
            self._recorder = self._record_after(None if state is None else self._at.step)
        self._started = started - self._at.seconds
        self._sync(version=self._at.step)
        if self._at.heldout_after is None:  # the run begins, or its servers were lost before they were asked
            after = self._evaluate(self._at.step)
            before = self._at.heldout_before if self._at.step else after
            self._at = replace(self._at, heldout_before=before, heldout_after=after)
        self._keep_missing()
        for step in range(self._at.step + 1, self._config.train.steps + 1):
            if self._must_stop():
                return None
            try:
                with self._profiled(step):
                    self._step(step)
            except AgreedError as error:
                lost = isinstance(error, ServersLostError)
                if lost:
                    self._save()
                self._saver.finish()  # else the state before, which is written, would have no name yet
                if lost:
                    cure = f"with servers the same command goes on after step {self._at.step}"
                    raise ServersLostError(f"{error}; {cure}") from error
                raise
            self._keep()
        self._saver.finish()
        if self._recorder:
            self._recorder.flush()  # a run is not finished while lines wait for room on the disk
        self._export(self._config.output_dir / TRAINED_MODEL)
        self._updates.tell_if_none()
        return self._summarize()

    def _step(self, step: int) -> None:
        """A rollout and its updates. Without servers it stops before the updates, or goes without an evaluation.

        Raises:
            ServersLostError: then the run stands after this step or the one before.
        """
        self._seconds = {}
        began = time.perf_counter()
        rollout = self._collector.collect(step)
        self._complete_written()
        self._engine.release_memory()
        metrics = rollout_metrics(rollout)
        if self._config.rollout.engine == "sglang":
            metrics |= staleness_metrics(rollout, step - 1)
        groups, config = rollout.groups, self._config
        batches = to_replicas(groups, config.train.prompts_per_update, self._topology, config.mini_batches)
        self._score(batches)
        if self._config.shaping.kl_coef:
            metrics |= charge_kl(batches, self._config, self._topology)
        with self._phase("update"):
            metrics |= self._updates.make(step, batches)
        self._complete_written()
        self._record_samples(step, batches)
        if self._profile:
            groups = [group for batch in batches for group in batch]
            work = work_of(self._config, self._inputs.family, groups, self._to_score(batches))
            self._work = whole_work(work, self._topology)
        lost, after = None, self._at.heldout_after
        try:
            metrics |= self._sync(version=step)
            metrics["seconds/step"] = time.perf_counter() - began
            if self._evaluates(step):
                after = self._evaluate(step, metrics)
        except ServersLostError as error:
            lost, after = error, None
        tokens = int(metrics["tokens"])
        metrics["tokens_per_second"] = tokens / metrics.setdefault("seconds/step", time.perf_counter() - began)
        stands = self._asking.standing
        self._at = replace(
            self._at,
            step=step,
            asked=stands.asked,
            carried=list(stands.carried),
            tokens=self._at.tokens + tokens,
            heldout_after=after,
        )
        self._record(step, metrics)
        if lost is not None:
            raise lost

    def _evaluates(self, step: int) -> bool:
        every = self._config.eval.every
        return step == self._config.train.steps or bool(every and step % every == 0)

    # ---- one method an arrow ---------------------------------------------------------------------------------

    def _score(self, batches: Sequence[Groups]) -> None:
        """Old and reference log-probs of every sample; but see `RunConfig.first_update_is_on_policy`."""
        groups = [group for batch in batches for group in batch]
        with self._phase("old log-probs"):
            if self._config.takes_log_probs_of_engine:
                for group in groups:
                    for sample in group:
                        sample.old_log_probs = sample.rollout_log_probs
            else:
                for sample, log_probs in score(self._model, self._to_score(batches), self._limits):
                    sample.old_log_probs = log_probs
        if self._reference is not None:
            with self._phase("reference log-probs"), self._reference.ready() as reference:
                for sample, log_probs in score(reference, groups, self._limits):
                    sample.ref_log_probs = log_probs

    def _to_score(self, batches: Sequence[Groups]) -> Groups:
        """The groups whose old log-probs no update gives: also those that samples.jsonl shows."""
        known = batches[:1] if self._config.first_update_is_on_policy else []
        return [*self._shown(known), *(group for batch in batches[len(known) :] for group in batch)]

    def _sync(self, version: int) -> dict[str, float]:
        """Give the engine the trained weights; what to log of it. Responses in flight are waited for, or go on."""
        with self._phase("generate"):
            self._engine.settle()
        with self._phase("sync"):
            return self._engine.sync(version)

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
            path = self._config.output_dir / EVALUATIONS / f"{step_name(step)}.jsonl"
            self._recorder.write_file(path, result.content())
            if metrics is None:
                self._recorder.log(step, result.metrics())
        if metrics is not None:
            metrics |= result.metrics()
        self._progress.message(f"held-out accuracy at step {step}: {result.average:.1%}")
        return result.average

    # ---- what a run goes on from -----------------------------------------------------------------------------

    def _load(self, state: Path, weights: Fingerprint) -> None:
        """Stand where the run stood, at `state` or, if that cannot be loaded, at the one before.

        Raises:
            CheckpointError: none can be loaded, or the KL would refer to other weights than before.
        """
        config, tell = self._config, self._progress.message
        with self._phase("load state"):
            model, optimizer = self._model, self._optimizer
            state, self._at = load_latest(state, config, self._inputs.family, model, optimizer, tell)
        changed = changed_weights(config, self._at, weights)
        if changed is not None:
            if config.has_reference and not config.warmup.updates:
                raise CheckpointError(f"{changed}, and the KL refers to them; give the folder that holds those")
            tell(one_line(f"warning: {changed}; the run goes on with its own, from {state}"))
        self._saver.go_on_from(self._at.step)
        self._asking.go_on(Standing(self._at.asked, tuple(self._at.carried)))
        if self._at.problems != self._inputs.train.digest:
            self._progress.message("warning: data.train gives other problems than before; the run goes on with them")
        self._progress.message(f"going on after step {self._at.step}, from {one_line(state)}")

    def _keep(self) -> None:
        """Save or export what is due after a step."""
        config, step = self._config.checkpoint, self._at.step
        if config.every and (step % config.every == 0 or step == self._config.train.steps):
            self._save()
        if config.export_every and step % config.export_every == 0:
            self._export_beside()

    def _keep_missing(self) -> None:
        """Export what was due when the run was ended after it had saved that step."""
        every, step = self._config.checkpoint.export_every, self._at.step
        if step and every and step % every == 0 and not from_leader(self._folder_beside().exists()):
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

    def _complete_written(self) -> None:
        """Give a state its name as soon as all ranks have written it. A collective while a save is under way."""
        if self._saver.pending and not self._stop.agree(self._saver.writing, self._topology.platform.device)[1]:
            self._saver.finish()

    def _save(self) -> None:
        with self._phase("save"):
            unwritten = from_leader(self._flushed())  # a state counts on the lines of its steps
            if unwritten is not None:
                self._saver.cannot_save(self._at.step, unwritten)
                return
            seconds = time.perf_counter() - self._started
            self._saver.save(replace(self._at, seconds=seconds, problems=self._inputs.train.digest))

    def _flushed(self) -> str | None:
        """Have the disk take what is recorded, on the leader; the reason if it does not."""
        try:
            if self._recorder:
                self._recorder.flush()
        except UserError as error:
            return str(error)
        return None

    def _export_beside(self) -> None:
        """Export into a folder of this step's own; without room for it the run goes on."""
        try:
            self._export(self._folder_beside())
        except CheckpointError as error:  # on the leader alone, which has drawn all tensors
            self._progress.message(f"warning: {error}; the run goes on")

    def _folder_beside(self) -> Path:
        return self._config.output_dir / EXPORTS / step_name(self._at.step)

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
                        self._inputs.family.exported_config(self._config.model.dtype),
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
        with self._profile.phase(label) if self._profile else nullcontext():
            yield
        name = f"seconds/{label.replace(' ', '_').replace('-', '_')}"
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    @contextmanager
    def _profiled(self, step: int) -> Iterator[None]:
        """Profile the step that the configuration names."""
        if step != self._config.log.profile_step:
            yield
            return
        with StepProfile(self._topology.platform.device) as self._profile:
            yield
        profile, self._profile = self._profile, None
        try:
            self._write_profile(profile, step)
        except UserError as error:  # on the ranks that have no room for their part
            say(f"warning: {error}; the run goes on")

    def _write_profile(self, profile: StepProfile, step: int) -> None:
        folder, topology = self._config.output_dir / PROFILE, self._topology
        profile.write(folder, topology.rank)
        rate = product_rate(self._model.config.params_dtype, topology.platform.device)
        if topology.is_leader:
            title = f"step {step} of {self._config.output_dir}, rank 0 of {topology.world_size}"
            write_whole(folder / "summary.txt", profile.summary(title, self._work, rate, topology.world_size))
            profile.draw_memory(folder / "memory.png")
            self._progress.message(
                f"profile of step {step}: {one_line(folder)}/summary.txt; traces for ui.perfetto.dev beside it"
            )

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        if self._recorder:
            self._recorder.log(step, metrics | self._seconds)
        self._progress.update(
            step,
            reward=metrics["reward/mean"],
            tokens_per_second=metrics["tokens_per_second"],
            heldout=self._at.heldout_after,
        )

    def _record_samples(self, step: int, batches: Sequence[Groups]) -> None:
        """Some responses of the step, and how hard its last update pushed each of their tokens. A collective."""
        with self._phase("samples"):
            outputs = list(token_outputs(self._model, self._shown(batches), self._limits))
        if self._recorder:
            problems = self._inputs.train.named(sample.problem_id for sample, _, _ in outputs)
            records = sample_records(outputs, problems, self._inputs.tokenizer, self._objective.loss)
            self._recorder.log_samples(step, records)

    def _shown(self, batches: Sequence[Groups]) -> Groups:
        return first_samples((group for batch in batches for group in batch), self._config.log.samples_per_step)

    def _summarize(self) -> dict[str, Any]:
        summary = {
            "heldout_before": self._at.heldout_before,
            "heldout_after": self._at.heldout_after,
            "heldout_problems": len(range(len(self._inputs.heldout))[: self._config.eval.max_problems]),
            "seconds": time.perf_counter() - self._started,
            "steps": self._config.train.steps,
            "tokens": self._at.tokens,
        }
        if self._recorder:
            write_summary(self._config.output_dir, summary, self._progress.message)
        return summary
