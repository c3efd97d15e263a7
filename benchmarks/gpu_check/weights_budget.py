"""How many tokens and responses the embedded engine takes at once, where the configuration leaves it open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rollout.embedded.batch_tokens import SAMPLING_SHARE, SHARE, bytes_of_token, free_bytes
from aspo_megatron.rollout.engine import Request
from benchmarks.gpu_check import memory
from benchmarks.gpu_check.lines import Sheet

if TYPE_CHECKING:
    from aspo_megatron.rollout.embedded.engine import EmbeddedEngine

_FREE = 1 << 30
"""Bytes that are left to it, so that little work is too much for once."""
_RESPONSES, _EACH, _PROMPT, _TOKENS = 40, 8, 64, 192
_LOGIT_BYTES = 26
"""That drawing a token takes for each of a response's logits (`rollout/embedded/batch_tokens.py`)."""


def batch_tokens(sheet: Sheet, engine: EmbeddedEngine, device: torch.device) -> None:
    """`rollout.max_batch_tokens: null` with little memory free: several batches, each within its shares."""
    sampling = SamplingConfig(max_response_tokens=_TOKENS)
    requests = [
        Request(Problem(str(number), "", tuple(range(3, 3 + _PROMPT))), _EACH, (2, number), group=number)
        for number in range(_RESPONSES)
    ]
    memory.begin()  # what nobody holds any more is gone before free memory is counted
    torch.cuda.empty_cache()
    ballast = torch.empty(max(free_bytes(device) - _FREE, 0), dtype=torch.uint8, device=device)
    free, held = free_bytes(device), memory.begin()
    batches = list(engine._batches(requests, sampling))
    kept, drawn = _shares(engine, requests, sampling, batches, free)
    note = (
        f"{len(batches)} batches of up to {max(map(len, batches)) * _EACH} responses, {memory.mib(free):.0f} MiB free"
    )
    sheet.at_least("max_batch_tokens null: batches", len(batches), 2, reference="all at once", note=note)
    reference = "free memory; docs/gpu.md"
    sheet.at_most("max_batch_tokens null: keys and values", kept, SHARE, reference=reference)
    sheet.at_most("max_batch_tokens null: drawing tokens", drawn, SAMPLING_SHARE, reference=reference)
    groups = engine.generate(requests, sampling)
    more = memory.peak() - held
    complete = sum(len(group) for group in groups) == _RESPONSES * _EACH
    sheet.holds("max_batch_tokens null: all responses come", complete, reference=f"{_RESPONSES} prompts x {_EACH}")
    note = f"{memory.mib(more):.0f} MiB"
    sheet.at_most("max_batch_tokens null: most that generation holds", more / free, 1.0, reference="free", note=note)
    del ballast


def _shares(
    engine: EmbeddedEngine,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    batches: Sequence[Sequence[int]],
    free: int,
) -> tuple[float, float]:
    """Of `free`, the largest that a batch takes for keys and values, and for drawing its tokens."""
    config = engine._model.config
    of_a_token = bytes_of_token(config, engine._model.dtype)
    rows = [sum(requests[index].count for index in batch) for batch in batches]
    longest = [max(len(requests[index].problem.prompt_ids) for index in batch) for batch in batches]
    tokens = max(count * (size + sampling.max_response_tokens) for count, size in zip(rows, longest, strict=True))
    return tokens * of_a_token / free, max(rows) * config.vocab_size * _LOGIT_BYTES / free
