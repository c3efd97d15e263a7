"""What a simulated rank does in these tests; each function runs in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aspo_megatron import losses
from aspo_megatron.config import LossConfig, ModelConfig, OptimizerConfig, ParallelConfig
from aspo_megatron.data.packing import packed_length
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.family import Family, read_family
from aspo_megatron.simulation.device.ledger import Figures
from aspo_megatron.simulation.rank import simulated_rank
from aspo_megatron.simulation.workload import samples_of


@dataclass(frozen=True)
class Setup:
    """A layout and one of its ranks, and what a micro-batch holds: prompts, and the lengths of their responses."""

    folder: Path
    parallel: ParallelConfig
    rank: int = 0
    recompute: str = "none"
    prompts: int = 2
    prompt: int = 20
    responses: tuple[int, ...] = (30, 40, 50)
    loss: str = "aspo"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        return read_family(self.folder)

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(path=self.folder, dtype="bfloat16", recompute=self.recompute, **self.settings)


def groups_of(setup: Setup) -> list[list[Sample]]:
    """One group for each prompt; each is a micro-batch."""
    return samples_of([(setup.prompt, setup.responses)] * setup.prompts, setup.family.shape(tp=1).vocab_size)


def budget(groups: Sequence[Sequence[Sample]]) -> int:
    """Tokens of a micro-batch that holds one group."""
    return packed_length(groups[0])


def updates(setup: Setup) -> dict[str, Figures]:
    """An update and a no-grad pass: the figures of each.

    `update: micro-batches` and `pass: micro-batches` are those of all forward and backward passes, without what comes
    before the first and after the last.
    """
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from aspo_megatron.parallel.model.policy import PolicyModel
    from aspo_megatron.parallel.update import passes, step
    from aspo_megatron.parallel.update.objective import PolicyObjective
    from aspo_megatron.parallel.update.optimizer import Optimizer

    groups = groups_of(setup)
    limits = passes.PassLimits(budget(groups), None, 1.0)
    config = LossConfig(name=setup.loss, kl_coef=0.01)
    objective = PolicyObjective(losses.build(config.name, {}), config)
    figures: dict[str, Figures] = {}
    with simulated_rank(setup.parallel, setup.rank) as simulated:
        ledger, topology = simulated.ledger, simulated.topology
        model = PolicyModel(setup.family, topology, setup.model).to(topology.platform.device)
        optimizer = Optimizer(model, OptimizerConfig(), 10, setup.parallel)
        optimizer.zero_grad()
        optimizer.step()  # makes Adam's moments
        inside: list[Figures] = []
        schedule = get_forward_backward_func()

        def watched(**arguments: Any) -> Any:
            with ledger.only() as part:
                inside.append(part)
                return schedule(**arguments)

        for module in (step, passes):
            module.get_forward_backward_func = lambda: watched  # type: ignore[attr-defined]
        ledger.clear()
        step.update(model, optimizer, groups, objective, step.aggregation_of(config, 64), limits)
        figures["update"], (figures["update: micro-batches"],) = ledger.figures(), inside
        ledger.clear()
        scored = list(passes.response_log_probs(model, groups, limits))
        assert [sample for sample, _ in scored] == [sample for group in groups for sample in group]
        figures["pass"], (_, figures["pass: micro-batches"]) = ledger.figures(), inside
    return figures
