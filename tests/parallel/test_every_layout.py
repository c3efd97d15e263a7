"""Every layout that `aspo plan` can print, and every other of at most four ranks, makes the updates of one process.

The rows are the product's own list of layouts (models/layouts.py) for the recipes' models on 2 and on 4 ranks. A tiny
model of the family stands for each, with as many layers as the layout needs. A larger layout is proved by those of the
rows that `kinds` reduces it to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from thorough import some_of

from aspo_megatron import losses
from aspo_megatron.check.comparison import CheckedLayout, layout_text
from aspo_megatron.config import KernelsConfig, OptimizerConfig, ParallelConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.family import read_family
from aspo_megatron.models.layouts import layouts
from aspo_megatron.parallel.device.platform import choose_platform
from aspo_megatron.parallel.grid.rendezvous import interfaces, meet
from aspo_megatron.parallel.grid.topology import Topology, build_grid
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits
from aspo_megatron.parallel.update.step import aggregation_of, update
from aspo_megatron.plan.layouts import candidates
from distributed import Ranks, once
from tiny_models import qwen3_folder, qwen3_moe_folder

from .conftest import MatrixRow
from .kinds import kinds
from .layouts import DEFAULT, PLATFORM, Layout, hf_gradients, hf_weights, load
from .samples import make_groups
from .test_step import MAX_RESPONSE_TOKENS, TEMPERATURE, Outcome, Setup, assert_same, differences, hf_outputs

ROOT = Path(__file__).parents[2]
RECIPES = {name: ROOT / "examples" / name / "model" for name in ("qwen3_4b", "qwen3_30b_a3b")}
"""A dense model and one with experts, whose layouts are the rows."""
FAMILIES = {name: read_family(folder) for name, folder in RECIPES.items()}
ROWS = {
    f"{'moe' if family.num_experts else 'dense'} {layout_text(CheckedLayout(parallel))}": (name, parallel)
    for name, family in FAMILIES.items()
    for ranks in (2, 4)
    for parallel in layouts(family, ranks)
}
KEPT = [name for number, name in enumerate(ROWS) if ROWS[name][1].world_size == 2 or number % 3 == 0]
"""All of two ranks, and every third one of four."""
TOGETHER = 12
"""Rows that share a process group, as far as they have as many ranks."""
AS_ON_GPUS = KernelsConfig(attention="varlen", log_prob="triton", experts="gathered")
"""What the rows compute with. One process, which they are compared with, does it as a CPU does."""
SETUP = Setup("aspo", "seq-mean-token-sum", max_tokens=1, router_aux_coef=0.5)
OPTIMIZER = OptimizerConfig(lr=4e-4, eps=1e-4, weight_decay=0.1, clip_grad=2.0)
SHAPES = [(3, (4, 9)), (2, (6,))]
"""Three micro-batches, as every sample is one: the replicas have more or fewer, or none."""


def make_folder(root: Path, recipe: str, layers: int) -> Path:
    """A tiny model: key-value heads are copied over the ranks of tp=2 in the dense one, of tp=4 in the other."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_hidden_layers": layers}
    path = root / f"{recipe}-{layers}"
    if not FAMILIES[recipe].num_experts:
        return qwen3_folder(path, tied=True, num_key_value_heads=1, **sizes)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return qwen3_moe_folder(path, tie_word_embeddings=True, num_key_value_heads=2, **experts, **sizes)


def layers_for(parallel: ParallelConfig) -> int:
    return max(parallel.pp * parallel.vpp, 2)


def make_batch(folder: Path) -> list[list[Sample]]:
    """Old and reference log-probs on both sides of every bound."""
    groups = make_groups(SHAPES)
    for number, (sample, log_probs, _) in enumerate(hf_outputs(folder, groups)):
        shift = (-1.0) ** number * 0.5
        sample.old_log_probs = (log_probs.detach() + shift).numpy()
        sample.ref_log_probs = (log_probs.detach() - shift / 2).numpy()
    return groups


@contextmanager
def group_of_ranks(world_size: int) -> Iterator[Callable[[ParallelConfig], Topology]]:
    """One process group for one layout after the other."""
    platform = choose_platform(PLATFORM.device, 0, PLATFORM.threads_per_rank)
    platform.install()
    with interfaces(world_size, servers_elsewhere=False):
        meet(platform.backend, world_size, timedelta(minutes=PLATFORM.timeout_minutes))
        yield partial(build_grid, platform=platform, timeout_minutes=PLATFORM.timeout_minutes, seed=1)
    dist.destroy_process_group()
    platform.uninstall()


def run_rank(rows: Sequence[tuple[str, ParallelConfig, Path, list[list[Sample]]]]) -> dict[str, Outcome]:
    """One rank's outcome of one layout after the other, all of as many ranks."""
    from megatron.core import parallel_state

    outcomes = {}
    with group_of_ranks(rows[0][1].world_size) as grid:
        for name, parallel, folder, groups in rows:
            try:
                outcomes[name] = two_updates(grid(parallel), folder, groups)
            except Exception as error:
                error.add_note(f"layout: {name}")
                raise
            parallel_state.destroy_model_parallel()
    return outcomes


def two_updates(topology: Topology, folder: Path, groups: Sequence[Sequence[Sample]]) -> Outcome:
    model = load(folder, topology, row=Layout(kernels=AS_ON_GPUS if topology.parallel.world_size > 1 else DEFAULT))
    optimizer = Optimizer(model, OPTIMIZER, 3, topology.parallel)
    objective = PolicyObjective(losses.build(SETUP.loss, {}), SETUP.config)
    outcome = Outcome()
    for _ in range(2):
        result = update(
            model,
            optimizer,
            groups[topology.dp.rank :: topology.dp.size],
            objective,
            aggregation_of(SETUP.config, MAX_RESPONSE_TOKENS),
            PassLimits(SETUP.max_tokens, log_prob_chunk=16, temperature=TEMPERATURE),
            SETUP.router_aux_coef,
        )
        outcome.results.append(result)
        outcome.gradients.append(hf_gradients(model, optimizer))
    outcome.weights = hf_weights(model)
    return outcome


Outcomes = Callable[[str], tuple[list[Outcome], Outcome]]


@pytest.fixture(scope="module")
def outcomes(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """All ranks' outcomes of a row, and that of one process; rows of as many ranks are run together."""
    root = tmp_path_factory.mktemp("every-layout")
    folder_of = once(partial(make_folder, root))
    batch_of = once(make_batch)

    def task(name: str) -> tuple[str, ParallelConfig, Path, list[list[Sample]]]:
        recipe, parallel = ROWS[name]
        folder = folder_of(recipe, layers_for(parallel))
        return name, parallel, folder, batch_of(folder)

    @once
    def together(names: tuple[str, ...]) -> list[dict[str, Outcome]]:
        tasks = [task(name) for name in names]
        return ranks.run_within(200.0, tasks[0][1].world_size, run_rank, tasks)

    @once
    def single(recipe: str, layers: int) -> Outcome:
        folder = folder_of(recipe, layers)
        return ranks.run(1, run_rank, [("single", ParallelConfig(), folder, batch_of(folder))])[0]["single"]

    def of(name: str) -> tuple[list[Outcome], Outcome]:
        recipe, parallel = ROWS[name]
        alike = KEPT if name in KEPT else [other for other in ROWS if other not in KEPT]
        same = [other for other in alike if ROWS[other][1].world_size == parallel.world_size]
        place = same.index(name) // TOGETHER * TOGETHER
        found = together(tuple(same[place : place + TOGETHER]))
        return [rank[name] for rank in found], single(recipe, layers_for(parallel))

    return of


@pytest.mark.distributed
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", some_of(ROWS, KEPT))
def test_same_updates_as_one_process(outcomes: Outcomes, matrix_row: MatrixRow, name: str) -> None:
    found, single = outcomes(name)
    assert single.results[0].grad_norm > OPTIMIZER.clip_grad  # a wrong norm would show in the weights
    for rank in found:
        matrix_row(name, *differences(rank, single))
        assert_same(rank, single)


@pytest.mark.parametrize(
    "recipe", sorted(path.parent.name for path in (ROOT / "examples").glob("*/model") if not path.is_symlink())
)
@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 6, 8, 16, 24, 32, 64, 128, 256])
def test_all_that_can_be_planned_is_among_the_rows(recipe: str, gpus: int) -> None:
    family = read_family(ROOT / "examples" / recipe / "model")
    experts = family.num_experts > 0
    proved = {parallel for name, parallel in ROWS.values() if (FAMILIES[name].num_experts > 0) == experts}
    planned = list(candidates(family, gpus))
    assert planned
    for parallel in planned:
        assert kinds(parallel) - {ParallelConfig()} <= proved, layout_text(CheckedLayout(parallel))
