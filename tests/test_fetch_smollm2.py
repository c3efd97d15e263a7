"""The quickstart's model comes from a GGUF file: what `fetch_smollm2.py` makes of a small one."""

from __future__ import annotations

import runpy
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from aspo_megatron.models.family import read_family

ROOT = Path(__file__).parents[1]
HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
LETTERS = [chr(97 + n) for n in range(26)]
TOKENS = ["<|endoftext|>", *LETTERS, "ab", "\u0120", "\u0120a"]
MERGES = ["a b", "\u0120 a"]


def write_gguf(path: Path, weights: dict[str, np.ndarray]) -> None:
    """As llama.cpp has a Llama: norms in fp32, matrices of 4 bits."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in weights.items():
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_model_folder(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for part, shape in {
            "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN),
            "attn_v": (kv, HIDDEN), "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN),
            "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{part}.weight"] = shape
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    write_gguf(tmp_path / "model.gguf", weights)

    runpy.run_path(str(ROOT / "examples" / "quickstart" / "fetch_smollm2.py"))["convert"](
        tmp_path / "model.gguf", tmp_path / "folder"
    )

    family = read_family(tmp_path / "folder")
    assert (family.name, family.hidden_size, family.num_heads) == ("llama", HIDDEN, HEADS)
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    for name, part in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
        "model.norm.weight": "output_norm.weight",
    }.items():
        error = (tensors[name] - torch.from_numpy(weights[part])).abs().max().item()
        assert error == pytest.approx(0.0, abs=0.3 if weights[part].ndim == 2 else 1e-6), name  # a step of 4 bits
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer.decode(tokenizer("ab a").input_ids, skip_special_tokens=True) == "ab a"
