"""A Megatron-Core GPT that gives log-probs of tokens instead of logits, and the way its weights come in and go out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer import ModuleSpec, TransformerConfig
from torch import Tensor
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from aspo_megatron.data.packing import PackedBatch
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import Row, TensorSource, export_tensors, import_shard
from aspo_megatron.parallel.attention import SpanAttention, plan_blocks
from aspo_megatron.parallel.log_prob import token_log_probs
from aspo_megatron.parallel.topology import Topology


class PolicyModel(GPTModel):
    """This rank's part of the policy."""

    def __init__(self, family: Family, topology: Topology, dtype: torch.dtype) -> None:
        self.family = family
        self.topology = topology
        self.shape = family.shape(topology.tp)
        super().__init__(
            config=_transformer_config(family, topology, dtype),
            transformer_layer_spec=_layer_spec(family, topology),
            vocab_size=self.shape.padded_vocab_size,
            max_sequence_length=family.context_length,
            parallel_output=True,
            share_embeddings_and_output_weights=family.tied_embeddings,
            position_embedding_type="none",  # `_rotary` gives each packed token's angles
        )
        self.inv_freq = _inverse_frequencies(family).to(topology.platform.device)

    def forward(self, batch: PackedBatch, temperature: float, chunk: int) -> tuple[Tensor, Tensor]:
        """Log-probs and entropy of the batch's R response tokens, each [R], fp32. See `token_log_probs`."""
        hidden = self.hidden_states(batch)
        weight = self.shared_embedding_or_output_weight() if self.shape.tied_embeddings else self.output_layer.weight
        return token_log_probs(
            hidden,
            weight,
            batch.targets,
            temperature=temperature,
            vocab_size=self.shape.vocab_size,
            tp_group=self.topology.tp_group,
            chunk=chunk,
        )

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """Final hidden states at the batch's predictors, [R, hidden size], the same on all tp ranks."""
        embedded = self.embedding(input_ids=batch.input_ids[None], position_ids=None)
        hidden = self.decoder(
            hidden_states=embedded,
            attention_mask=None,
            rotary_pos_emb=self._rotary(batch.positions),
            packed_seq_params=self._attention_params(batch),
        )
        if self.config.sequence_parallel:
            # Every rank goes on with all tokens and the log-prob sums its gradient over tp, so split it here.
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        predicting: Tensor = hidden[batch.predictors, 0]
        return predicting

    def load_weights(self, source: TensorSource) -> None:
        """Copy this rank's shards from Hugging Face tensors, reading nothing else of them.

        Raises:
            CheckpointError: if a tensor is missing or its shape is another; names it.
        """
        parameters = dict(self.named_parameters())
        for name, layer, row in self._rows():
            shard = import_shard(row, layer, source, self.shape, self.topology.tp, self.topology.tp_rank)
            parameter = parameters.pop(name)
            if shard.shape != parameter.shape:
                raise CheckpointError(
                    f"{' + '.join(row.hf_names(layer))}: gives shape {list(shard.shape)} for {name}, "
                    f"config.json asks for {list(parameter.shape)}"
                )
            with torch.no_grad():
                parameter.copy_(shard)
        if parameters:
            raise CheckpointError(f"the {self.family.name} table has no row for: {', '.join(parameters)}")

    @torch.no_grad()
    def copy(self) -> PolicyModel:
        """Another model with the same weights and nothing else in common."""
        twin = PolicyModel(self.family, self.topology, self.config.params_dtype)
        twin.to(self.topology.platform.device)
        for target, source in zip(twin.parameters(), self.parameters(), strict=True):
            target.copy_(source)
        return twin

    @torch.no_grad()
    def hf_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights under their Hugging Face names, one at a time, whole on every tp rank.

        A collective over tp: all its ranks must draw the whole iterator.
        """
        parameters = dict(self.named_parameters())
        for name, layer, row in self._rows():
            shard = parameters[name].detach()
            shards = [shard]
            if row.dim is not None and self.topology.tp > 1:
                shards = [torch.empty_like(shard) for _ in range(self.topology.tp)]
                dist.all_gather(shards, shard, group=self.topology.tp_group)
            yield from export_tensors(row, layer, shards, self.shape)

    def _rows(self) -> Iterator[tuple[str, int, Row]]:
        """Megatron name, layer and row of every parameter, layer by layer."""
        engine = self.topology.platform.transformer_engine
        for row in self.family.rows:
            if not row.per_layer and row.only_if(self.shape):
                yield row.megatron_name(0, engine), 0, row
        for layer in range(self.shape.num_layers):
            for row in self.family.rows:
                if row.per_layer:
                    yield row.megatron_name(layer, engine), layer, row

    def _rotary(self, positions: Tensor) -> Tensor:
        """Rotary angles [T, 1, 1, head_dim] of packed tokens."""
        angles = torch.outer(positions.to(torch.float32), self.inv_freq)
        return torch.cat((angles, angles), dim=-1)[:, None, None, :]

    def _attention_params(self, batch: PackedBatch) -> PackedSeqParams:
        return plan_blocks(batch.spans, batch.input_ids.device)


def build_model(family: Family, topology: Topology, dtype: torch.dtype, source: TensorSource) -> PolicyModel:
    """This rank's part of a model, with its weights loaded from `source`."""
    model = PolicyModel(family, topology, dtype)
    model.load_weights(source)
    model.to(topology.platform.device)
    return model


def _layer_spec(family: Family, topology: Topology) -> ModuleSpec:
    if topology.platform.transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=family.qk_norm)
    else:
        spec = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=family.qk_norm)
    spec.submodules.self_attention.submodules.core_attention = SpanAttention
    return spec


def _transformer_config(family: Family, topology: Topology, dtype: torch.dtype) -> TransformerConfig:
    return TransformerConfig(
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
        add_qkv_bias=family.qkv_bias,
        qk_layernorm=family.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        tensor_model_parallel_size=topology.tp,
        sequence_parallel=topology.sequence_parallel,
        # Weights are loaded, not drawn.
        perform_initialization=False,
        use_cpu_initialization=True,
        # The loss carries the step's denominator, see parallel/step.py.
        calculate_per_token_loss=True,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
    )


def _inverse_frequencies(family: Family) -> Tensor:
    """Rotary frequencies [head_dim / 2], by the very functions that Hugging Face uses.

    Raises:
        ConfigError: for a scaling that also scales the attention (yarn), which is not supported.
    """
    config = AutoConfig.for_model(**family.hf_config)
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind == "default":
        exponents = torch.arange(0, family.head_dim, 2, dtype=torch.int64).to(torch.float32) / family.head_dim
        return 1.0 / torch.pow(rope["rope_theta"], exponents)
    if kind not in ROPE_INIT_FUNCTIONS:
        raise ConfigError(f"config.json: rope type {kind!r} is not known to the installed transformers")
    frequencies: Tensor
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    if attention_factor != 1.0:
        raise ConfigError(f"config.json: rope type {kind!r} scales attention by {attention_factor}: not supported")
    return frequencies
