"""A model's config.json as transformers understands it. Its classes are imported here, which takes seconds."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.foreign_text import one_line, reason_of
from aspo_megatron.models.config_file import ConfigFields
from aspo_megatron.models.family import Family

_LEFT_OUT = ("num_labels", "output_router_logits")
"""What models of transformers can have, and nobody here asks them for."""


def transformers_config(family: Family, attention: str = "sdpa") -> PretrainedConfig:
    """The configuration of a model in transformers. `attention`: its implementation, whatever the file says of it.

    Nothing is read from the folder again, and of config.json transformers is given what it has fields for: what else
    stands there it would follow to other files and to code, or put in the place of its own methods.

    Raises:
        CheckpointError: transformers refuses it, or understands it in another way than `Family` does.
    """
    return _taken(family, family.hf_config, attention)


def config_as_left(family: Family) -> dict[str, Any]:
    """config.json as transformers leaves it: it writes defaults into the rotary fields that it is given.

    Earlier versions gave it what they then knew the model by.

    Raises:
        CheckpointError: see `transformers_config`.
    """
    given = family.hf_config
    _taken(family, given, "sdpa")
    return given


def _taken(family: Family, given: dict[str, Any], attention: str) -> PretrainedConfig:
    """What transformers makes of the content of config.json, of which it may change what is nested."""
    fields = {name: given[name] for name in sorted(_fields(CONFIG_MAPPING[family.name]) & given.keys())}
    pad = fields.get("pad_token_id")
    if pad is not None and not -family.vocab_size <= pad < family.vocab_size:  # as torch takes it
        raise CheckpointError(f"config.json: pad_token_id {pad} is none of the model's {family.vocab_size} tokens")
    try:
        with _quiet():
            config: PretrainedConfig = AutoConfig.for_model(family.name, attn_implementation=attention, **fields)
    except Exception as error:  # what it raises for wrong values has no common class
        raise CheckpointError(f"config.json: transformers refuses it: {reason_of(error)}") from error
    for name, value in _understood(family).items():
        found = getattr(config, name, None)
        if found != value and not (name == "head_dim" and found is None):  # then hidden size / heads, as in `Family`
            told = one_line(repr(found))[:80]
            raise CheckpointError(f"config.json: transformers takes {name} to be {told}, not {value}; write it there")
    return config


def inverse_frequencies(family: Family) -> Tensor:
    """Rotary frequencies [head_dim / 2], by the very functions that Hugging Face uses.

    Raises:
        CheckpointError: its fields are not what their kind needs.
        ConfigError: for a scaling that also scales the attention (yarn), which is not supported.
    """
    config = transformers_config(family)
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
        raise ConfigError(f"config.json: rope type {one_line(repr(kind))} is not known to the installed transformers")
    factor = 1.0
    try:
        with _quiet():
            if kind == "default":
                exponents = torch.arange(0, family.head_dim, 2, dtype=torch.int64).to(torch.float32) / family.head_dim
                frequencies: Tensor = 1.0 / torch.pow(rope["rope_theta"], exponents)
            else:
                frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    except Exception as error:  # as above
        raise CheckpointError(f"config.json: rope type {kind!r}: {reason_of(error)}") from error
    if kind == "longrope" and rope["original_max_position_embeddings"] < family.context_length:
        raise ConfigError("config.json: rope type 'longrope' has other frequencies for longer texts: not supported")
    if factor != 1.0:
        raise ConfigError(f"config.json: rope type {kind!r} scales attention by {factor}: not supported")
    if frequencies.numel() != family.head_dim // 2 or not torch.isfinite(frequencies).all():
        raise CheckpointError(f"config.json: rope type {kind!r} gives no finite frequency for each pair of a head")
    return frequencies


def _fields(kind: type[PretrainedConfig]) -> set[str]:
    """The fields of a model's configuration in transformers; not those that it has in common with all others."""
    if dataclasses.is_dataclass(kind):
        general = {field.name for field in dataclasses.fields(PretrainedConfig)}
        own = {field.name for field in dataclasses.fields(kind)} - general
    else:  # before 5.4
        own = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
    return (own | ConfigFields.model_fields.keys()) - set(_LEFT_OUT)


def _understood(family: Family) -> dict[str, Any]:
    sizes = {
        "num_hidden_layers": family.num_layers,
        "hidden_size": family.hidden_size,
        "num_attention_heads": family.num_heads,
        "num_key_value_heads": family.num_kv_heads,
        "head_dim": family.head_dim,
        "vocab_size": family.vocab_size,
        "rms_norm_eps": family.norm_eps,
        "tie_word_embeddings": family.tied_embeddings,
    }
    if not family.num_experts:
        return sizes | {"intermediate_size": family.ffn_hidden_size}
    return sizes | {
        "num_experts": family.num_experts,
        "num_experts_per_tok": family.experts_per_token,
        "moe_intermediate_size": family.expert_ffn_size,
        "norm_topk_prob": family.norm_topk,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers says of a configuration beside its errors."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
