"""Packing against brute force: every token, position, predictor and weight is where the samples say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from aspo_megatron.data.packing import PackedBatch, pack, packed_length, split_by_budget
from aspo_megatron.data.samples import Sample

from .samples import make_group, make_groups

SHAPES = [(4, (1, 5, 3)), (1, (1,)), (7, (2, 1, 1, 6)), (2, (4, 4))]


def weights_of(groups: list[list[Sample]]) -> list[list[float]]:
    return [[10.0 * number + index for index in range(len(group))] for number, group in enumerate(groups)]


def context(batch: PackedBatch, index: int) -> list[int]:
    """The token ids that packed token `index` sees, in the order of their positions."""
    (span,) = [span for span in batch.spans if span.start <= index < span.stop]
    seen = [*range(span.prefix_start, span.prefix_stop), *range(span.start, index + 1)]
    assert batch.positions[seen].tolist() == list(range(len(seen)))
    return batch.input_ids[seen].tolist()


def test_every_target_is_predicted_from_its_own_context() -> None:
    groups = make_groups(SHAPES)
    batch = pack(groups, weights_of(groups))
    row = 0
    for sample in (sample for group in groups for sample in group):
        for token, target in enumerate(sample.response_ids):
            assert batch.targets[row] == target
            seen = context(batch, int(batch.predictors[row]))
            assert seen == [*sample.prompt_ids, *sample.response_ids[:token]]
            row += 1
    assert row == len(batch.targets) == len(batch.predictors)


def test_per_token_fields_are_those_of_the_sample() -> None:
    groups = make_groups(SHAPES)
    samples = [sample for group in groups for sample in group]
    generator = np.random.default_rng(1)
    for sample in samples:
        sample.response_mask = generator.random(len(sample.response_ids)) < 0.6
        sample.old_log_probs = generator.normal(size=len(sample.response_ids)).astype(np.float32)
    samples[2].ref_log_probs = np.arange(3, dtype=np.float32) + 1
    samples[2].selected = np.array([True, False, True])
    batch = pack(groups, weights_of(groups))
    weights = [weight for row in weights_of(groups) for weight in row]

    bounds = batch.cu_seqlens.tolist()
    assert len(bounds) == len(samples) + 1
    for sample, weight, start, stop in zip(samples, weights, bounds[:-1], bounds[1:], strict=True):
        assert stop - start == len(sample.response_ids)
        assert batch.weights[start:stop].eq(weight).all()
        assert batch.advantages[start:stop].eq(torch.tensor(sample.advantage, dtype=torch.float32)).all()
        assert np.array_equal(batch.mask[start:stop], sample.response_mask)
        assert sample.old_log_probs is not None
        assert np.array_equal(batch.old_log_probs[start:stop], sample.old_log_probs)
        assert np.array_equal(batch.rollout_log_probs[start:stop], sample.rollout_log_probs)
        want = np.zeros(stop - start) if sample.ref_log_probs is None else sample.ref_log_probs
        assert np.array_equal(batch.ref_log_probs[start:stop], want)
        chosen = np.zeros(stop - start, dtype=np.bool_) if sample.selected is None else sample.selected
        assert np.array_equal(batch.selected[start:stop], chosen)
    dtypes = {
        field.name: getattr(batch, field.name).dtype for field in dataclasses.fields(batch) if field.name != "spans"
    }
    assert dtypes.pop("mask") == dtypes.pop("selected") == torch.bool
    integers = {"input_ids", "positions", "predictors", "targets", "cu_seqlens"}
    assert {name for name, dtype in dtypes.items() if dtype == torch.int64} == integers
    assert all(dtype == torch.float32 for name, dtype in dtypes.items() if name not in integers)


def test_length_is_one_prompt_and_the_responses_without_their_last_tokens() -> None:
    groups = make_groups(SHAPES)
    batch = pack(groups, weights_of(groups))
    own = sum(prompt + sum(length - 1 for length in responses) for prompt, responses in SHAPES)
    assert sum(packed_length(group) for group in groups) == own
    assert batch.num_tokens == len(batch.positions) == own
    # Spans cover all tokens once.
    assert [index for span in batch.spans for index in range(span.start, span.stop)] == list(range(own))


def test_no_samples() -> None:
    batch = pack([], [])
    assert batch.num_tokens == 0
    assert len(batch.targets) == len(batch.predictors) == len(batch.weights) == 0
    assert batch.cu_seqlens.tolist() == [0]


@pytest.mark.parametrize("lengths", [(0,), (0, 2), (2, 0), (3, 0, 0, 1)])
def test_empty_response(lengths: tuple[int, ...]) -> None:
    """An aborted response may hold no token: it costs nothing and predicts nothing."""
    group = make_group(0, 3, lengths)
    batch = pack([group], [[1.0] * len(group)])
    assert batch.num_tokens == packed_length(group) == 3 + sum(max(length - 1, 0) for length in lengths)
    assert len(batch.predictors) == len(batch.targets) == sum(lengths)
    assert batch.cu_seqlens.diff().tolist() == list(lengths)
    row = 0
    for sample in group:
        for token in range(len(sample.response_ids)):
            assert context(batch, int(batch.predictors[row])) == [*sample.prompt_ids, *sample.response_ids[:token]]
            row += 1


def test_budget() -> None:
    groups = make_groups([(5, (9, 2, 30, 1, 1, 7)), (3, (1,)), (12, (20, 20)), (40, (8,)), (2, (2, 3, 2))])
    for budget in (1, 16, 33, 47, 1000):
        batches = split_by_budget(groups, budget)
        assert all(batches)
        for pieces in batches:
            total = sum(packed_length(piece) for piece in pieces)
            assert total == pack(pieces, [[0.0] * len(piece) for piece in pieces]).num_tokens
            single = len(pieces) == 1 and len(pieces[0]) == 1
            assert total <= budget or single
        # Every sample is in exactly one micro-batch, and only samples of one prompt share it.
        seen = [id(sample) for pieces in batches for piece in pieces for sample in piece]
        assert sorted(seen) == sorted(id(sample) for group in groups for sample in group)
        assert all(len({sample.group for sample in piece}) == 1 for pieces in batches for piece in pieces)
    assert len(split_by_budget(groups, 1000)) == 1
    assert len(split_by_budget(groups, 1)) == 13


def test_budget_splits_a_group_no_more_than_needed() -> None:
    (group,) = make_groups([(10, (6, 6, 6, 6, 6))])  # 10 + 5 n tokens
    assert [len(piece) for (piece,) in split_by_budget([group], 20)] == [2, 2, 1]
    assert [len(piece) for (piece,) in split_by_budget([group], 35)] == [5]


def test_groups_that_fill_the_budget_share_a_micro_batch() -> None:
    groups = make_groups([(10, (6,)), (4, (2, 1)), (3, (3,))])  # 15, 5 and 5 tokens
    assert [sum(packed_length(piece) for piece in pieces) for pieces in split_by_budget(groups, 20)] == [20, 5]


def test_budget_without_groups() -> None:
    assert split_by_budget([], 100) == []
