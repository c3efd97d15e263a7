"""What a run records and shows of its steps: metrics, samples, evaluations, and the summary of one that is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from aspo_megatron.checkpoint.states.trainer_state import TrainerState
from aspo_megatron.config import RunConfig
from aspo_megatron.data.decoding import decode
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.errors import UserError
from aspo_megatron.evaluation.evaluator import Evaluation
from aspo_megatron.files import write_whole
from aspo_megatron.folders import CURVES_FILE, EVALUATIONS, METRICS_FILE, SUMMARY_FILE, step_name
from aspo_megatron.foreign_text import one_line
from aspo_megatron.inputs.shared import SharedInputs
from aspo_megatron.losses import Loss
from aspo_megatron.metrics.alarms import Alarms
from aspo_megatron.metrics.progress import ProgressDisplay
from aspo_megatron.metrics.record import Recorder, read_metrics
from aspo_megatron.plots.curves import draw_curves
from aspo_megatron.train.step_metrics import sample_weights


class RunOutputs:
    """Writes what there is to record of a run, on the leader alone, and shows its course. No method is a collective."""

    def __init__(
        self,
        config: RunConfig,
        inputs: SharedInputs,
        record: Callable[[int | None], Recorder] | None,
        progress: ProgressDisplay,
    ) -> None:
        """`record` opens what records the run, given the step that it goes on after; None on all ranks but the leader.

        `progress` shows nothing on the other ranks.
        """
        self._config, self._inputs, self._record_after, self.progress = config, inputs, record, progress
        self._recorder: Recorder | None = None
        self._alarms = Alarms(config)

    @property
    def written_here(self) -> bool:
        """Whether this rank is the one that writes."""
        return self._record_after is not None

    def begin(self, after_step: int | None) -> None:
        """Begin to record: a new run, or one that goes on after a step, with the alarms that it had by then."""
        if self._record_after is not None:
            self._recorder = self._record_after(after_step)
            if after_step is not None:
                recorded = read_metrics(self._config.output_dir / METRICS_FILE, self.progress.message)
                self._alarms.go_on_after(recorded)

    def record_evaluation(self, step: int, result: Evaluation, *, own_line: bool) -> None:
        """Write every response of an evaluation, and show its accuracy.

        `own_line`: its metrics are a line by themselves, as they belong to no step.
        """
        if self._recorder:
            path = self._config.output_dir / EVALUATIONS / f"{step_name(step)}.jsonl"
            self._recorder.write_file(path, result.content())
            if own_line:
                self._recorder.log(step, result.metrics())
                self._alarms.after(step, result.metrics())
        self.progress.message(f"held-out accuracy at step {step}: {result.average:.1%}")

    def record_samples(self, step: int, outputs: Sequence[tuple[Sample, np.ndarray, np.ndarray]], loss: Loss) -> None:
        """Write some responses of a step, and how hard its last update pushed each of their tokens.

        See `sample_records`.
        """
        if self._recorder:
            problems = self._inputs.train.named(sample.problem_id for sample, _, _ in outputs)
            self._recorder.log_samples(step, sample_records(outputs, problems, self._inputs.tokenizer, loss))

    def record_step(self, step: int, metrics: Mapping[str, float], heldout: float | None) -> None:
        """Write the metrics of a step, show that it is done, and say what they show to be wrong.

        `heldout` is the last accuracy that is known.
        """
        if self._recorder:
            self._recorder.log(step, metrics)
        self.progress.update(
            step, reward=metrics["reward/mean"], tokens_per_second=metrics["tokens_per_second"], heldout=heldout
        )
        for line in self._alarms.after(step, metrics):
            self.progress.message(line)

    def flush(self) -> None:
        """Have the disk take what is recorded.

        Raises:
            UserError: it does not.
        """
        if self._recorder:
            self._recorder.flush()

    def unwritten(self) -> str | None:
        """The reason, if the disk does not take what is recorded."""
        try:
            self.flush()
        except UserError as error:
            return str(error)
        return None

    def summarize(self, state: TrainerState) -> dict[str, Any]:
        """Draw the curves, then write summary.json: last, and at once, as it says that the run is finished.

        Returns:
            What it holds, on every rank.

        Raises:
            UserError: summary.json cannot be written. Curves that cannot be drawn are a warning.
        """
        summary = {
            "heldout_before": state.heldout_before,
            "heldout_after": state.heldout_after,
            "heldout_problems": len(range(len(self._inputs.heldout))[: self._config.eval.max_problems]),
            "seconds": state.seconds,
            "steps": self._config.train.steps,
            "tokens": state.tokens,
        }
        if self._recorder:
            folder = self._config.output_dir
            try:
                draw_curves([folder], folder / CURVES_FILE)
            except UserError as error:
                self.progress.message(f"warning: {error}; `aspo plot {one_line(folder)}` draws the curves later")
            write_whole(folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n", durable=True)
        return summary


def sample_records(
    outputs: Iterable[tuple[Sample, np.ndarray, np.ndarray]],
    problems: Mapping[str, Problem],
    tokenizer: PreTrainedTokenizerBase,
    loss: Loss,
) -> list[dict[str, Any]]:
    """Lines of samples.jsonl. `log_probs` are those of the tokens by the policy that generated them, nats.

    Args:
        outputs: samples, each with log-prob and entropy of its tokens by the trained policy, see `token_outputs`.
        problems: by id.
        tokenizer: turns tokens into text.
        loss: gives the weight of each token's gradient.
    """
    return [
        {
            "problem": sample.problem_id,
            "question": problems[sample.problem_id].question,
            "prompt": decode(tokenizer, sample.prompt_ids),
            "answer": problems[sample.problem_id].answer,
            "response": decode(tokenizer, sample.response_ids),
            "reward": sample.reward,
            "advantage": sample.advantage,
            "finish_reason": sample.finish_reason,
            "weight_versions": sample.versions,
            "tokens": [decode(tokenizer, [token]) for token in sample.response_ids.tolist()],
            "log_probs": [round(log_prob, 4) for log_prob in sample.rollout_log_probs.tolist()],
            "weights": sample_weights(loss, sample, log_probs, entropy),
        }
        for sample, log_probs, entropy in outputs
    ]
