"""A response that servers make in several parts, as it was cut off in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aspo_megatron.data.samples import FinishReason, Sample, VersionSpan
from aspo_megatron.rollout.client import Completion
from aspo_megatron.rollout.engine import Request
from aspo_megatron.rollout.stop_rule import StopRule


def empty_response(request: Request) -> Sample:
    """A response of no token yet."""
    return Sample(
        problem_id=request.problem.id,
        group=request.group,
        prompt_ids=np.array(request.problem.prompt_ids, dtype=np.int64),
        response_ids=np.zeros(0, dtype=np.int64),
        response_mask=np.ones(0, dtype=np.bool_),
        rollout_log_probs=np.zeros(0, dtype=np.float32),
        weight_version=-1,
        finish_reason="abort",
    )


def extend(
    so_far: Sample, completion: Completion, spans: Sequence[VersionSpan], rule: StopRule, max_tokens: int
) -> Sample:
    """A response with what a server has added to it, whose prompt was `so_far`.

    Args:
        so_far: the response until now, not changed.
        completion: what was added.
        spans: the versions of the added tokens.
        rule: says where a response ends. A server does not see a stop text that begins before what it adds.
        max_tokens: the limit of the whole response.
    """
    before = len(so_far.response_ids)
    tokens = [*so_far.response_ids.tolist(), *completion.token_ids]
    stopped = completion.finish == "stop"
    if before and rule.stops:
        end = next((end for end in range(before + 1, len(tokens) + 1) if rule.ends(tokens[:end])), None)
        stopped = stopped or end is not None
        tokens = tokens[:end]
    if tokens and rule.ends(tokens):  # a server calls it `length` when the limit falls on the end token
        stopped = True
    finish: FinishReason = "stop" if stopped else "length" if len(tokens) == max_tokens else "abort"
    versions = _joined([*so_far.versions, *spans], len(tokens))
    log_probs = np.array(completion.log_probs[: len(tokens) - before], dtype=np.float32)
    return Sample(
        problem_id=so_far.problem_id,
        group=so_far.group,
        prompt_ids=so_far.prompt_ids,
        response_ids=np.array(tokens, dtype=np.int64),
        response_mask=np.ones(len(tokens), dtype=np.bool_),
        rollout_log_probs=np.concatenate([so_far.rollout_log_probs, log_probs]),
        weight_version=versions[-1][0] if versions else so_far.weight_version,
        finish_reason=finish,
        versions=versions,
    )


def _joined(spans: Sequence[VersionSpan], tokens: int) -> tuple[VersionSpan, ...]:
    """Spans of the first `tokens` tokens: none of them empty, and no two neighbours of one version."""
    joined: list[VersionSpan] = []
    for version, size in spans:
        count = min(size, tokens)
        tokens -= count
        if joined and joined[-1][0] == version:
            joined[-1] = version, joined[-1][1] + count
        elif count:
            joined.append((version, count))
    return tuple(joined)
