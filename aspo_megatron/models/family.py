"""From a Hugging Face `config.json` to a model family: its table, its sizes, and what megatron-core must be told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.models import llama, qwen2, qwen3
from aspo_megatron.models.mapping import ModelShape, Row

_ROWS: dict[str, tuple[Row, ...]] = {"llama": llama.ROWS, "qwen2": qwen2.ROWS, "qwen3": qwen3.ROWS}


@dataclass(frozen=True)
class Family:
    """A model as its `config.json` describes it. `hf_config` is the file's content."""

    name: str
    rows: tuple[Row, ...]
    hf_config: dict[str, Any]
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    norm_eps: float
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool

    def check_layout(self, parallel: ParallelConfig) -> None:
        """Refuse a layout that the model cannot be split into.

        Raises:
            ConfigError: names the axis and what it must divide.
        """
        self.shape(parallel.tp)
        if self.num_layers % parallel.pp:
            fitting = [n for n in range(1, self.num_layers + 1) if not self.num_layers % n]
            raise ConfigError(
                f"parallel.pp={parallel.pp} does not divide the model's {self.num_layers} layers; possible values: "
                + ", ".join(map(str, fitting))
            )

    def shape(self, tp: int) -> ModelShape:
        """The sizes under tp-way tensor parallelism; the vocabulary is padded to a multiple of tp.

        Raises:
            ConfigError: if tp does not divide the heads or the feed-forward size.
        """
        for what, size in (("attention heads", self.num_heads), ("feed-forward size", self.ffn_hidden_size)):
            if size % tp:
                fitting = [n for n in range(1, 65) if not self.num_heads % n and not self.ffn_hidden_size % n]
                raise ConfigError(
                    f"parallel.tp={tp} does not divide the model's {what} ({size}); possible values: "
                    + ", ".join(map(str, fitting))
                )
        if self.num_kv_heads % tp and tp % self.num_kv_heads:
            raise ConfigError(
                f"parallel.tp={tp} and the model's {self.num_kv_heads} key-value heads: one must divide the other"
            )
        return ModelShape(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            ffn_hidden_size=self.ffn_hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            padded_vocab_size=-(-self.vocab_size // tp) * tp,
            tied_embeddings=self.tied_embeddings,
        )


def read_family(folder: Path) -> Family:
    """The family of the model in a Hugging Face folder.

    Raises:
        CheckpointError: no folder, no readable config.json, or a field is missing.
        ConfigError: an architecture or an option of it that is not supported.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise CheckpointError(f"model.path: there is no folder {folder}")
    if not path.is_file():
        raise CheckpointError(f"model.path: {folder} holds no config.json, so it is not a Hugging Face model folder")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    kind = config.get("model_type")
    if kind not in _ROWS:
        raise ConfigError(f"{path}: model_type {kind!r} is not supported; supported: {', '.join(sorted(_ROWS))}")
    try:
        family = _from_config(kind, config)
    except KeyError as error:
        raise CheckpointError(f"{path}: field {error} is missing") from error
    _refuse_unsupported(path, config)
    return family


def _from_config(kind: str, config: dict[str, Any]) -> Family:
    heads = config["num_attention_heads"]
    return Family(
        name=kind,
        rows=_ROWS[kind],
        hf_config=config,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        tied_embeddings=config.get("tie_word_embeddings", False),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
    )


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    """Options of the architectures that no published model we know of needs here, and that would be wrong silently."""
    if config.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{path}: hidden_act {config['hidden_act']!r} is not supported, only 'silu'")
    for option in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if config.get(option):
            raise ConfigError(f"{path}: {option}=true is not supported")
