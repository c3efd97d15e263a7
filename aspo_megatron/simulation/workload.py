"""Samples of given lengths, with tokens and figures that mean nothing: what a simulated rank trains on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from aspo_megatron.data.samples import Sample

Lengths = tuple[int, Sequence[int]]
"""Tokens of a prompt, and of each response to it."""


def samples_of(groups: Iterable[Lengths], vocab_size: int) -> list[list[Sample]]:
    """A group of samples for each prompt; the same at each call."""
    generator = np.random.default_rng(0)
    made: list[list[Sample]] = []
    for number, (prompt, responses) in enumerate(groups):
        prompt_ids = generator.integers(0, vocab_size, prompt)
        made.append([_sample(number, prompt_ids, generator.integers(0, vocab_size, length)) for length in responses])
    return made


def _sample(group: int, prompt_ids: np.ndarray, response_ids: np.ndarray) -> Sample:
    zeros = np.zeros(len(response_ids), dtype=np.float32)
    return Sample(
        problem_id=str(group),
        group=group,
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        response_mask=np.ones(len(response_ids), dtype=np.bool_),
        rollout_log_probs=zeros,
        weight_version=0,
        finish_reason="length",
        advantage=1.0,
        old_log_probs=zeros,
        ref_log_probs=zeros,
    )
