"""A run of layers of a Megatron-Core GPT that gives log-probs of tokens instead of logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from aspo_megatron.config.words import Recompute
from aspo_megatron.data.packing import PackedBatch
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import Family
from aspo_megatron.models.hf_config import inverse_frequencies
from aspo_megatron.models.mapping import ParameterRow, each_parameter
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.device.rotary import rotary_table
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.log_prob.autograd import token_log_probs, token_objective
from aspo_megatron.parallel.log_prob.vocabulary import chunk_for
from aspo_megatron.parallel.model.context_parallel import spread
from aspo_megatron.parallel.model.micro_batch import MicroBatch
from aspo_megatron.parallel.model.spec import layer_spec
from aspo_megatron.parallel.model.token_rows import take

BatchDerivative = Callable[[PackedBatch, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Of a token-wise loss, for some scored tokens with their log-probs and entropy: d loss / d log-prob, and d loss /
d entropy or None for zero."""


@dataclass(frozen=True)
class LocalParameter:
    """A parameter, or a shard of it, that this rank holds; `layer` and `expert` count over the whole model."""

    parameter: Tensor
    row: ParameterRow
    layer: int
    expert: int


class ModelChunk(GPTModel):
    """The layers of one (virtual) pipeline stage, tokens embedded before the first, log-probs after the last."""

    def __init__(
        self,
        family: Family,
        topology: Topology,
        config: TransformerConfig,
        virtual_stage: int,
        kernels: Kernels,
        recompute: Recompute,
    ) -> None:
        self.family = family
        self._kernels = kernels
        self.topology = topology
        self.shape = family.shape(topology.tp.size)
        self.is_first = topology.pp.rank == 0 and virtual_stage == 0
        self.is_last = topology.pp.rank == topology.pp.size - 1 and virtual_stage == topology.vpp - 1
        super().__init__(
            config=config,
            transformer_layer_spec=layer_spec(family, kernels, recompute),
            vocab_size=self.shape.padded_vocab_size,
            max_sequence_length=family.context_length,
            pre_process=self.is_first,
            post_process=self.is_last,
            parallel_output=True,
            share_embeddings_and_output_weights=family.tied_embeddings,
            position_embedding_type="none",  # each packed token has its own, see `_rotary`
            vp_stage=virtual_stage if topology.vpp > 1 else None,
        )
        for local in self.local_parameters():
            if local.row.dim is not None:
                # megatron marks shards as it draws their first values, which are loaded here. Unmarked ones would pass
                # for copies, of which the gradient norm counts that of tp rank 0 alone.
                local.parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
                local.parameter.partition_dim = local.row.dim  # type: ignore[attr-defined]
            if local.row.per_expert and (topology.ep.size > 1 or topology.etp.size != topology.tp.size):
                # megatron marks experts only where ep > 1, and would sum the others' gradients over the ranks that
                # share the dense layers. Who has a copy of an expert depends on etp as well. Where these are the same
                # ranks, experts stay with the rest: with buffers and a norm of their own, an update waits once more.
                local.parameter.allreduce = False  # type: ignore[attr-defined]
        self.inv_freq = inverse_frequencies(family).to(topology.platform.device)

    def forward(
        self, micro_batch: MicroBatch, temperature: float, chunk: int | None, derivative: BatchDerivative | None = None
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, tuple[Tensor, Tensor]]:
        """Log-probs and entropy of the batch's R response tokens, [R] each, fp32, the same on all tp and cp ranks.

        See `token_log_probs`. With the `derivative` of a token-wise loss: a scalar 0 whose backward gives its gradient
        (the weight's is added to `main_grad` at once, see `token_objective`), and the log-probs and entropy without
        gradient. From any chunk but the last: the hidden states for the next one.
        """
        topology = self.topology
        hidden = self.hidden_states(micro_batch)
        if not self.is_last:
            return hidden
        if topology.sequence_parallel:
            # Every rank goes on with all tokens. Backward sums and splits what each has of their gradient in one.
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True)
        hidden = take(hidden.squeeze(1), micro_batch.predictors)
        own = micro_batch.scored
        tied = self.family.tied_embeddings
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        options: dict[str, Any] = {
            "temperature": temperature,
            "vocab_size": self.shape.vocab_size,
            "tp_group": topology.tp.group,
            "chunk": chunk or chunk_for(weight),
            "triton": self._kernels.triton_log_prob,
            "sum_hidden_grad": not topology.sequence_parallel,
        }
        if derivative is None:
            return self._on_all_cp_ranks(token_log_probs(hidden, weight, own.targets, **options), micro_batch)

        def of_chunk(tokens: slice, log_probs: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor | None]:
            return derivative(own.of_tokens(tokens), log_probs, entropy)

        anchor, *values = token_objective(
            hidden, weight, own.targets, of_chunk, weight_grad=weight.main_grad, **options
        )
        return anchor, self._on_all_cp_ranks((values[0], values[1]), micro_batch)

    def _on_all_cp_ranks(self, values: tuple[Tensor, Tensor], micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Losses may need whole responses: all cp ranks go on with all tokens."""
        if self.topology.cp.size == 1:
            return values
        size = len(micro_batch.batch.targets)
        log_probs, entropy = spread(values, micro_batch.mine, size, self.topology.cp.group)
        return log_probs, entropy

    def hidden_states(self, micro_batch: MicroBatch) -> Tensor:
        """What this chunk makes of the batch: [local tokens (over tp under sequence parallelism), 1, size]."""
        ids = micro_batch.input_ids[None]
        hidden: Tensor = self.decoder(
            hidden_states=self.embedding(input_ids=ids, position_ids=None) if self.pre_process else None,
            attention_mask=None,
            rotary_pos_emb=self._rotary(micro_batch.positions),
            packed_seq_params=micro_batch.attention,
            padding_mask=micro_batch.padding,
        )
        return hidden

    def local_parameters(self) -> Iterator[LocalParameter]:
        """Every parameter of this chunk with its row.

        Raises:
            CheckpointError: if the table has no row for a parameter.
        """
        topology = self.topology
        engine, grouped = self._kernels.transformer_engine, self._kernels.grouped_gemm
        parameters = dict(self.named_parameters())
        experts = self.shape.num_experts // topology.ep.size
        layers = [layer.layer_number - 1 for layer in self.decoder.layers]
        for row, index, number in each_parameter(self.family.rows, range(len(layers)), range(experts)):
            name = row.megatron_name(index, number, engine, grouped)
            if row.per_layer or name in parameters:  # other stages have embeddings, final norm and output layer
                layer = layers[index] if row.per_layer else 0
                expert = topology.ep.rank * experts + number if row.per_expert else 0
                yield LocalParameter(parameters.pop(name), row, layer, expert)
        if parameters:
            raise CheckpointError(f"the {self.family.name} table has no row for: {', '.join(parameters)}")

    def _rotary(self, positions: Tensor) -> Tensor:
        """Of packed tokens, [T, 1, 1, head_dim] fp32: rotary angles, or for our kernel their cosines and sines."""
        if self._kernels.triton_rotary:
            return rotary_table(positions, self.inv_freq)
        angles = torch.outer(positions.to(torch.float32), self.inv_freq)
        return torch.cat((angles, angles), dim=-1)[:, None, None, :]
