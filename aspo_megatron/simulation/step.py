"""One step of a run as one of its ranks does it: the trainer's phases in their order, with the code that makes them.

Import it where the stand-in is installed: megatron-core asks for a GPU as it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

from aspo_megatron import losses
from aspo_megatron.checkpoint.states.sharded_state import model_shards, optimizer_shards
from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.host_copies import HostCopies
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.model.reference import Reference
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs
from aspo_megatron.parallel.update.step import aggregation_of, update
from aspo_megatron.rollout.loop_thread import LoopThread
from aspo_megatron.rollout.weight_sync.session import sync_weights
from aspo_megatron.rollout.weight_sync.transports import DistributedTransport
from aspo_megatron.simulation.generation import SimulatedEngine
from aspo_megatron.simulation.phases import Phase, Phases
from aspo_megatron.simulation.rank import SimulatedRank


@dataclass
class SimulatedStep:
    """A rank of a run in the middle of training: Adam has its moments. Each method is a phase of a step."""

    config: RunConfig
    family: Family
    rank: SimulatedRank
    locked: dict[str, int] = field(default_factory=dict)
    """Bytes of page-locked memory that the reference, the optimizer and a save have taken, by what for."""

    def __post_init__(self) -> None:
        config, topology = self.config, self.rank.topology
        device = topology.platform.device
        self.model = PolicyModel(self.family, topology, config.model).to(device)
        self.reference: Reference | None = None
        with self._locks("reference"):
            if config.has_reference:
                self.reference = Reference(self.model, config.model.reference)
        with self._locks("optimizer"):
            self.optimizer = Optimizer(self.model, config.optimizer, 10, config.parallel)
        self.optimizer.zero_grad()
        self.optimizer.step()  # makes Adam's moments
        self.engine = SimulatedEngine(config, self.family, topology) if config.rollout.engine == "embedded" else None
        self.limits = PassLimits.of(config.train, config.rollout.sampling.temperature)
        self.phases = Phases(self.rank.ledger)
        with self.phases.phase(Phase.HELD):
            pass

    def run(self, groups: Sequence[Sequence[Sample]]) -> None:
        """Every phase, with micro-batches of these samples."""
        self._make_room()
        self._generate()
        self._score(groups)
        self._update(groups)
        self._make_room()
        if self.engine is None:
            self._send()
        if self.config.checkpoint.every:
            self._save()

    def _make_room(self) -> None:
        """Before weights go to an engine on the same GPU, as `PolicyEngine` has it."""
        if self.config.rollout.takes_turns:
            self.optimizer.release()

    def _generate(self) -> None:
        """The embedded engine takes the weights, holds its cache, and gives its memory back."""
        if self.engine is None:
            return
        bucket = self.config.rollout.servers.bucket_mib << 20
        with self.phases.phase(Phase.SYNC):
            self.engine.take(self.model.hf_tensors(bucket_bytes=bucket))
        with self.phases.phase(Phase.GENERATION):
            self.engine.generate()
        self.engine.release()

    def _score(self, groups: Sequence[Sequence[Sample]]) -> None:
        if self.config.share_scored:
            with self.phases.phase(Phase.SCORING):
                list(response_log_probs(self.model, groups, self.limits))
        if self.reference is not None:
            with self.phases.phase(Phase.REFERENCE), self.reference.ready() as reference:
                list(response_log_probs(reference, groups, self.limits))

    def _update(self, groups: Sequence[Sequence[Sample]]) -> None:
        config = self.config.loss
        objective = PolicyObjective(losses.build(config.name, config.hyperparameters), config)
        weighting = aggregation_of(config, self.config.rollout.sampling.max_response_tokens)
        with self.phases.phase(Phase.FORWARD), self.phases.inside(self.model.chunks, self.optimizer):
            update(self.model, self.optimizer, groups, objective, weighting, self.limits, config.router_aux_coef)

    def _send(self) -> None:
        """Weights in buckets, to no server: the leader makes each while the one before is on its way."""
        servers = self.config.rollout.servers
        bucket_bytes = servers.bucket_mib << 20
        with self.phases.phase(Phase.SYNC):
            tensors = self.model.hf_tensors(bucket_bytes=bucket_bytes)
            if not self.rank.topology.is_leader:
                for _ in tensors:
                    pass
                return
            loop = LoopThread("sync")
            transport = DistributedTransport("nccl", servers.tp, servers.sync_timeout_seconds)
            sync_weights(loop, [], transport, tensors, "1", bucket_bytes)
            loop.close()

    def _save(self) -> None:
        """The copies of a save (`CheckpointWriter.begin`); there is nothing in them to write."""
        copies = HostCopies(self.rank.topology.platform.device) if self.config.checkpoint.async_save else None
        with self.phases.phase(Phase.SAVE), self._locks("save"):
            for shard in chain(model_shards(self.model), optimizer_shards(self.model, self.optimizer)):
                if copies is not None:
                    copies.take(shard.tensor, lasts=shard.lasts)
                del shard  # the next tensor is made before this name is given to it
            if copies is not None:
                copies.wait()

    @contextmanager
    def _locks(self, what: str) -> Iterator[None]:
        before = self.rank.pinned.held_bytes
        yield
        self.locked[what] = self.rank.pinned.held_bytes - before
