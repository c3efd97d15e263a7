"""What a run writes besides its metrics and states: sampled responses, and the summary of a run that is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from aspo_megatron.data.decoding import decode
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.errors import UserError
from aspo_megatron.files import write_whole
from aspo_megatron.folders import CURVES_FILE, SUMMARY_FILE
from aspo_megatron.foreign_text import one_line
from aspo_megatron.losses import Loss
from aspo_megatron.plots.curves import draw_curves
from aspo_megatron.train.step_metrics import sample_weights


def first_samples(groups: Iterable[Sequence[Sample]], count: int) -> list[list[Sample]]:
    """The first `count` samples, in their groups."""
    chosen: list[list[Sample]] = []
    for group in groups:
        if count > 0:
            chosen.append(list(group[:count]))
            count -= len(chosen[-1])
    return chosen


def sample_records(
    outputs: Iterable[tuple[Sample, np.ndarray, np.ndarray]],
    problems: Mapping[str, Problem],
    tokenizer: PreTrainedTokenizerBase,
    loss: Loss,
) -> list[dict[str, Any]]:
    """Lines of samples.jsonl.

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
            "answer": problems[sample.problem_id].answer,
            "response": decode(tokenizer, sample.response_ids),
            "reward": sample.reward,
            "advantage": sample.advantage,
            "finish_reason": sample.finish_reason,
            "weight_versions": sample.versions,
            "tokens": [decode(tokenizer, [token]) for token in sample.response_ids.tolist()],
            "weights": sample_weights(loss, sample, log_probs, entropy),
        }
        for sample, log_probs, entropy in outputs
    ]


def write_summary(folder: Path, summary: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """Draw the curves, then write summary.json: last, and at once, as it says that the run is finished.

    Raises:
        UserError: summary.json cannot be written. Curves that cannot be drawn are a warning.
    """
    try:
        draw_curves([folder], folder / CURVES_FILE)
    except UserError as error:
        warn(f"warning: {error}; `aspo plot {one_line(folder)}` draws the curves later")
    write_whole(folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n", durable=True)
