"""Samples of random tokens, for benchmarks of updates."""

from __future__ import annotations

import numpy as np

from aspo_megatron.data.samples import Sample


def random_group(seed: int | tuple[int, ...], vocab: int, prompt: int, response: int, responses: int) -> list[Sample]:
    """Responses of one length to one prompt, with advantages of both signs and old log-probs in the policy's range."""
    generator = np.random.default_rng(seed)
    number = seed if isinstance(seed, int) else seed[0]
    prompt_ids = generator.integers(0, vocab, prompt)
    return [
        Sample(
            problem_id=str(number),
            group=number,
            prompt_ids=prompt_ids,
            response_ids=generator.integers(0, vocab, response),
            response_mask=np.ones(response, dtype=np.bool_),
            rollout_log_probs=np.zeros(response, dtype=np.float32),
            weight_version=0,
            finish_reason="stop",
            advantage=(-1.0) ** index,
            old_log_probs=np.full(response, -np.log(vocab), dtype=np.float32),
        )
        for index in range(responses)
    ]
