"""The largest micro-batch that a run may see, as sizes: tokens on a rank, scored tokens, blocks of attention."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import torch

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.data.packing import Span
from aspo_megatron.errors import ConfigError
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.model.context_parallel import ContextSlice, context_slice, runs_of
from aspo_megatron.parallel.model.varlen_attention import plan_varlen

_INDEX = 8
"""Bytes of a token's number, or of its place."""
_READ = 29
"""Bytes of what a loss reads of a scored token: its number, mask, weight, advantage, three log-probs."""

GroupLengths = tuple[int, tuple[int, ...]]
"""Tokens of a prompt, and of each response to it."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of attention of one shape, computed together: `count` of `queries` x `keys` tokens."""

    count: int
    queries: int
    keys: int


@dataclass(frozen=True)
class LocalBatch:
    """What one context-parallel rank has of a micro-batch.

    `tokens`: packed tokens of the rank, a multiple of tp under sequence parallelism. `all_tokens`: those of all cp
    ranks, whose keys and values are gathered. `scored`: response tokens whose log-probs the rank computes. `own_keys`
    and `prompt_keys`: those that the two calls of `varlen` attention take copies of (`varlen_attention.py`).
    """

    tokens: int
    all_tokens: int
    scored: int
    blocks: tuple[Blocks, ...]
    own_keys: int
    prompt_keys: int
    packed_bytes: int
    """Of the micro-batch itself on the device: tokens, what the loss reads of the scored ones, and indices."""


def refuse_beyond_context(config: RunConfig, family: Family) -> None:
    """Refuse lengths that the model has no positions for, as training refuses each prompt that leaves no room.

    A greatest length of prompts that nobody has set is no promise that there are such prompts: see `longest_prompt`.

    Raises:
        ConfigError: names the keys, the lengths and the context.
    """
    prompt, response = config.data.max_prompt_tokens, config.rollout.sampling.max_response_tokens
    least = 1 if prompt == type(config.data).model_fields["max_prompt_tokens"].default else prompt
    if least + response > family.context_length:
        keys = f"rollout.sampling.max_response_tokens={response}"
        keys = f"data.max_prompt_tokens={prompt} and {keys}" if least > 1 else f"{keys} and a prompt"
        raise ConfigError(
            f"{keys} exceed the model's context of {family.context_length} tokens (max_position_embeddings); "
            "set shorter lengths"
        )


def longest_prompt(config: RunConfig, context_length: int) -> int:
    """Tokens of the longest prompt that leaves room for the longest response in the model's context."""
    response = config.rollout.sampling.max_response_tokens
    return max(min(config.data.max_prompt_tokens, context_length - response), 1)


def worst_groups(config: RunConfig, context_length: int) -> tuple[GroupLengths, ...]:
    """A micro-batch filled with responses of the greatest length to prompts of the greatest length.

    Both fit into the model's context. As `split_by_budget` fills it: a group that does not fit is split, and a sample
    that is longer than the budget has a micro-batch to itself.
    """
    return _filled(config, longest_prompt(config, context_length), None)


def update_batch(config: RunConfig, parallel: ParallelConfig, prompt: int) -> LocalBatch:
    """The largest micro-batch that an update can have where no prompt is longer than `prompt` tokens.

    Responses are of the greatest length; a replica has its share of the update's prompts, and no more.
    """
    prompts = -(-config.train.prompts_per_update // parallel.dp)
    groups = _filled(config, prompt, prompts * config.rollout.responses_per_prompt)
    return local_batch(groups, parallel.cp, parallel.tp if parallel.sequence_parallel else 1)


def _filled(config: RunConfig, prompt: int, most_responses: int | None) -> tuple[GroupLengths, ...]:
    """A micro-batch filled with responses of the greatest length to prompts of `prompt` tokens, if there are enough."""
    response = config.rollout.sampling.max_response_tokens
    left, inputs = config.train.max_tokens_per_micro_batch, max(response - 1, 1)
    todo = left if most_responses is None else most_responses  # each takes a token or more
    groups: list[GroupLengths] = []
    while todo and (not groups or left >= prompt + inputs):
        count = min(max((left - prompt) // inputs, 1), config.rollout.responses_per_prompt, todo)
        groups.append((prompt, (response,) * count))
        left -= prompt + count * inputs
        todo -= count
    if todo and left > prompt + 1:  # a shorter response fills it up
        groups.append((prompt, (left - prompt + 1,)))
    return tuple(groups)


def worst_batch(config: RunConfig, family: Family, parallel: ParallelConfig) -> LocalBatch:
    """What a rank of a layout has of `worst_groups`."""
    groups = worst_groups(config, family.context_length)
    return local_batch(groups, parallel.cp, parallel.tp if parallel.sequence_parallel else 1)


@lru_cache(maxsize=256)
def local_batch(groups: tuple[GroupLengths, ...], cp: int, multiple_of: int) -> LocalBatch:
    """The share of the first cp rank; `multiple_of`: tp under sequence parallelism, else 1."""
    spans: list[Span] = []
    predictors: list[torch.Tensor] = []
    length = 0
    for prompt, responses in groups:
        start, stop = length, length + prompt
        spans.append(Span(start, stop))
        length = stop
        for response in responses:
            inputs = max(response - 1, 0)
            if inputs:
                spans.append(Span(length, length + inputs, start, stop))
            if response:
                predictors.append(torch.tensor([stop - 1]))
                predictors.append(torch.arange(length, length + inputs))
            length += inputs
    own = context_slice(spans, cp, 0, multiple_of)
    scored = torch.cat(predictors) if predictors else torch.empty(0, dtype=torch.int64)
    tokens = own.tokens.numel()
    here = len(own.locate(scored)[0])
    blocks = _blocks(own)
    indices = sum(block.count * (block.queries + block.keys) for block in blocks) + 2 * tokens + 2 * here
    read = _READ * (len(scored) + (here if cp > 1 else 0))
    packed = _INDEX * (2 * length + len(scored) + indices) + read + tokens
    plan = plan_varlen(own, triton=False)
    own_keys, prompt_keys = (
        0 if part is None or part.rows is None else len(part.rows) for part in (plan.own, plan.prompts)
    )
    return LocalBatch(tokens, tokens * cp, here, blocks, own_keys, prompt_keys, packed)


def _blocks(own: ContextSlice) -> tuple[Blocks, ...]:
    """The shapes of `plan_blocks` in parallel/model/block_attention.py, without its indices."""
    causal = Counter(chunk.stop - chunk.start for chunk in own.chunks)
    whole: Counter[tuple[int, int]] = Counter()
    for chunks in runs_of(own.chunks):
        first = chunks[0]
        keys = first.span.prefix_stop - first.span.prefix_start + first.start - first.span.start
        if keys:
            whole[sum(chunk.stop - chunk.start for chunk in chunks), keys] += 1
    return (
        *(Blocks(count, size, size) for size, count in causal.items()),
        *(Blocks(count, queries, keys) for (queries, keys), count in whole.items()),
    )
