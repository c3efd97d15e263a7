"""What pipeline stages send each other: hidden states of shapes that all of them know beforehand.

Micro-batches differ in length. megatron-core then has each stage send a tensor's shape before the tensor, and wait for
it: twice for each micro-batch a GPU stands still. But the stages of a replica pack the same samples, so each knows how
many tokens the others send.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_schedule_table
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig

from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.model.micro_batch import MicroBatch

_GROUPS_OF_A_SCHEDULE = ["tp", "pp", "cp", "embd", "pos_embd", "dp_cp"]

Shape = tuple[int, int, int]


class StageMessages(P2PCommunicator):
    """megatron's messages between stages for one run of its schedule, without those about shapes."""

    def __init__(self, topology: Topology, config: TransformerConfig, batches: Sequence[MicroBatch]) -> None:
        super().__init__(pp_group=topology.pp.group, config=config)
        shapes = [(batch.padding.size(1), 1, config.hidden_size) for batch in batches]
        # The first virtual stage of all receives nothing in forward, the last one nothing in backward.
        self._forward = _in_order(shapes, topology, without_first_chunk=topology.pp.rank == 0)
        self._backward = _in_order(shapes, topology, without_first_chunk=topology.is_last_stage)

    def _communicate_shapes(
        self, tensor_send_next: Any, tensor_send_prev: Any, recv_prev: bool, recv_next: bool
    ) -> tuple[Shape | None, Shape | None]:
        return next(self._forward) if recv_prev else None, next(self._backward) if recv_next else None


def stage_messages(topology: Topology, config: TransformerConfig, batches: Sequence[MicroBatch]) -> dict[str, Any]:
    """Arguments of megatron's schedule for these micro-batches; none without a pipeline."""
    if topology.pp.size == 1:
        return {}
    groups = ProcessGroupCollection.use_mpu_process_groups(_GROUPS_OF_A_SCHEDULE)
    return {"p2p_communicator": StageMessages(topology, config, batches), "pg_collection": groups}


def _in_order(shapes: Sequence[Shape], topology: Topology, *, without_first_chunk: bool) -> Iterator[Shape]:
    """Shapes in the order in which a stage receives: that of the schedule, the same in both directions."""
    for number, chunk in get_schedule_table(len(shapes), topology.vpp, topology.pp.size):
        if chunk or not without_first_chunk:
            yield shapes[number]
