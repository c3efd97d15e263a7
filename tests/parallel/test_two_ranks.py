"""Two ranks against one process, for the tests of each change: each kind of parallelism, and a few updates.

The ranks are forked off one process that has imported everything; test_every_layout.py has all layouts.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
import torch
from forked import Server, fork_ranks, kill

from aspo_megatron.data.samples import Sample
from aspo_megatron.parallel.grid.topology import process_grid
from tiny_models import llama_folder

from .layouts import PLATFORM, Layout, layout
from .test_log_prob import VOCAB, Answer, assert_equal, expected, make_problem, shard_answers
from .test_step import SETUPS, Outcome, Setup, assert_same, make_batch, two_updates

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

LAYOUTS = {
    "dp2-distopt-overlap": layout(dp=2, distributed_optimizer=True, overlap_grad_reduce=True),
    "tp2-sp": layout(tp=2, sequence_parallel=True),
    "cp2": layout(cp=2),
    "pp2-vpp2": layout(pp=2, vpp=2),
}
SETUP: Setup = replace(SETUPS["aspo, token-mean"], max_tokens=30)
LAYERS = 4


P = ParamSpec("P")
R = TypeVar("R")


def in_ranks(folder: Path, world_size: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
    """What `function` gives in each of the ranks, by way of files in `folder`."""
    ranks = fork_ranks(world_size, _rank, folder, function, args, kwargs)
    try:
        for rank in ranks:
            rank.join(240)
        assert [rank.exitcode for rank in ranks] == [0] * world_size
    finally:
        kill(ranks)
    return [pickle.loads((folder / f"{number}.pickle").read_bytes()) for number in range(world_size)]


def _rank(folder: Path, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    (folder / f"{os.environ['RANK']}.pickle").write_bytes(pickle.dumps(function(*args, **kwargs)))


def outcome_of(row: Layout, folder: Path, groups: list[list[Sample]]) -> Outcome:
    with process_grid(row.parallel, PLATFORM, seed=1) as topology:
        return two_updates(topology, row, folder, groups, SETUP)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


Case = tuple[Path, list[list[Sample]], Outcome]


@pytest.fixture(scope="module")
def case(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A model, samples for it, and what one process makes of them."""
    folder = llama_folder(tmp_path_factory.mktemp("llama"), tied=True, num_hidden_layers=LAYERS)
    groups = make_batch("full", folder)
    (single,) = server.run(in_ranks, folder, 1, outcome_of, layout(), folder, groups)
    return folder, groups, single


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_ranks_are_as_one(server: Server, case: Case, tmp_path: Path, name: str) -> None:
    folder, groups, single = case
    for outcome in server.run(in_ranks, tmp_path, 2, outcome_of, LAYOUTS[name], folder, groups):
        assert_same(outcome, single)


@pytest.mark.parametrize("triton", [False, True])
def test_log_probs_of_a_vocabulary_over_two_ranks(triton: bool, server: Server, tmp_path: Path) -> None:
    """Both ways to the gradient, with one of the entropy; by plain kernels and by Triton's."""
    problem = make_problem()
    by_rank = server.run(in_ranks, tmp_path, 2, shard_answers, 2, [problem], 0.8, 5, triton)
    want = expected(problem, 0.8)
    for answers in zip(*by_rank, strict=True):
        whole = torch.cat([answer.grad_weight for answer in answers])
        assert not whole[VOCAB:].any()
        for answer in answers:
            got = Answer(answer.log_probs, answer.entropy, answer.grad_hidden, whole[:VOCAB])
            assert_equal(got, replace(want, grad_weight=want.grad_weight[:VOCAB]), 1e-9)
