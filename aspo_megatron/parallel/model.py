"""A Megatron-Core GPT that gives log-probs of tokens instead of logits, and the way its weights come in and go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer import ModuleSpec, TransformerConfig
from torch import Tensor
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from aspo_megatron.data.packing import PackedBatch
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import Row, TensorSource, export_shapes, export_tensors, import_shard
from aspo_megatron.parallel.attention import SpanAttention, plan_blocks
from aspo_megatron.parallel.context import ContextSlice, context_slice, spread
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
            pre_process=topology.is_first_stage,
            post_process=topology.is_last_stage,
            parallel_output=True,
            share_embeddings_and_output_weights=family.tied_embeddings,
            position_embedding_type="none",  # `_rotary` gives each packed token's angles
        )
        for parameter, _, row in self._rows():
            if row.dim is not None:
                # megatron marks shards as it draws their first values, which are loaded here. Unmarked ones would pass
                # for copies, of which the gradient norm counts that of tp rank 0 alone.
                parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
                parameter.partition_dim = row.dim  # type: ignore[attr-defined]
        self.inv_freq = _inverse_frequencies(family).to(topology.platform.device)

    def forward(self, batch: PackedBatch, temperature: float, chunk: int) -> Tensor:
        """Log-probs and entropy of the batch's R response tokens, [2, R], fp32, the same on all tp and cp ranks.

        See `token_log_probs`. On a pipeline stage that is not the last: the hidden states for the next one.
        """
        topology = self.topology
        multiple = topology.tp if topology.sequence_parallel else 1
        own = context_slice(batch.spans, topology.cp, topology.cp_rank, multiple)
        hidden = self.hidden_states(batch, own)
        if not topology.is_last_stage:
            return hidden
        if topology.sequence_parallel:
            # Every rank goes on with all tokens and the log-prob sums its gradient over tp, so split it here.
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        mine, local = (index.to(hidden.device) for index in own.locate(batch.predictors.cpu()))
        tied = self.shape.tied_embeddings
        result = torch.stack(
            token_log_probs(
                hidden[local, 0],
                self.shared_embedding_or_output_weight() if tied else self.output_layer.weight,
                batch.targets[mine],
                temperature=temperature,
                vocab_size=self.shape.vocab_size,
                tp_group=topology.tp_group,
                chunk=chunk,
            )
        )
        # Losses may need whole responses: all cp ranks go on with all tokens.
        return spread(result, mine, len(batch.targets), topology.cp_group) if topology.cp > 1 else result

    def hidden_states(self, batch: PackedBatch, own: ContextSlice) -> Tensor:
        """What this pipeline stage makes of the batch: [local tokens (over tp under sequence parallelism), 1, size]."""
        tokens = own.tokens.clamp(min=0).to(batch.input_ids.device)  # padding may be any token: nothing attends to it
        ids, positions = (
            values[tokens] if batch.num_tokens else torch.zeros_like(tokens)
            for values in (batch.input_ids, batch.positions)
        )
        hidden: Tensor = self.decoder(
            hidden_states=self.embedding(input_ids=ids[None], position_ids=None) if self.pre_process else None,
            attention_mask=None,
            rotary_pos_emb=self._rotary(positions),
            packed_seq_params=plan_blocks(own, ids.device),
        )
        return hidden

    def load_weights(self, source: TensorSource) -> None:
        """Copy this rank's shards from Hugging Face tensors, reading nothing else of them.

        Raises:
            CheckpointError: if a tensor is missing or its shape is another; names it.
        """
        for parameter, layer, row in self._rows():
            shard = import_shard(row, layer, source, self.shape, self.topology.tp, self.topology.tp_rank)
            if shard.shape != parameter.shape:
                raise CheckpointError(
                    f"{' + '.join(row.hf_names(layer))}: gives shape {list(shard.shape)}, "
                    f"config.json asks for {list(parameter.shape)}"
                )
            with torch.no_grad():
                parameter.copy_(shard)

    @torch.no_grad()
    def copy(self) -> PolicyModel:
        """Another model with the same weights and nothing else in common."""
        twin = PolicyModel(self.family, self.topology, self.config.params_dtype)
        twin.to(self.topology.platform.device)
        for target, source in zip(twin.parameters(), self.parameters(), strict=True):
            target.copy_(source)
        return twin

    @torch.no_grad()
    def hf_tensors(self, take: Callable[[Tensor], Tensor] = Tensor.detach) -> Iterator[tuple[str, Tensor]]:
        """All weights under their Hugging Face names, one at a time, whole on every rank.

        A collective over tp and pp: all these ranks must draw the whole iterator. `take` may choose something else
        that each parameter has, in its shape: its gradient.
        """
        topology = self.topology
        for stage in range(topology.pp):
            own = self._stage_tensors(take)
            if topology.pp == 1:
                yield from own
                return
            coming = [list(self._stage_shapes()) if stage == topology.pp_rank else None]
            source = topology.stage_rank(stage)
            dist.broadcast_object_list(coming, src=source, group=topology.pp_group)
            for name, shape in coming[0] or []:
                if stage == topology.pp_rank:
                    _, tensor = next(own)
                else:
                    tensor = torch.empty(shape, dtype=self.config.params_dtype, device=topology.platform.device)
                dist.broadcast(tensor, src=source, group=topology.pp_group)
                yield name, tensor

    def _stage_tensors(self, take: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The Hugging Face tensors of this pipeline stage; a collective over tp."""
        tp = self.topology.tp
        for parameter, layer, row in self._rows():
            if row.copy:
                continue
            shard = take(parameter)
            shards = [shard]
            if row.dim is not None and tp > 1:
                shards = [torch.empty_like(shard) for _ in range(tp)]
                dist.all_gather(shards, shard, group=self.topology.tp_group)
            yield from export_tensors(row, layer, shards, self.shape)

    def _stage_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for parameter, layer, row in self._rows():
            if not row.copy:
                yield from export_shapes(row, layer, parameter.shape, self.shape, self.topology.tp)

    def _rows(self) -> Iterator[tuple[Tensor, int, Row]]:
        """Every parameter of this stage with its row; the layer's number counts over the whole model.

        Raises:
            CheckpointError: if the table has no row for a parameter.
        """
        parameters = dict(self.named_parameters())
        engine = self.topology.platform.transformer_engine
        rows = [row for row in self.family.rows if row.only_if(self.shape)]
        for row in rows:
            name = row.megatron_name(0, engine)
            if not row.per_layer and name in parameters:
                yield parameters.pop(name), 0, row
        for index, layer in enumerate(self.decoder.layers):
            for row in rows:
                if row.per_layer:
                    yield parameters.pop(row.megatron_name(index, engine)), layer.layer_number - 1, row
        if parameters:
            raise CheckpointError(f"the {self.family.name} table has no row for: {', '.join(parameters)}")

    def _rotary(self, positions: Tensor) -> Tensor:
        """Rotary angles [T, 1, 1, head_dim] of packed tokens."""
        angles = torch.outer(positions.to(torch.float32), self.inv_freq)
        return torch.cat((angles, angles), dim=-1)[:, None, None, :]


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
        context_parallel_size=topology.cp,
        pipeline_model_parallel_size=topology.pp,
        # Micro-batches differ in length; megatron then asks for this dispatcher, for dense models too.
        variable_seq_lengths=topology.pp > 1,
        moe_token_dispatcher_type="alltoall",
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
