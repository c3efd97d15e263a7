"""A sequence whose log-probs show whether servers compute as the trainer does, and how alike they must be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import FloatArray, IntArray, Sample

BEYOND_DOUBT = 5.0
"""From so many times the tolerance on it is not a matter of rounding."""

_RANDOM_TOKENS = 64
_PROMPT_TOKENS, _RESPONSE_TOKENS = 512, 256
_SHARE = 0.9
_FP32, _BF16, _BF16_EXPERTS = 1e-4, 0.2, 0.5


def tolerance_of(config: RunConfig, num_experts: int) -> float:
    """By how much 90 % of a probe's log-probs may differ.

    In bfloat16 kernels that round in another order are off by hundredths, and a router that chooses other experts for a
    token by more. So is one of two sides that has quantised its weights.
    """
    if config.rollout.servers.probe_tolerance is not None:
        return config.rollout.servers.probe_tolerance
    if (num_experts and config.model.dtype != "float32") or _one_side_quantises(config):
        return _BF16_EXPERTS
    return _FP32 if config.model.dtype == "float32" else _BF16


def ends_runs(config: RunConfig) -> bool:
    """Whether a server beyond the tolerance ends a run.

    Where one side quantises, nobody but the user knows how far apart they may be.
    """
    return config.rollout.servers.probe_tolerance is not None or not _one_side_quantises(config)


def _one_side_quantises(config: RunConfig) -> bool:
    """Whether the trainer multiplies in FP8, or the servers are started with quantised weights."""
    options = (argument.partition("=")[0] for argument in config.rollout.servers.extra_args)
    return config.model.kernels.fp8 != "none" or "--quantization" in options


def random_probe(vocab_size: int, seed: int) -> Sample:
    """Tokens at random, for as long as there is no response: what they say does not matter."""
    generator = torch.Generator().manual_seed(seed)
    # SGLang scores the vocabulary's last token in a prompt as if it were token 0.
    tokens = torch.randint(vocab_size - 1, (_RANDOM_TOKENS,), generator=generator).numpy()
    return _sequence(tokens[:1], tokens[1:])


def probe_of(groups: Iterable[Sequence[Sample]], vocab_size: int) -> Sample | None:
    """Of the first response that will do: the end of its prompt and its beginning; None if there is none."""
    for sample in (sample for group in groups for sample in group):
        prompt, response = sample.prompt_ids[-_PROMPT_TOKENS:], sample.response_ids[:_RESPONSE_TOKENS]
        # The vocabulary's last token: as above.
        if len(prompt) and len(response) and max(prompt.max(), response.max()) < vocab_size - 1:
            return _sequence(prompt, response)
    return None


def difference(probe: Sample, expected: FloatArray, found: Sequence[float]) -> float:
    """What 90 % of the response's log-probs do not differ by more than. A few tokens may be far off for good reasons.

    Args:
        probe: the sequence.
        expected: log-probs of its response.
        found: log-probs of all of its tokens but the first.
    """
    response = np.array(found)[len(probe.prompt_ids) - 1 :]
    return float(np.quantile(np.abs(response - expected), _SHARE))


def _sequence(prompt: IntArray, response: IntArray) -> Sample:
    size = len(response)
    return Sample(
        problem_id="probe",
        group=0,
        prompt_ids=prompt,
        response_ids=response,
        response_mask=np.ones(size, dtype=np.bool_),
        rollout_log_probs=np.zeros(size, dtype=np.float32),
        weight_version=-1,
        finish_reason="length",
    )
