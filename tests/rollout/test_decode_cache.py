"""The cache of generation against transformers' own."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from aspo_megatron.rollout import decode_cache as module
from aspo_megatron.rollout.decode_cache import decode_cache

from .conftest import TINY_LLAMA

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
            model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True).logits
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
