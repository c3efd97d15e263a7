"""config.json: what published models say is read as ever; what is absurd is one line that names the field."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import UserError
from aspo_megatron.models.family import read_family
from aspo_megatron.models.hf_config import inverse_frequencies, transformers_config

from .folders import BASE, MOE, the_line, with_config

QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3 = {
    **QWEN2,
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
}
QWEN3_MOE = {
    **QWEN3,
    "architectures": ["Qwen3MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
LLAMA2 = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
PUBLISHED = {
    "Qwen2.5": (QWEN2, 494_032_768),
    "Qwen3": (QWEN3, 596_049_920),
    "Qwen3-MoE": (QWEN3_MOE, 30_532_122_624),
    "Llama 3": (LLAMA3, 1_235_814_400),
    "Llama 2": (LLAMA2, 6_738_415_616),
    "heads and pad null": ({**LLAMA2, "num_key_value_heads": None, "pad_token_id": None, "head_dim": None}, None),
    "pad below zero": ({**LLAMA2, "pad_token_id": -1}, None),
    "unknown fields": ({**QWEN2, "quite_new": {"a": [1, {"b": None}]}, "_attn_implementation_autoset": True}, None),
    "another attention": ({**QWEN2, "_attn_implementation": "flash_attention_2", "attn_implementation": "eager"}, None),
    "linear positions": ({**LLAMA2, "rope_scaling": {"type": "linear", "factor": 2.0}}, None),
    "its own classes in auto_map": ({**QWEN2, "auto_map": {"AutoConfig": "configuration_qwen2.Qwen2Config"}}, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_read(tmp_path: Path, name: str) -> None:
    config, parameters = PUBLISHED[name]
    family = read_family(with_config(tmp_path / "model", config))
    family.check_layout(ParallelConfig())
    assert family.hf_config == config
    assert family.num_kv_heads == (config["num_key_value_heads"] or config["num_attention_heads"])
    if parameters is not None:
        from aspo_megatron.models.counts import model_elements
        from aspo_megatron.models.mapping import hf_sizes, hf_tensors

        shape = family.shape(tp=1)
        sizes = hf_sizes(family.rows, shape)
        assert model_elements(family) == parameters == sum(math.prod(size) for size in sizes.values())
        assert hf_tensors(family.rows, shape) == len(sizes)
    understood = transformers_config(family)
    assert understood._attn_implementation == "sdpa"
    assert inverse_frequencies(family).shape == (family.head_dim // 2,)
    assert family.hf_config == config  # transformers writes defaults into what it is given


def test_a_byte_order_mark_is_none_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("\ufeff" + json.dumps(BASE))
    assert read_family(tmp_path).hf_config == BASE


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "layers 2.5": ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
    "layers 2.0": ({"num_hidden_layers": 2.0}, "num_hidden_layers"),
    "layers true": ({"num_hidden_layers": True}, "num_hidden_layers"),
    "layers 10^9": ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000"),
    "layers of 4000 digits": ({"num_hidden_layers": 10**4000}, "num_hidden_layers"),
    "hidden 10^9": ({"hidden_size": 10**9}, "hidden_size"),
    "hidden null": ({"hidden_size": None}, "hidden_size"),
    "hidden -64": ({"hidden_size": -64}, "hidden_size"),
    "hidden text": ({"hidden_size": "64"}, "hidden_size"),
    "hidden a list": ({"hidden_size": [64] * 10000}, "hidden_size"),
    "feed forward 10^12": ({"intermediate_size": 10**12}, "intermediate_size"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "heads an object": ({"num_attention_heads": {"a": 1}}, "num_attention_heads"),
    "kv heads text": ({"num_key_value_heads": "2"}, "num_key_value_heads"),
    "kv heads 0": ({"num_key_value_heads": 0}, "num_key_value_heads"),
    "kv heads that do not divide": ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
    "head size 10^9": ({"head_dim": 10**9}, "head_dim"),
    "head size odd": ({"head_dim": 15}, "head_dim 15 is odd"),
    "more heads than hidden": ({"head_dim": None, "hidden_size": 2}, "more than hidden_size 2"),
    "vocabulary 10^10": ({"vocab_size": 10**10}, "vocab_size"),
    "vocabulary missing": ({"vocab_size": ...}, "field 'vocab_size' is missing"),
    "context 0": ({"max_position_embeddings": 0}, "max_position_embeddings"),
    "norm NaN": ({"rms_norm_eps": math.nan}, "rms_norm_eps"),
    "norm infinite": ({"rms_norm_eps": math.inf}, "rms_norm_eps"),
    "norm 0": ({"rms_norm_eps": 0}, "rms_norm_eps"),
    "norm an object": ({"rms_norm_eps": {"__float__": "NaN"}}, "rms_norm_eps"),
    "tied 1": ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    "tied text": ({"tie_word_embeddings": "false"}, "tie_word_embeddings"),
    "initial NaN": ({"initializer_range": math.nan}, "initializer_range"),
    "initial text": ({"initializer_range": "0.02"}, "initializer_range"),
    "another activation": ({"hidden_act": "gelu\n\x1b[31m"}, "hidden_act"),
    "activation a list": ({"hidden_act": ["silu"]}, "hidden_act"),
    "bias text": ({"attention_bias": "no"}, "attention_bias"),
    "sliding layers": ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    "layer types a number": ({"layer_types": 5}, "layer_types"),
    "positions a text": ({"rope_scaling": "linear"}, "rope_scaling"),
    "positions a list": ({"rope_parameters": [1]}, "rope_parameters"),
    "positions by 0": ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor"),
    "positions by infinity": ({"rope_scaling": {"type": "linear", "factor": math.inf}}, "rope_scaling.factor"),
    "kind of positions no word": ({"rope_scaling": {"rope_type": "a b"}}, "rope_scaling.rope_type"),
    "kind of positions a number": ({"rope_parameters": {"rope_type": 5}}, "rope_parameters.rope_type"),
    "theta below 0": ({"rope_theta": -1.0}, "rope_theta"),
    "end token text": ({"eos_token_id": "</s>"}, "eos_token_id"),
    "end tokens 2.5": ({"eos_token_id": [1, 2.5]}, "eos_token_id"),
    "pad token 10^12": ({"pad_token_id": 10**12}, "pad_token_id"),
    "precision a function": ({"dtype": "load"}, "dtype"),
    "precision a number": ({"torch_dtype": 32}, "torch_dtype"),
    "labels without number": ({"num_labels": 10**9}, "num_labels"),
    "architectures a text": ({"architectures": "LlamaForCausalLM"}, "architectures"),
    "a million end tokens": ({"eos_token_id": [0] * 1_000_000}, "eos_token_id"),
    "a million layers' kinds": ({"layer_types": ["full_attention"] * 1_000_000}, "layer_types"),
    "a million factors": ({"rope_scaling": {"long_factor": [1.0] * 1_000_000}}, "rope_scaling.long_factor"),
    "kind a list": ({"model_type": ["llama"]}, "model_type ['llama']"),
    "kind null": ({"model_type": None}, "model_type None"),
    "kind an object": ({"model_type": {"a": "llama"}}, "model_type"),
    "kind unknown": ({"model_type": "gpt2\x1b]0;x\x07"}, "model_type"),
}
BAD_EXPERTS: dict[str, tuple[dict[str, Any], str]] = {
    "experts 10^9": ({"num_experts": 10**9}, "num_experts"),
    "experts missing": ({"num_experts": None}, "field 'num_experts' is missing"),
    "experts text": ({"num_experts": "8"}, "num_experts"),
    "more than all": ({"num_experts_per_tok": 9}, "num_experts_per_tok 9"),
    "their size missing": ({"moe_intermediate_size": ...}, "field 'moe_intermediate_size' is missing"),
    "norm text": ({"norm_topk_prob": "yes"}, "norm_topk_prob"),
    "in some layers": ({"mlp_only_layers": [0]}, "mlp_only_layers"),
    "no list of layers": ({"mlp_only_layers": "0"}, "mlp_only_layers"),
    "too many tensors": ({"num_experts": 16384, "num_hidden_layers": 10000}, "tensors, more than any model has"),
}


def changed(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**base, **change}.items() if value is not ...}


@pytest.mark.parametrize(
    ("base", "name"), [*((BASE, name) for name in BAD), *((MOE, name) for name in BAD_EXPERTS)],
    ids=[*BAD, *BAD_EXPERTS],
)  # fmt: skip
def test_an_absurd_field_is_one_line(tmp_path: Path, base: dict[str, Any], name: str) -> None:
    change, word = {**BAD, **BAD_EXPERTS}[name]
    folder = with_config(tmp_path / "model", changed(base, change))
    with pytest.raises(UserError) as raised:
        read_family(folder)
    line = the_line(raised.value, str(folder / "config.json"), word)
    assert line.isprintable()


TEXTS = {
    "nothing": "",
    "no JSON": "{",
    "a list": "[1]",
    "a text": '"x"',
    "null": "null",
    "a number": "5",
    "200000 deep": "[" * 200_000,
    "an object 200000 deep": '{"a":' * 200_000,
    "a field 500 deep": json.dumps({**BASE, "deep": json.loads("[" * 500 + "]" * 500)}),
    "a number of 5000 digits": '{"vocab_size": ' + "9" * 5000 + "}",
    "twice a mark": "\ufeff\ufeff{}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_object_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(TEXTS[name])
    with pytest.raises(UserError) as raised:
        read_family(tmp_path)
    the_line(raised.value, str(tmp_path / "config.json"))


def test_no_text_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff"}')
    with pytest.raises(UserError, match=r"config\.json: not UTF-8"):
        read_family(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.json"):
        read_family(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder"):
        read_family(tmp_path / "none")


MISUNDERSTOOD: dict[str, tuple[dict[str, Any], str]] = {
    "cache text": ({"use_cache": "yes"}, "use_cache"),
    "dropout text": ({"attention_dropout": "a"}, "attention_dropout"),
    "experts' output text": ({"pretraining_tp": "a"}, "pretraining_tp"),
    "hidden not of heads": ({"hidden_size": 66}, "multiple"),
    "pad beyond": ({"pad_token_id": 257}, "pad_token_id 257"),
    "factor missing": ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
    "unknown positions": ({"rope_parameters": {"rope_type": "no_such", "rope_theta": 1e4}}, "'no_such' is not known"),
    "scaled attention": ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "scales"),
    "half of the positions": ({"partial_rotary_factor": 0.5, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
                              "no finite frequency"),
    "theta too large": ({"rope_parameters": {"rope_type": "linear", "factor": 1e-300, "rope_theta": 1e4}}, "linear"),
}  # fmt: skip


NOT_TAKEN: dict[str, dict[str, Any]] = {
    "a method": {"to_dict": 5},
    "another method": {"get_text_config": {}, "from_dict": None, "validate": 1},
    "a class": {"__class__": "int", "__dict__": {}, "__init__": 0},
    "a parameter": {"cls": 5, "self": 6, "args": 7, "kwargs": 8},
    "its own output": {"return_dict": False, "output_hidden_states": True, "is_encoder_decoder": True},
    "labels": {"id2label": ["a"], "label2id": 5, "num_labels": 1 << 20, "problem_type": "x"},
    "experts' output": {"output_router_logits": True},
    "a name": {"name_or_path": "a/b", "_name_or_path": "deepseek-ai/deepseek-r1-distill-llama-8b"},
    "private ones": {
        "_rope_type_labels": ["a"],
        "_experts_implementation": "eager",
        "ignore_keys_at_rope_validation": 1,
    },
    "plans": {"base_model_tp_plan": {"x": "y"}, "sub_configs_defaults": {"a": {}}, "extra_files": ["x"]},
    "quantised": {"quantization_config": {"quant_method": "hqq"}},
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_transformers_has_no_field_for_is_not_given_to_it(tmp_path: Path, name: str) -> None:
    plain = transformers_config(read_family(with_config(tmp_path / "plain", BASE)))
    family = read_family(with_config(tmp_path / "model", {**BASE, **NOT_TAKEN[name]}))
    assert transformers_config(family) == plain
    assert family.hf_config == {**BASE, **NOT_TAKEN[name]}  # as it is written again


@pytest.mark.parametrize("name", MISUNDERSTOOD)
def test_what_transformers_would_take_otherwise_is_one_line(tmp_path: Path, name: str) -> None:
    change, word = MISUNDERSTOOD[name]
    family = read_family(with_config(tmp_path / "model", {**BASE, **change}))
    with pytest.raises(UserError) as raised:
        inverse_frequencies(family)
    the_line(raised.value, "config.json", word)
