"""How hard each group's loss pushes tokens, by their probability, as figure 3 of the ASPO paper has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from aspo_megatron.comparison.runs import Comparison
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.metrics.alarms import run_settings
from aspo_megatron.plots.sample_file import ShownSample, each_sample
from aspo_megatron.plots.series import FloatArray
from aspo_megatron.streams import say

EDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 1.0)
"""Of the bins of probability; an edge belongs to the bin above it, 1 to the last."""

BINS = tuple(f"{low:g}-{high:g}" for low, high in pairwise(EDGES))

SIGNS = ("A > 0", "A < 0")

_MASKED = "shaping.mask_truncated"


@dataclass(frozen=True)
class BinnedWeights:
    """Of each run of a group: the mean weight of its tokens in a bin, and the share of them whose weight is 0.

    Arrays are [runs, signs, bins]; a bin without tokens has 0 in `tokens` and no number (NaN) in the others.
    """

    weight: FloatArray
    dropped: FloatArray
    tokens: FloatArray


@dataclass(frozen=True)
class TokenWeights:
    """By group; empty where no picture can be made. `notes` say why, and what is left out."""

    groups: Mapping[str, BinnedWeights]
    notes: tuple[str, ...]


def token_weights(comparison: Comparison, warn: Callable[[str], None] = say) -> TokenWeights:
    """Read the samples of all runs.

    Responses with advantage 0 are left out, as nothing pushes their tokens; with `shaping.mask_truncated` so are those
    that were cut, which are no part of the loss. `warn` is told of damaged lines.
    """
    groups: dict[str, BinnedWeights] = {}
    odd = 0
    for group in comparison.groups:
        runs = []
        for folder in group.folders:
            try:
                masked = run_settings(folder).get(_MASKED) is True
                sums, not_finite = _sums(_pushed(each_sample(folder, warn), folder, masked=masked))
            except UserError as error:
                return TokenWeights({}, (f"No weights of tokens: {error}",))
            runs.append(sums)
            odd += not_finite
        groups[group.name] = _binned(np.stack(runs))
    notes = [f"{counted(odd, 'token')} without a finite weight or log-prob left out."] if odd else []
    return TokenWeights(groups, tuple(notes))


def _pushed(samples: Iterable[ShownSample], folder: Path, *, masked: bool) -> Iterable[ShownSample]:
    """The samples whose tokens the loss pushes.

    Raises:
        UserError: one has no log-probs, or there is none.
    """
    found = False
    for sample in samples:
        if not sample.weights or sample.advantage is None or sample.is_neutral or (masked and sample.cut):
            continue
        if not sample.log_probs:
            raise UserError(f"{one_line(folder)}: its samples have no log_probs, which earlier versions did not record")
        found = True
        yield sample
    if not found:
        raise UserError(
            f"{one_line(folder)}: no sample with an advantage; log.samples_per_step keeps some of each step"
        )


def _sums(samples: Iterable[ShownSample]) -> tuple[FloatArray, int]:
    """Tokens, sum of weights and dropped tokens, [3, signs, bins], and how many tokens have no finite numbers."""
    sums = np.zeros((3, len(SIGNS), len(BINS)))
    odd = 0
    for sample in samples:
        assert sample.advantage is not None
        weights, log_probs = np.array(sample.weights), np.array(sample.log_probs)
        finite = np.isfinite(weights) & ~np.isnan(log_probs)
        odd += int((~finite).sum())
        weights, probs = weights[finite], np.exp(np.minimum(log_probs[finite], 0.0))
        which = np.minimum(np.searchsorted(EDGES, probs, side="right") - 1, len(BINS) - 1)
        for row, values in enumerate((np.ones(len(weights)), weights, weights == 0)):
            sums[row, int(sample.advantage < 0)] += np.bincount(which, values, len(BINS))
    return sums, odd


def _binned(sums: FloatArray) -> BinnedWeights:
    """`sums` of all runs of a group, [runs, 3, signs, bins]."""
    tokens = sums[:, 0]
    counts = np.where(tokens > 0, tokens, math.nan)
    return BinnedWeights(sums[:, 1] / counts, sums[:, 2] / counts, tokens)


def over_runs(values: FloatArray) -> FloatArray:
    """Mean, lowest and highest of a group's runs, [3, bins]: of those with tokens in the bin; NaN where no run has any.

    Args:
        values: [runs, bins], NaN where a run has no tokens.
    """
    found = np.full((3, values.shape[1]), math.nan)
    filled = ~np.isnan(values).all(0)
    some = values[:, filled]
    found[:, filled] = np.stack([np.nanmean(some, 0), np.nanmin(some, 0), np.nanmax(some, 0)])
    return found


def rows(weights: TokenWeights, names: Sequence[str]) -> list[list[str]]:
    """A row for each sign and group: in each bin the mean weight, and in brackets the dropped share and the tokens."""
    table = []
    for number, sign in enumerate(SIGNS):
        for name in names:
            of_group = weights.groups[name]
            means, dropped = (over_runs(values[:, number])[0] for values in (of_group.weight, of_group.dropped))
            tokens = of_group.tokens[:, number].sum(0)
            cells = [
                f"{mean:.2f} ({share:.0%}, {int(count):,})" if count else "-"
                for mean, share, count in zip(means, dropped, tokens, strict=True)
            ]
            table.append([f"{one_line(name)}, {sign}", *cells])
    return table
