"""From a Hugging Face `config.json` to a model family: its table, its sizes, and what megatron-core must be told."""

from __future__ import annotations

import json
import pkgutil
import reprlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models import families
from aspo_megatron.models.architecture import Architecture
from aspo_megatron.models.config_file import ConfigFields, fields_of, read_config, refuse_unsupported
from aspo_megatron.models.mapping import ModelShape, ParameterRow, hf_tensors

_MOST_TENSORS = 1_000_000
"""Names of so many are listed in seconds; the largest published models have a tenth."""


@dataclass(frozen=True)
class Family:
    """A model as its `config.json` describes it. `config_text` is the file's content, as JSON.

    `name` is its `model_type`; `rows` are those of the model, chosen for tied or untied embeddings.
    `num_experts` is 0 for a dense model. `norm_topk`: whether the weights of a token's experts add up to 1.
    """

    name: str
    rows: tuple[ParameterRow, ...]
    config_text: str
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
    initializer_range: float = 0.02

    @property
    def hf_config(self) -> dict[str, Any]:
        """The content of config.json: each time a copy, as libraries write into what they are given.

        A model is known by a hash of it, so it may never be another one than the file's.
        """
        content: dict[str, Any] = json.loads(self.config_text)
        return content

    def exported_config(self, dtype: str) -> dict[str, Any]:
        """The config.json of this model with weights of precision `dtype`: that of the file, but for the precision."""
        config = self.hf_config
        named = [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]
        return config | dict.fromkeys(named, dtype)

    def check_layout(self, parallel: ParallelConfig) -> None:
        """Refuse a layout that the model cannot be split into.

        Raises:
            ConfigError: names the axis and what it must divide.
        """
        self.shape(parallel.tp)
        self.stage_layers(parallel)
        if not self.num_experts:
            if parallel.ep > 1 or parallel.etp is not None:
                raise ConfigError(f"parallel.ep and parallel.etp are for experts, but {self.name} has none")
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
        reason = self._misfit(tp)
        if reason:
            fitting = ", ".join(str(size) for size in range(1, 65) if not self._misfit(size))
            raise ConfigError(f"parallel.tp={tp} {reason}; possible values: {fitting}")
        return ModelShape(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            ffn_hidden_size=self.ffn_hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            padded_vocab_size=-(-self.vocab_size // tp) * tp,
            num_experts=self.num_experts,
            expert_ffn_size=self.expert_ffn_size,
        )

    def _misfit(self, tp: int) -> str:
        """Why the model cannot be split over `tp` ranks; empty if it can."""
        feed_forward = self.num_heads if self.num_experts else self.ffn_hidden_size  # see check_layout for experts'
        rows = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        for what, size in (("attention heads", self.num_heads), ("feed-forward size", feed_forward)):
            if size % tp:
                return f"does not divide the model's {what} ({size})"
        if self.num_kv_heads % tp and tp % self.num_kv_heads:
            return f"and the model's {self.num_kv_heads} key-value heads: one must divide the other"
        if rows % tp:
            return f"does not divide the {rows} rows of the model's query, key and value projections"
        return ""


def architectures() -> dict[str, Architecture]:
    """Every family by each `model_type` of config.json that it is for: a family is a file in `models/families`."""
    found: dict[str, Architecture] = {}
    for module in pkgutil.iter_modules(families.__path__):
        architecture: Architecture = import_module(f"{families.__name__}.{module.name}").FAMILY
        found |= dict.fromkeys(architecture.model_types, architecture)
    return found


def read_family(folder: Path) -> Family:
    """The family of the model in a Hugging Face folder.

    Raises:
        CheckpointError: no folder, no readable config.json, a field that is missing or absurd; a folder that is more
            than data, see `read_config`.
        ConfigError: an architecture or an option of it that is not supported.
    """
    path = folder / "config.json"
    config = read_config(folder)
    kind, known = config.get("model_type"), architectures()
    if not isinstance(kind, str) or kind not in known:
        told = one_line(reprlib.repr(kind))
        raise ConfigError(
            f"{one_line(path)}: model_type {told} is not supported; supported: {', '.join(sorted(known))}"
        )
    fields = fields_of(path, config)
    family = _from_fields(path, kind, known[kind], fields, config)
    refuse_unsupported(path, fields, experts=known[kind].experts)
    count = hf_tensors(family.rows, family.shape(tp=1))
    if count > _MOST_TENSORS:
        raise CheckpointError(f"{one_line(path)}: asks for {count:,} tensors, more than any model has")
    return family


def _from_fields(
    path: Path, kind: str, architecture: Architecture, fields: ConfigFields, config: dict[str, Any]
) -> Family:
    heads, experts, tied = fields.num_attention_heads, architecture.experts, bool(fields.tie_word_embeddings)
    # transformers 5 writes the first name, earlier ones wrote the second.
    count = fields.num_local_experts or fields.num_experts
    needed = {
        "num_experts": count,
        "num_experts_per_tok": fields.num_experts_per_tok,
        "moe_intermediate_size": fields.moe_intermediate_size,
    }
    for name, value in needed.items() if experts else ():
        if value is None:
            raise CheckpointError(f"{one_line(path)}: field {name!r} is missing")
    family = Family(
        name=kind,
        rows=architecture.rows_of(tied_embeddings=tied),
        config_text=json.dumps(config),
        num_layers=fields.num_hidden_layers,
        hidden_size=fields.hidden_size,
        ffn_hidden_size=fields.intermediate_size,
        num_heads=heads,
        num_kv_heads=fields.num_key_value_heads or heads,
        head_dim=fields.head_dim or fields.hidden_size // heads,
        vocab_size=fields.vocab_size,
        context_length=fields.max_position_embeddings,
        norm_eps=fields.rms_norm_eps,
        tied_embeddings=tied,
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        num_experts=(count or 0) if experts else 0,
        experts_per_token=(fields.num_experts_per_tok or 0) if experts else 0,
        expert_ffn_size=(fields.moe_intermediate_size or 0) if experts else 0,
        norm_topk=bool(fields.norm_topk_prob),
        initializer_range=0.02 if fields.initializer_range is None else fields.initializer_range,
    )
    _refuse_misfits(path, family)
    return family


def _refuse_misfits(path: Path, family: Family) -> None:
    """Sizes that are possible each, and not together."""
    where, heads, kv_heads = one_line(path), family.num_heads, family.num_kv_heads
    if family.head_dim == 0:
        raise CheckpointError(f"{where}: {heads} attention heads are more than hidden_size {family.hidden_size}")
    if family.head_dim % 2:
        raise CheckpointError(f"{where}: head_dim {family.head_dim} is odd; rotary positions take pairs")
    if heads % kv_heads:
        raise CheckpointError(f"{where}: num_key_value_heads {kv_heads} does not divide the {heads} attention heads")
    if family.experts_per_token > family.num_experts:
        raise CheckpointError(
            f"{where}: num_experts_per_tok {family.experts_per_token} is more than the {family.num_experts} experts"
        )
