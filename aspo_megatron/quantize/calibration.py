"""What a model is calibrated on: the run's own prompts, with the responses that the run has recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from aspo_megatron.data.prompt_ids import PromptMaker
from aspo_megatron.data.samples import Problem
from aspo_megatron.folders import SAMPLES_FILE
from aspo_megatron.plots.sample_file import read_samples

_LONGEST = 4096
_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class CalibrationTexts:
    """Token sequences; the first `responses` of them are prompts with a response, the others prompts alone."""

    sequences: tuple[tuple[int, ...], ...]
    responses: int

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(map(len, self.sequences))

    def run(self, model: nn.Module) -> None:
        """Compute the model on all of them. Those of one length go together, so that no padding is calibrated on."""
        device = next(model.parameters()).device
        by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for sequence in self.sequences:
            by_length[len(sequence)].append(sequence)
        with torch.no_grad():
            for length, rows in sorted(by_length.items()):
                count = max(1, _TOKENS_AT_ONCE // length)
                for start in range(0, len(rows), count):
                    ids = torch.tensor(rows[start : start + count], device=device)
                    model(input_ids=ids, use_cache=False, logits_to_keep=1)


def calibration_texts(
    run: Path, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, count: int
) -> CalibrationTexts:
    """The last recorded responses with their prompts, then further prompts, evenly from all; `count` in all.

    Args:
        run: the run folder; it may have recorded nothing.
        problems: those that the run trains on.
        tokenizer: of the model.
        count: how many sequences at most. Longer ones than 4096 tokens are cut.

    Raises:
        UserError: the responses cannot be read, or the tokenizer fails with one of them.
    """
    texts = [ids[:_LONGEST] for ids in _recorded(run, problems, tokenizer, count)]
    left = min(count - len(texts), len(problems))
    prompts = [problems[index * len(problems) // left].prompt_ids[:_LONGEST] for index in range(left)]
    return CalibrationTexts((*texts, *prompts), len(texts))


def _recorded(
    run: Path, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, count: int
) -> list[tuple[int, ...]]:
    if not (run / SAMPLES_FILE).is_file() or not (run / SAMPLES_FILE).stat().st_size:
        return []
    prompts = {(problem.id, problem.question): problem.prompt_ids for problem in problems}
    # The run may have been given other problems since.
    asked = [
        sample for sample in read_samples(run, count=count).samples if (sample.problem, sample.question) in prompts
    ]
    names = [f"the recorded response to problem {sample.problem}" for sample in asked]
    with PromptMaker(tokenizer, special=False) as maker:
        responses = list(maker.ids([sample.response for sample in asked], names))
    return [
        (*prompts[sample.problem, sample.question], *response)
        for sample, response in zip(asked, responses, strict=True)
    ]
