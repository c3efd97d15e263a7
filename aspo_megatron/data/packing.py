"""Micro-batches without padding: samples that share a prompt hold it once.

A packed batch is one row of tokens made of spans. The tokens of a span attend causally to their span, and a
response's span also to the whole span of its prompt. So the n responses of a group cost one prompt, not n, and the
last token of a response, which predicts nothing, is not computed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aspo_megatron.data.samples import Sample


@dataclass(frozen=True)
class Span:
    """Tokens start..stop; they also attend to all of prefix_start..prefix_stop (empty for a prompt)."""

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch. T tokens go through the model, R response tokens are scored, n responses own them.

    `input_ids`, `positions`: [T], int64. `predictors`: [R], the packed index whose hidden state predicts
    `targets[i]`. `mask`, `selected`, `advantages`, `old_log_probs`, `ref_log_probs`, `rollout_log_probs`: [R].
    `weights`: [R], fp32, what a token counts in the step's loss (aggregation weight over the step's denominator).
    `cu_seqlens`: [n + 1], bounds of the responses among the R tokens.
    """

    input_ids: Tensor
    positions: Tensor
    spans: tuple[Span, ...]
    predictors: Tensor
    targets: Tensor
    mask: Tensor
    selected: Tensor
    weights: Tensor
    advantages: Tensor
    old_log_probs: Tensor
    ref_log_probs: Tensor
    rollout_log_probs: Tensor
    cu_seqlens: Tensor

    @property
    def num_tokens(self) -> int:
        """T, the tokens that go through the model."""
        return int(self.input_ids.numel())

    def with_values(self, groups: Sequence[Sequence[Sample]], weights: Sequence[Sequence[float]]) -> PackedBatch:
        """The batch of the same samples with the values that they have now, as `pack` gives it."""
        values: dict[str, Any] = _values([sample for group in groups for sample in group], weights)
        return replace(self, **values)

    def of_tokens(self, tokens: Tensor | slice) -> PackedBatch:
        """The batch of these of the R scored tokens alone, for what looks at each token by itself."""
        log_probs = ("old_log_probs", "ref_log_probs", "rollout_log_probs")
        names = ("targets", "mask", "selected", "weights", "advantages", *log_probs)
        chosen: dict[str, Any] = {name: getattr(self, name)[tokens] for name in names}
        count = len(chosen["targets"])
        # Not a tensor of two given numbers, which a GPU would have to wait for.
        return replace(self, **chosen, cu_seqlens=torch.arange(2, device=self.cu_seqlens.device) * count)


def packed_length(samples: Sequence[Sample]) -> int:
    """Tokens that a group of samples with one prompt takes in a packed batch."""
    return len(samples[0].prompt_ids) + sum(len(sample.response_ids[:-1]) for sample in samples)


def split_by_budget(groups: Sequence[Sequence[Sample]], max_tokens: int) -> list[list[Sequence[Sample]]]:
    """Groups (samples with one prompt) put into as few micro-batches of at most `max_tokens` as first-fit finds.

    A group that does not fit is split between micro-batches; a single sample longer than the budget gets a
    micro-batch of its own, since nothing smaller than a sample can be trained on.
    """
    pieces: list[Sequence[Sample]] = []
    for group in groups:
        piece: list[Sample] = []
        for sample in group:
            if piece and packed_length([*piece, sample]) > max_tokens:
                pieces.append(piece)
                piece = []
            piece.append(sample)
        pieces.append(piece)
    pieces.sort(key=packed_length, reverse=True)
    bins: list[list[Sequence[Sample]]] = []
    lengths: list[int] = []
    for part in pieces:
        size = packed_length(part)
        for index, length in enumerate(lengths):
            if length + size <= max_tokens:
                bins[index].append(part)
                lengths[index] += size
                break
        else:
            bins.append([part])
            lengths.append(size)
    return bins


def pack(groups: Sequence[Sequence[Sample]], weights: Sequence[Sequence[float]]) -> PackedBatch:
    """One micro-batch from groups of samples with one prompt each.

    Args:
        groups: samples that share a prompt, group by group. May be empty: a rank without samples still takes part.
        weights: for each sample, what each of its unmasked tokens counts in the step's loss.
    """
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    predictors: list[np.ndarray] = []
    spans: list[Span] = []
    samples: list[Sample] = []
    length = 0
    for group in groups:
        prompt = group[0].prompt_ids
        prompt_start, prompt_stop = length, length + len(prompt)
        spans.append(Span(prompt_start, prompt_stop))
        ids.append(prompt)
        positions.append(np.arange(len(prompt)))
        length = prompt_stop
        for sample in group:
            inputs = sample.response_ids[:-1]
            if len(inputs):
                spans.append(Span(length, length + len(inputs), prompt_start, prompt_stop))
            ids.append(inputs)
            positions.append(np.arange(len(prompt), len(prompt) + len(inputs)))
            predicting = np.concatenate([[prompt_stop - 1], np.arange(length, length + len(inputs))])
            predictors.append(predicting[: len(sample.response_ids)])  # an empty response predicts nothing
            length += len(inputs)
            samples.append(sample)
    lengths = [len(sample.response_ids) for sample in samples]
    return PackedBatch(
        input_ids=_join(ids, torch.int64),
        positions=_join(positions, torch.int64),
        spans=tuple(spans),
        predictors=_join(predictors, torch.int64),
        targets=_join([sample.response_ids for sample in samples], torch.int64),
        cu_seqlens=torch.tensor([0, *np.cumsum(lengths, dtype=np.int64)], dtype=torch.int64),
        **_values(samples, weights),
    )


def _values(samples: Sequence[Sample], weights: Sequence[Sequence[float]]) -> dict[str, Tensor]:
    """What a loss makes of scored tokens' log-probs depends on it; nothing else does."""
    lengths = torch.tensor([len(sample.response_ids) for sample in samples], dtype=torch.int64)

    def of_samples(values: Sequence[float]) -> Tensor:
        return torch.repeat_interleave(torch.tensor(values, dtype=torch.float32), lengths)

    return {
        "mask": _join([sample.response_mask for sample in samples], torch.bool),
        "selected": _join([_selected(sample) for sample in samples], torch.bool),
        "weights": of_samples([weight for row in weights for weight in row]),
        "advantages": of_samples([sample.advantage for sample in samples]),
        "old_log_probs": _join([_or_zeros(sample, sample.old_log_probs) for sample in samples], torch.float32),
        "ref_log_probs": _join([_or_zeros(sample, sample.ref_log_probs) for sample in samples], torch.float32),
        "rollout_log_probs": _join([sample.rollout_log_probs for sample in samples], torch.float32),
    }


def _or_zeros(sample: Sample, values: np.ndarray | None) -> np.ndarray:
    """Log-probs that are not known yet (the pass that computes them) or not needed (no KL) are zeros."""
    return np.zeros(len(sample.response_ids), dtype=np.float32) if values is None else values


def _selected(sample: Sample) -> np.ndarray:
    return np.zeros(len(sample.response_ids), dtype=np.bool_) if sample.selected is None else sample.selected


def _join(arrays: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    if not arrays:
        return torch.empty(0, dtype=dtype)
    return torch.from_numpy(np.concatenate(arrays)).to(dtype)
