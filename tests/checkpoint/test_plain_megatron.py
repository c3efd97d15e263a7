"""A converted checkpoint in a `GPTModel` as megatron's own programs build it, as docs/interoperability.md has it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from transformers import AutoModelForCausalLM

from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron, megatron_to_hf
from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from distributed import Ranks
from tiny_models import llama_folder

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

PLATFORM = PlatformConfig(device="cpu", timeout_minutes=2)
LAYER_BY_LAYER = {"singleton_local_shards": True}
"""The names under which megatron writes each layer, and gate and up projection, as tensors of their own."""


def plain_model(folder: Path) -> Any:
    """megatron's `GPTModel` with its own attention, rotary positions and output layer; weights drawn."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    family = read_family(folder)
    config = TransformerConfig(
        num_layers=family.num_layers,
        hidden_size=family.hidden_size,
        ffn_hidden_size=family.ffn_hidden_size,
        num_attention_heads=family.num_heads,
        num_query_groups=family.num_kv_heads,
        kv_channels=family.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=family.norm_eps,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
    )
    return GPTModel(
        config,
        get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=family.shape(tp=1).padded_vocab_size,
        max_sequence_length=64,
        share_embeddings_and_output_weights=True,
        position_embedding_type="rope",
        rotary_base=10000,
    )


def described(model: Any, metadata: dict[str, Any] | None) -> dict[str, Any]:
    found = model.sharded_state_dict(metadata=metadata)
    return {name: value for name, value in found.items() if not name.endswith("_extra_state")}


def logits_of(folder: Path, checkpoint: Path, ids: Tensor) -> Tensor:
    with process_grid(ParallelConfig(), PLATFORM, seed=1):
        from megatron.core import dist_checkpointing

        model = plain_model(folder).eval()
        model.load_state_dict(dist_checkpointing.load(described(model, LAYER_BY_LAYER), str(checkpoint)), strict=False)
        positions = torch.arange(ids.shape[1])[None]
        mask = torch.ones(1, 1, ids.shape[1], ids.shape[1]).triu(1).bool()
        with torch.no_grad():
            logits: Tensor = model(ids, positions, mask)
        return logits


def refused_stacked(folder: Path, checkpoint: Path) -> str:
    """With the names that megatron takes where nothing is said: all layers of a kind as one tensor."""
    with process_grid(ParallelConfig(), PLATFORM, seed=1):
        from megatron.core import dist_checkpointing

        model = plain_model(folder)
        try:
            dist_checkpointing.load(described(model, None), str(checkpoint))
        except CheckpointException as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("model") / "llama", tied=True)


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "checkpoint"
    hf_to_megatron(folder, target, converter_layout(read_family(folder), tp=2), None, lambda count: None)
    return target


def test_a_plain_model_of_megatron_computes_what_transformers_does(ranks: Ranks, folder: Path, converted: Path) -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    (got,) = ranks.run(1, logits_of, folder, converted, ids)
    with torch.no_grad():
        want = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert (got[..., : want.shape[-1]] - want).abs().max() < 1e-5


def test_layers_in_one_tensor_are_not_there(ranks: Ranks, folder: Path, converted: Path) -> None:
    (said,) = ranks.run(1, refused_stacked, folder, converted)
    assert "decoder.layers.self_attention.linear_qkv.layer_norm_weight from model not in state dict" in said


def test_a_checkpoint_without_our_manifest_is_refused_in_one_line(converted: Path, tmp_path: Path) -> None:
    """As megatron's own programs write it: the same files of tensors, an index, and no manifest."""
    plain = tmp_path / "iter_0000007"
    shutil.copytree(converted, plain)
    (plain / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing, so this is not a complete checkpoint$"):
        megatron_to_hf(plain, tmp_path / "back", None, lambda count: None)
    assert not (tmp_path / "back").exists()
