"""From a Hugging Face `config.json` to a model family: its table, its sizes, and what megatron-core must be told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.models import llama, qwen2, qwen3, qwen3_moe
from aspo_megatron.models.mapping import ModelShape, Row

_ROWS: dict[str, tuple[Row, ...]] = {
    "llama": llama.ROWS,
    "qwen2": qwen2.ROWS,
    "qwen3": qwen3.ROWS,
    "qwen3_moe": qwen3_moe.ROWS,
}


@dataclass(frozen=True)
class Family:
    """A model as its `config.json` describes it. `hf_config` is the file's content.

    `num_experts` is 0 for a dense model. `norm_topk`: whether the weights of a token's experts add up to 1.
    """

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
    num_experts: int = 0
    experts_per_token: int = 0
    expert_ffn_size: int = 0
    norm_topk: bool = True

    def check_layout(self, parallel: ParallelConfig) -> None:
        """Refuse a layout that the model cannot be split into.

        Raises:
            ConfigError: names the axis and what it must divide.
        """
        self.shape(parallel.tp)
        self.stage_layers(parallel)
        if not self.num_experts:
            if parallel.ep > 1 or parallel.etp is not None:
                raise ConfigError(f"parallel.ep and parallel.etp are for experts, which {self.name} has none of")
            return
        if parallel.tp > 1 and not parallel.sequence_parallel:
            raise ConfigError(
                f"parallel.tp={parallel.tp} with experts ({self.name}) needs parallel.sequence_parallel=true: "
                "otherwise every tp rank would send the same tokens to the experts"
            )
        if self.num_experts % parallel.ep:
            raise ConfigError(f"parallel.ep={parallel.ep} does not divide the model's {self.num_experts} experts")
        if self.expert_ffn_size % parallel.expert_tp:
            raise ConfigError(
                f"parallel.etp={parallel.expert_tp} (by default tp) does not divide the experts' feed-forward size "
                f"({self.expert_ffn_size})"
            )

    def stage_layers(self, parallel: ParallelConfig) -> tuple[int, ...]:
        """Layers of each virtual pipeline stage, in the model's order; `parallel.pp_layers`, or as even as it goes.

        Stage i lies on pipeline rank i modulo pp. What is left of an even split goes to the stages in the middle: the
        first also embeds, the last also computes log-probs.

        Raises:
            ConfigError: too few layers, or `pp_layers` does not add up.
        """
        stages = parallel.pp * parallel.vpp
        if parallel.pp_layers is not None:
            if sum(parallel.pp_layers) != self.num_layers:
                raise ConfigError(
                    f"parallel.pp_layers: {list(parallel.pp_layers)} add up to {sum(parallel.pp_layers)}, "
                    f"the model has {self.num_layers} layers"
                )
            return parallel.pp_layers
        if self.num_layers < stages:
            raise ConfigError(
                f"parallel: {stages} pipeline stages (pp={parallel.pp} x vpp={parallel.vpp}) are more than the model's "
                f"{self.num_layers} layers"
            )
        even, left = divmod(self.num_layers, stages)
        middle_first = sorted(range(stages), key=lambda stage: (stage in (0, stages - 1), stage == stages - 1))
        return tuple(even + (stage in middle_first[:left]) for stage in range(stages))

    def shape(self, tp: int) -> ModelShape:
        """The sizes under tp-way tensor parallelism; the vocabulary is padded to a multiple of tp.

        Raises:
            ConfigError: if tp does not divide the heads or the feed-forward size.
        """
        feed_forward = self.num_heads if self.num_experts else self.ffn_hidden_size  # see check_layout for experts'
        for what, size in (("attention heads", self.num_heads), ("feed-forward size", feed_forward)):
            if size % tp:
                fitting = [n for n in range(1, 65) if not self.num_heads % n and not feed_forward % n]
                raise ConfigError(
                    f"parallel.tp={tp} does not divide the model's {what} ({size}); possible values: "
                    + ", ".join(map(str, fitting))
                )
        if self.num_kv_heads % tp and tp % self.num_kv_heads:
            raise ConfigError(
                f"parallel.tp={tp} and the model's {self.num_kv_heads} key-value heads: one must divide the other"
            )
        rows = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        if rows % tp:
            raise ConfigError(
                f"parallel.tp={tp} does not divide the {rows} rows of the model's query, key and value projections"
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
            num_experts=self.num_experts,
            expert_ffn_size=self.expert_ffn_size,
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
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not a JSON object")
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
    experts = kind == "qwen3_moe"
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
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        # transformers 5 writes the first name, earlier ones wrote the second.
        num_experts=config.get("num_local_experts") or config["num_experts"] if experts else 0,
        experts_per_token=config["num_experts_per_tok"] if experts else 0,
        expert_ffn_size=config["moe_intermediate_size"] if experts else 0,
        norm_topk=config.get("norm_topk_prob", False),
    )


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    """Options of the architectures that no published model we know of needs here, and that would be wrong silently."""
    if config.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{path}: hidden_act {config['hidden_act']!r} is not supported, only 'silu'")
    for option in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if config.get(option):
            raise ConfigError(f"{path}: {option}=true is not supported")
    if config["model_type"] == "qwen3_moe" and (
        config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1
    ):
        raise ConfigError(f"{path}: experts in some layers alone (mlp_only_layers, decoder_sparse_step): not supported")
