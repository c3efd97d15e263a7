"""What a model's config.json may say: one strict schema for the fields that are used. All others stay as they are."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.data_only import refuse_code
from aspo_megatron.models.folder_files import refuse_foreign_files
from aspo_megatron.models.hub_name import missing
from aspo_megatron.models.run_folder_hint import of_a_run
from aspo_megatron.reading import read_json

_SHOWN = 60
"""Characters of a value that an error shows."""


# Each bound is many times the largest of any model that is known, and small enough to compute and to allocate with.
_Layers = Annotated[int, Field(gt=0, le=10_000)]
_Hidden = Annotated[int, Field(gt=0, le=1 << 20)]
_FeedForward = Annotated[int, Field(gt=0, le=1 << 22)]
_Heads = Annotated[int, Field(gt=0, le=1 << 14)]
_Vocabulary = Annotated[int, Field(gt=0, le=1 << 24)]
_Experts = Annotated[int, Field(gt=0, le=1 << 14)]
_Context = Annotated[int, Field(gt=0, le=1 << 40)]
_Positive = Annotated[float, Field(gt=0)]
_PerPair = Annotated[list[_Positive], Field(max_length=1 << 13)]
_TokenId = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
_Dtype = Literal["float32", "float16", "bfloat16", "float64"]


class _Fields(BaseModel):
    # Lax types would take "64", 2.0 and true for numbers, which Python and torch take for something else.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class RopeFields(_Fields):
    """How rotary positions are scaled; which of them a kind needs, transformers knows."""

    rope_type: Annotated[str, Field(pattern=r"^\w+$", max_length=_SHOWN)] | None = None
    type: Annotated[str, Field(pattern=r"^\w+$", max_length=_SHOWN)] | None = None
    rope_theta: _Positive | None = None
    factor: _Positive | None = None
    low_freq_factor: _Positive | None = None
    high_freq_factor: _Positive | None = None
    original_max_position_embeddings: _Context | None = None
    attention_factor: _Positive | None = None
    beta_fast: _Positive | None = None
    beta_slow: _Positive | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    short_factor: _PerPair | None = None
    long_factor: _PerPair | None = None


class ConfigFields(_Fields):
    """The fields of config.json that are used. `None`: not there, or null, which means the same."""

    num_hidden_layers: _Layers
    hidden_size: _Hidden
    intermediate_size: _FeedForward
    num_attention_heads: _Heads
    num_key_value_heads: _Heads | None = None
    head_dim: _Heads | None = None
    vocab_size: _Vocabulary
    max_position_embeddings: _Context
    rms_norm_eps: Annotated[float, Field(gt=0, le=1)]
    initializer_range: Annotated[float, Field(ge=0, le=1)] | None = None
    tie_word_embeddings: bool | None = None
    hidden_act: str | None = "silu"
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    use_sliding_window: bool | None = None
    layer_types: Annotated[list[str], Field(max_length=10_000)] | None = None
    rope_theta: _Positive | None = None
    rope_scaling: RopeFields | None = None
    rope_parameters: RopeFields | None = None
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    original_max_position_embeddings: _Context | None = None
    bos_token_id: _TokenId | None = None
    eos_token_id: _TokenId | Annotated[list[_TokenId], Field(max_length=1000)] | None = None
    pad_token_id: _TokenId | None = None
    dtype: _Dtype | None = None
    torch_dtype: _Dtype | None = None
    architectures: list[str] | None = None
    num_labels: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    num_experts: _Experts | None = None
    num_local_experts: _Experts | None = None
    num_experts_per_tok: _Experts | None = None
    moe_intermediate_size: _FeedForward | None = None
    norm_topk_prob: bool | None = None
    mlp_only_layers: list[int] | None = None
    decoder_sparse_step: int | None = None


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json in a model folder whose files are all its own, and which needs no code of its own.

    Raises:
        CheckpointError: no folder, no readable config.json, a file that lies elsewhere, or code.
    """
    path = folder / "config.json"
    try:
        if not folder.is_dir():
            raise CheckpointError(missing(folder))
        if not path.is_file() and (hint := of_a_run(folder)):
            raise CheckpointError(f"model.path: {hint}")
        if not path.is_file():
            raise CheckpointError(
                f"model.path: {one_line(folder)} holds no config.json, so it is not a Hugging Face model folder"
            )
        refuse_foreign_files(folder)
    except OSError as error:
        raise CheckpointError(f"model.path: {one_line(folder)}: cannot be read: {error.strerror}") from error
    config = read_json(path, CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{one_line(path)}: not a JSON object")
    refuse_code(folder, config)
    return config


def fields_of(path: Path, config: dict[str, Any]) -> ConfigFields:
    """The fields of `path`, a config.json, that are used.

    Raises:
        CheckpointError: one is missing, of a wrong type or out of all bounds; names it.
    """
    try:
        return ConfigFields.model_validate(config)
    except ValidationError as error:
        raise CheckpointError(f"{one_line(path)}: {_told(error)}") from error


def refuse_unsupported(path: Path, fields: ConfigFields, *, experts: bool) -> None:
    """Options of the architectures that no published model we know of needs here, and that would be wrong silently.

    `experts`: the family has some.

    Raises:
        ConfigError: names the option.
    """
    where = one_line(path)
    if fields.hidden_act != "silu":
        raise ConfigError(f"{where}: hidden_act {_short(fields.hidden_act)} is not supported, only 'silu'")
    for option in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if getattr(fields, option):
            raise ConfigError(f"{where}: {option}=true is not supported")
    for kind_of_layer in fields.layer_types or ():
        if kind_of_layer != "full_attention":
            raise ConfigError(f"{where}: layer_types: {_short(kind_of_layer)} is not supported, only 'full_attention'")
    sparse_step = 1 if fields.decoder_sparse_step is None else fields.decoder_sparse_step
    if experts and (fields.mlp_only_layers or sparse_step != 1):
        raise ConfigError(f"{where}: experts in only some layers (mlp_only_layers, decoder_sparse_step): not supported")


def _told(error: ValidationError) -> str:
    """The first thing that is wrong, in a line."""
    first = error.errors(include_url=False, include_context=False)[0]
    # pydantic adds a union's branches to the place of what is wrong in it.
    name = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
    if first["type"] == "missing":
        return f"field {name!r} is missing"
    return f"field {name!r} is {_short(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _short(value: Any) -> str:
    text = one_line(reprlib.repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
