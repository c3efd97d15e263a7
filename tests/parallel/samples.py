"""Random groups of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aspo_megatron.data.samples import Sample


def make_group(number: int, prompt: int, responses: Sequence[int], vocab_size: int = 97, seed: int = 0) -> list[Sample]:
    """Responses of these lengths to one prompt of `prompt` tokens; half of the advantages are negative."""
    generator = np.random.default_rng((seed, number))
    prompt_ids = generator.integers(0, vocab_size, prompt)
    return [
        Sample(
            problem_id=str(number),
            group=number,
            prompt_ids=prompt_ids,
            response_ids=generator.integers(0, vocab_size, length),
            response_mask=np.ones(length, dtype=np.bool_),
            rollout_log_probs=generator.normal(-2.0, 1.0, length).astype(np.float32),
            weight_version=0,
            finish_reason="stop",
            advantage=float((-1) ** index * generator.uniform(0.3, 1.5)),
        )
        for index, length in enumerate(responses)
    ]


def make_groups(shapes: Sequence[tuple[int, Sequence[int]]], seed: int = 0) -> list[list[Sample]]:
    """One group for each (prompt length, response lengths), numbered from 0."""
    return [make_group(number, prompt, responses, seed=seed) for number, (prompt, responses) in enumerate(shapes)]
