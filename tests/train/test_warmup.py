"""The supervised warm-up: it teaches the reference answers, the same in every layout, and leaves a fresh model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aspo_megatron.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    PlatformConfig,
    RunConfig,
    SamplingConfig,
    SourceConfig,
    WarmupConfig,
)
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.inputs.read import open_weights
from aspo_megatron.metrics.progress import SilentProgress
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.rollout.engine import Request
from distributed import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

FOLDER = Path(__file__).parents[2] / "examples" / "tiny" / "model"
ANSWERS = {"2 + 3 =": "5", "4 + 4 =": "8", "9 + 8 =": "17", "7 - 7 =": "0", "1 + 5 =": "6", "6 + 6 =": "12"}


def make_config(updates: int, parallel: ParallelConfig) -> RunConfig:
    return RunConfig(
        output_dir=Path("unused"),
        model=ModelConfig(path=FOLDER, init="random"),
        parallel=parallel,
        data=DataConfig(train=SourceConfig(kind="jsonl", path="unused")),
        optimizer=OptimizerConfig(lr=1e-6, weight_decay=0.0, warmup_updates=50),
        warmup=WarmupConfig(updates=updates, batch_size=4, lr=3e-3, response=" {answer}"),
    )


class Phases(SilentProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def phase(self, label: str) -> None:
        self.labels.append(label)


Weights = dict[str, np.ndarray]


def warmed_up(updates: int, parallel: ParallelConfig) -> tuple[Weights, Weights, list[str], list[str]]:
    """In a rank: weights before and after, greedy answers after, and the phases that were shown."""
    config = make_config(updates, parallel)
    with process_grid(parallel, PlatformConfig(device="cpu"), config.seed) as topology:
        from aspo_megatron.parallel.model.policy import build_model
        from aspo_megatron.rollout.embedded.engine import EmbeddedEngine
        from aspo_megatron.train.warmup import warm_up

        family, tokenizer = read_family(FOLDER), load_tokenizer(FOLDER)
        problems = [
            Problem(question, question, tuple(tokenizer(question)["input_ids"]), answer)
            for question, answer in ANSWERS.items()
        ]
        problems.append(Problem("no answer", "?", tuple(tokenizer("?")["input_ids"]), None))
        model = build_model(family, topology, config.model, open_weights(config, family))
        before = {name: tensor.numpy().copy() for name, tensor in model.hf_tensors()}
        progress = Phases()
        warmed = warm_up(model, config, problems, tokenizer, progress, lambda: False)
        assert warmed is not None
        model = warmed
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        after = {name: tensor.numpy().copy() for name, tensor in model.hf_tensors()}
        engine = EmbeddedEngine(FOLDER, tokenizer, torch.float32, topology.platform.device, 65536)
        engine.update_weights(model.hf_tensors(), 0)
        requests = [Request(problem, 1, (0,), index) for index, problem in enumerate(problems[:-1])]
        groups = engine.generate(requests, SamplingConfig(max_response_tokens=5, temperature=0.0))
        texts = [tokenizer.decode(group[0].response_ids) for group in groups]
    return before, after, texts, progress.labels


def largest_difference(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_the_answers_are_learnt_with_their_end(ranks: Ranks) -> None:
    ((before, after, texts, phases),) = ranks.run(1, warmed_up, 80, ParallelConfig())
    assert texts == [f" {answer}<|end|>" for answer in ANSWERS.values()]
    assert largest_difference(before, after) > 0.05
    # The rate is the warm-up's own from the first update on, and the loss that is shown is per token.
    assert phases[0] == "warm-up 1/80, loss 0.000"
    assert float(phases[1].removeprefix("warm-up 2/80, loss ")) == pytest.approx(
        np.log(read_family(FOLDER).vocab_size), abs=0.3
    )
    assert float(phases[-1].removeprefix("warm-up 80/80, loss ")) < 0.1


@pytest.mark.parametrize("parallel", [
    ParallelConfig(tp=2), ParallelConfig(dp=2), ParallelConfig(dp=2, distributed_optimizer=True)
], ids=["tp2", "dp2", "dp2-distributed-optimizer"])  # fmt: skip
def test_every_layout_learns_the_same(ranks: Ranks, parallel: ParallelConfig) -> None:
    ((before, alone, _, _),) = ranks.run(1, warmed_up, 6, ParallelConfig())
    for start, spread, _, _ in ranks.run(2, warmed_up, 6, parallel):
        assert largest_difference(before, start) == 0.0
        # Six updates move a weight by up to 0.018; Adam turns the rounding of a tiny gradient into more than rounding.
        assert largest_difference(alone, spread) < 2e-4


def given_up(after: int) -> tuple[bool, list[str]]:
    """In one of two ranks: whether there is no model when `after` updates were done, and the phases."""
    parallel = ParallelConfig(dp=2)
    config = make_config(10, parallel)
    with process_grid(parallel, PlatformConfig(device="cpu"), config.seed) as topology:
        from aspo_megatron.parallel.model.policy import build_model
        from aspo_megatron.train.warmup import warm_up

        family, tokenizer, progress = read_family(FOLDER), load_tokenizer(FOLDER), Phases()
        problems = [Problem("2 + 3 =", "2 + 3 =", tuple(tokenizer("2 + 3 =")["input_ids"]), "5")]
        model = build_model(family, topology, config.model, open_weights(config, family))
        left = warm_up(model, config, problems, tokenizer, progress, lambda: len(progress.labels) == after)
    return left is None, progress.labels


@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_warm_up_is_given_up_between_updates(ranks: Ranks, after: int) -> None:
    for nothing, phases in ranks.run(2, given_up, after):
        assert nothing
        assert [label.split(",")[0] for label in phases] == [f"warm-up {number + 1}/10" for number in range(after)]
