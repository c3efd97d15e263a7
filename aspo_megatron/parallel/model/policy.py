"""The policy: this rank's chunks of it, and the way its weights come in and go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from aspo_megatron.config import ModelConfig
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import TensorSource, import_shard
from aspo_megatron.parallel.device.attention_kernels import flash_takes
from aspo_megatron.parallel.device.expert_traits import ExpertTraits
from aspo_megatron.parallel.device.kernels import choose_kernels
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.model.chunk import ModelChunk
from aspo_megatron.parallel.model.experts.gathered import GatheredExperts
from aspo_megatron.parallel.model.experts.room import ExpertRoom
from aspo_megatron.parallel.model.export import BUCKET_BYTES, Exporter, split_over
from aspo_megatron.parallel.model.spec import transformer_config


class PolicyModel(torch.nn.Module):
    """This rank's part of the policy: a chunk for each virtual pipeline stage that it holds."""

    def __init__(self, family: Family, topology: Topology, settings: ModelConfig) -> None:
        super().__init__()
        self.family = family
        self.topology = topology
        self.settings = settings
        self.kernels = choose_kernels(
            settings.kernels,
            topology.platform.machine,
            experts=ExpertTraits.of(family, topology.parallel, settings.dtype),
            flash=flash_takes(getattr(torch, settings.dtype), family.head_dim),
        )
        if self.kernels.flash_attention_3:
            topology.platform.use_flash_attention_3()
        self.config = transformer_config(family, topology, settings, self.kernels)
        self.shape = family.shape(topology.tp.size)
        self._chunks = torch.nn.ModuleList(
            ModelChunk(family, topology, self.config, stage, self.kernels, settings.recompute)
            for stage in range(topology.vpp)
        )
        self.expert_room = ExpertRoom() if self.kernels.gathered_experts else None
        for module in self._chunks.modules():
            if isinstance(module, GatheredExperts) and self.expert_room is not None:
                module.room = self.expert_room

    @property
    def chunks(self) -> list[ModelChunk]:
        """In the order of their virtual stages."""
        return cast("list[ModelChunk]", list(self._chunks))

    def load_weights(self, source: TensorSource) -> None:
        """Copy this rank's shards from Hugging Face tensors, reading nothing else of them.

        Raises:
            CheckpointError: if a tensor is missing or its shape is another; names it.
        """
        for local in (local for chunk in self.chunks for local in chunk.local_parameters()):
            names = local.row.hf_names(local.layer, local.expert)
            ranks, rank, _ = split_over(local.row, self.topology)
            shard = import_shard(local.row, names, source, self.shape, ranks, rank)
            if shard.shape != local.parameter.shape:
                raise CheckpointError(
                    f"{' + '.join(names)}: gives shape {list(shard.shape)}, "
                    f"config.json asks for {list(local.parameter.shape)}"
                )
            with torch.no_grad():
                local.parameter.copy_(shard)

    @torch.no_grad()
    def copy(self) -> PolicyModel:
        """Another model with the same weights and nothing else in common."""
        twin = PolicyModel(self.family, self.topology, self.settings)
        twin.to(self.topology.platform.device)
        for target, source in zip(twin.parameters(), self.parameters(), strict=True):
            target.copy_(source)
        return twin

    @torch.no_grad()
    def hf_tensors(
        self, take: Callable[[Tensor], Tensor] = Tensor.detach, bucket_bytes: int = BUCKET_BYTES
    ) -> Iterator[tuple[str, Tensor]]:
        """All weights under their Hugging Face names, one at a time, whole on every rank.

        A collective over tp, pp and ep: all these ranks must draw the whole iterator. `take` may choose something else
        that each parameter has, in its shape: its gradient. `bucket_bytes`: of whole tensors gathered at a time.
        """
        exporter = Exporter(self.family, self.topology, bucket_bytes)
        for chunk in self.chunks:
            yield from exporter.tensors(chunk.local_parameters(), take)


def build_model(family: Family, topology: Topology, settings: ModelConfig, source: TensorSource) -> PolicyModel:
    """This rank's part of a model, with its weights loaded from `source`."""
    model = PolicyModel(family, topology, settings)
    model.load_weights(source)
    model.to(topology.platform.device)
    return model
