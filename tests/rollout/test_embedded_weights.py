"""The embedded engine's weights: packed for the CPU, gone while the trainer trains. That they are all taken and used is
`test_contract.py`'s."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from aspo_megatron.config import RunConfig, SamplingConfig
from aspo_megatron.rollout.embedded.empty_model import empty_model
from aspo_megatron.rollout.embedded.engine import EmbeddedEngine
from aspo_megatron.rollout.embedded.packed_linear import PackedLinear, pack_layers, packable
from aspo_megatron.rollout.embedded.weights import EmbeddedWeights
from aspo_megatron.train.policy_engine import PolicyEngine

from .conftest import COUNTS, RAGGED, TINY_LLAMA, Policy, ask

QWEN3_8B = Path(__file__).parents[2] / "examples" / "qwen3_8b" / "model"

needs_packing = pytest.mark.skipif(not packable(torch.float32), reason="this CPU has no packed products")


@needs_packing
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 1e-5),
        pytest.param(
            torch.bfloat16, 2e-2, marks=pytest.mark.skipif(not packable(torch.bfloat16), reason="no bf16 products")
        ),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(96, 64), (5, 7), (61, 24)])
def test_products_are_those_of_linear(dtype: torch.dtype, tolerance: float, bias: bool, sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    out, features = sizes
    layers = nn.Sequential(nn.Linear(features, out, bias=bias, dtype=dtype)).requires_grad_(False)
    linear = layers[0]
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.clone()
    inputs = [torch.randn(*shape, features).to(dtype) for shape in ((1, 1), (4, 1), (16, 1), (3, 50), (7,))]
    inputs.append(torch.randn(3, 9, features).to(dtype)[:, -1:])  # the last tokens of a prompt
    expected = [layers(one) for one in inputs]
    packed = pack_layers(layers)
    assert list(packed) == ["0.weight"]
    assert isinstance(layers[0], PackedLinear)
    packed["0.weight"].pack(weight)
    weight.zero_()
    layers[0].weight.zero_()
    for one, wanted in zip(inputs, expected, strict=True):
        found = layers(one)
        assert found.is_contiguous()
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("packs", [pytest.param(True, marks=needs_packing), False])
def test_loaded_again_after_release(tied: bool, packs: bool) -> None:
    model = small_model(tied, seed=2)
    tokens = torch.arange(8).view(2, 4)
    weights = EmbeddedWeights(model, packs)
    for seed in (3, 4):
        assert not weights.present
        assert bytes_of(model) == 0
        reference = small_model(tied, seed)
        weights.load((name, tensor) for name, tensor in named(reference, tied))
        assert weights.present
        assert any(isinstance(module, PackedLinear) for module in model.modules()) == packs
        torch.testing.assert_close(model(tokens).logits, reference(tokens).logits, rtol=0, atol=1e-6)
        plain = [one for name, one in named(reference, tied) if not packs or "norm" in name or "embed" in name]
        assert bytes_of(model) == sum(one.nbytes for one in plain)
        weights.release()


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64},
}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "qwen3_moe"])
def test_an_empty_model_is_the_model_but_for_its_weights(kind: str, rope: str, tied: bool, dtype: torch.dtype) -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16} if kind == "qwen3_moe" else {}
    sizes = {**TINY_LLAMA, **experts, "tie_word_embeddings": tied, "max_position_embeddings": 256}

    def config() -> PretrainedConfig:
        return AutoConfig.for_model(kind, **sizes, rope_parameters=dict(ROPES[rope]))

    reference = AutoModelForCausalLM.from_config(config(), dtype=dtype).eval()
    before = torch.random.get_rng_state()
    model = empty_model(config(), dtype, torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert bytes_of(model) == 0
    shapes = [(name, one.shape, one.stride(), one.dtype) for name, one in reference.named_parameters()]
    assert [(name, one.shape, one.stride(), one.dtype) for name, one in model.named_parameters()] == shapes
    assert not any(parameter.requires_grad for parameter in model.parameters())
    buffers = dict(model.named_buffers())
    assert buffers.keys() == dict(reference.named_buffers()).keys()
    assert all(torch.equal(buffers[name], buffer) for name, buffer in reference.named_buffers())
    for parameter in model.parameters():
        parameter.untyped_storage().resize_(parameter.nbytes)
    model.load_state_dict(reference.state_dict())
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(model(tokens).logits, reference(tokens).logits)


def test_a_model_of_eight_billion_parameters_is_made_without_drawing_or_holding_them() -> None:
    class NothingLarge(TorchDispatchMode):
        """Raises as something is drawn, or written, that a weight could be."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not result.is_meta and result.numel() > 1 << 20:
                assert func.overloadpacket is torch.ops.aten.empty, f"{func} of {list(result.shape)}"
            return result

    tokenizer: Any = SimpleNamespace(eos_token_id=0)
    with NothingLarge():
        engine = EmbeddedEngine(QWEN3_8B, tokenizer, torch.bfloat16, torch.device("cpu"), None)
    assert sum(parameter.numel() for parameter in engine._model.parameters()) > 8e9
    assert bytes_of(engine._model) == 0
    assert engine._most_tokens() == 65536


def test_an_engine_without_weights_says_so(policy: Policy) -> None:
    engine = EmbeddedEngine(policy.folder, policy.tokenizer, torch.float32, torch.device("cpu"), 1000)
    requests, sampling = ask(RAGGED, COUNTS), SamplingConfig(max_response_tokens=3)
    engine.update_weights(policy.weights.items(), version=1)
    engine.generate(requests, sampling)
    engine.release_memory()
    for use in (lambda: engine.generate(requests, sampling), lambda: engine.prompt_log_probs(RAGGED[0])):
        with pytest.raises(RuntimeError, match="no weights"):
            use()


@pytest.mark.parametrize(
    ("rollout", "shares"),
    [
        ({"engine": "embedded"}, True),
        ({"engine": "sglang", "servers": {"probe_every": 0}}, False),
        ({"engine": "sglang", "servers": {"probe_every": 0, "colocate": True}}, True),
    ],
)
def test_an_engine_that_shares_the_trainers_memory_takes_turns(rollout: dict[str, Any], shares: bool) -> None:
    calls: list[str] = []
    engine: Any = SimpleNamespace(
        release_memory=lambda: calls.append("release"),
        resume_memory=lambda what: calls.append(f"resume {what}"),
        update_weights=lambda tensors, version: calls.append("update") or {},
    )
    model: Any = SimpleNamespace(shape=SimpleNamespace(vocab_size=9, num_experts=0), hf_tensors=lambda bucket_bytes: [])
    config = RunConfig.model_validate(
        {
            "output_dir": "run",
            "model": {"path": "."},
            "data": {"train": {"kind": "jsonl", "path": "p"}},
            "rollout": rollout,
        }
    )
    policy_engine = PolicyEngine(config, model, engine, print, lambda: calls.append("make room"))
    policy_engine.release_memory()
    policy_engine.sync(version=1)
    wanted = ["release", "make room", "resume weights", "update", "resume kv_cache"] if shares else ["update"]
    assert calls == wanted


def small_model(tied: bool, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = AutoConfig.for_model("llama", **TINY_LLAMA, tie_word_embeddings=tied)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    return model


def named(model: PreTrainedModel, tied: bool) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor) for name, tensor in model.state_dict().items() if not (tied and name == "lm_head.weight")]


def bytes_of(model: PreTrainedModel) -> int:
    return sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
