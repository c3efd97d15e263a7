"""The cache of generation against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.rollout.embedded import kv_cache as module
from aspo_megatron.rollout.embedded.engine import EmbeddedEngine
from aspo_megatron.rollout.embedded.kv_cache import decode_cache, takes_masks

from .conftest import COUNTS, RAGGED, TINY_LLAMA, Policy, ask

CONFIG = AutoConfig.for_model("llama", **TINY_LLAMA)


@torch.no_grad()
def test_as_the_concatenating_cache() -> None:
    """Through more tokens than there is room for at a time, and rows that leave, come twice and change places."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG).eval()
    caches = DynamicCache(config=CONFIG), decode_cache(CONFIG)
    tokens = torch.randint(0, 61, (3, 5))
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[0, :2] = 0
    selections = {0: [0, 0, 1, 2, 2], 3: [4, 1, 0], 40: [2, 0, 1], 200: [1]}
    for step in range(module._ROOM * 2 + 9):
        wanted, found = (
            model(input_ids=tokens, attention_mask=mask, use_cache=True, **{module.cache_name(model): cache}).logits
            for cache in caches
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
        rows = torch.tensor(selections.get(step, range(len(mask))))
        if step in selections:
            for cache in caches:
                cache.batch_select_indices(rows)
        tokens = torch.randint(0, 61, (len(rows), 1))
        mask = torch.cat([mask[rows], mask.new_ones(len(rows), 1)], dim=1)
    for wanted_layer, layer in zip(caches[0].layers, caches[1].layers, strict=True):
        assert type(layer) is not DynamicLayer
        torch.testing.assert_close(layer.keys, wanted_layer.keys, rtol=0, atol=1e-6)
        torch.testing.assert_close(layer.values, wanted_layer.values, rtol=0, atol=1e-6)


def test_a_token_copies_no_other() -> None:
    (layer, *_) = decode_cache(CONFIG).layers
    layer.update(torch.zeros(1, 2, 7, 6), torch.zeros(1, 2, 7, 6))
    first = layer.keys.data_ptr()
    for _ in range(module._ROOM):
        layer.update(torch.ones(1, 2, 1, 6), torch.ones(1, 2, 1, 6))
        assert layer.keys.data_ptr() == first
    assert layer.get_seq_length() == 7 + module._ROOM


def test_sliding_windows_keep_their_layers() -> None:
    config = AutoConfig.for_model(
        "mistral", hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, sliding_window=4
    )
    assert all(type(layer) is DynamicSlidingWindowLayer for layer in decode_cache(config).layers)
    config._attn_implementation = "sdpa"
    assert not takes_masks(config)


@pytest.mark.parametrize("prompts", [RAGGED, [[11, 45, 8], [60, 7, 9]]], ids=["padded", "even"])
def test_numbers_are_taken_from_tensors_once_for_each_token(
    policy: Policy, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the host would wait for a GPU. The same responses come of transformers' own masks."""

    def generate(tokens: int) -> tuple[int, list[tuple[list[int], list[float]]]]:
        engine = EmbeddedEngine(policy.folder, policy.tokenizer, torch.float32, torch.device("cpu"), 65536)
        engine.update_weights(policy.weights.items(), version=1)
        requests = ask(prompts, COUNTS[: len(prompts)])
        with Numbers() as numbers:
            groups = engine.generate(requests, SamplingConfig(max_response_tokens=tokens))
        found = [
            (sample.response_ids.tolist(), sample.rollout_log_probs.tolist()) for group in groups for sample in group
        ]
        assert max(len(ids) for ids, _ in found) == tokens
        return numbers.taken, found

    (few, _), (more, found) = generate(4), generate(9)
    assert more - few == 9 - 4
    monkeypatch.setattr("aspo_megatron.rollout.embedded.engine.takes_masks", lambda config: False)
    waits, same = generate(9)
    assert waits > more
    assert same == found


@pytest.mark.parametrize("stop", [(), "some"], ids=["end tokens", "stop texts"])
def test_tokens_are_the_same_however_many_are_fetched_at_once(policy: Policy, stop: Any) -> None:
    """Rows end at different places; 41 tokens are no multiple of those at once."""
    texts = tuple(policy.tokenizer.decode([token]) for token in range(20, 24)) if stop else ()
    sampling = SamplingConfig(max_response_tokens=41, stop=texts)

    def generate(at_once: int) -> tuple[int, list[Sample]]:
        device = torch.device("cpu")
        engine = EmbeddedEngine(policy.folder, policy.tokenizer, torch.float32, device, 65536, tokens_at_once=at_once)
        engine.update_weights(policy.weights.items(), version=1)
        with Numbers() as numbers:
            groups = engine.generate(ask(RAGGED, [8] * len(RAGGED)), sampling)
        return numbers.taken, [sample for group in groups for sample in group]

    taken, want = generate(1)
    lengths = {len(sample.response_ids) for sample in want}
    assert len(lengths) > 3
    assert {"stop"} < {sample.finish_reason for sample in want} or stop
    for at_once in (3, 8):
        less, got = generate(at_once)
        assert taken - less == max(lengths) - -(-max(lengths) // at_once)
        for sample, expected in zip(got, want, strict=True):
            assert sample.response_ids.tolist() == expected.response_ids.tolist()
            assert sample.finish_reason == expected.finish_reason
            assert sample.rollout_log_probs == pytest.approx(expected.rollout_log_probs, abs=1e-5)


def test_responses_are_generated_without_attention_of_cudnn(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it takes a hundred times as long for a token: a plan is made for each number of keys."""
    engine = EmbeddedEngine(policy.folder, policy.tokenizer, torch.float32, torch.device("cpu"), 65536)
    engine.update_weights(policy.weights.items(), version=1)
    attention, allowed = torch.nn.functional.scaled_dot_product_attention, []

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    engine.generate(ask([[11, 45, 8]], [2]), SamplingConfig(max_response_tokens=3))
    assert set(allowed) == {False}
    assert torch.backends.cuda.cudnn_sdp_enabled()


class Numbers(TorchFunctionMode):
    """Counts what makes a number of Python, or a list of them, out of a tensor."""

    TAKE = (Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__index__, Tensor.__float__)

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.taken += func in self.TAKE
        return func(*args, **(kwargs or {}))
