"""KL in the reward: advantages as one process in float64 has them, whatever the ranks."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from parallel.layouts import PLATFORM

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.config.words import KlEstimator
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import UserError
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.train.advantages import response_kl, set_advantages
from distributed import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

COEFFICIENT = 0.3
LIMIT = 12


def make_groups() -> list[list[Sample]]:
    """Five groups of two to four responses; some tokens are masked, with log-probs that are not finite."""
    generator = np.random.default_rng(0)
    groups = []
    for number, size in enumerate((3, 2, 4, 2, 3)):
        group = []
        for _ in range(size):
            length = int(generator.integers(1, LIMIT + 1))
            mask = generator.random(length) < 0.8
            old = np.where(mask, generator.normal(-1.0, 0.5, length), -np.inf).astype(np.float32)
            ref = np.where(mask, generator.normal(-1.0, 0.5, length), -np.inf).astype(np.float32)
            tokens = generator.integers(0, 50, length)
            group.append(
                Sample(
                    f"p{number}", number, tokens[:1], tokens, mask, old, 0, "stop",
                    reward=float(generator.integers(0, 2)), old_log_probs=old, ref_log_probs=ref,
                )
            )  # fmt: skip
        groups.append(group)
    groups[3][0].reward = groups[3][1].reward = 1.0  # they differ by their KL alone
    return groups


def make_config(estimator: str, **settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "output_dir": Path("unused"),
            "model": {"path": Path("unused")},
            "data": {"train": {"kind": "jsonl", "path": "unused"}},
            "rollout": {"sampling": {"max_response_tokens": LIMIT}},
            "shaping": {"kl_coef": COEFFICIENT, "kl_estimator": estimator, "overlong_tokens": 4},
            **settings,
        }
    )


def advantages(layout: ParallelConfig, estimator: str) -> tuple[dict[tuple[int, int], float], float]:
    """Advantages of this replica's samples, and the mean KL."""
    with process_grid(layout, PLATFORM, seed=1) as topology:
        groups = make_groups()[topology.dp.rank :: topology.dp.size]
        metrics = set_advantages([groups[:1], groups[1:]], make_config(estimator), topology)
        found = {(g[0].group, place): sample.advantage for g in groups for place, sample in enumerate(g)}
        return found, metrics["reward/kl"]


def expected(estimator: str) -> tuple[dict[tuple[int, int], float], float]:
    """Token by token, with the probabilities themselves."""
    of_sample, every = {}, []
    for group in make_groups():
        worth = []
        for sample in group:
            total = 0.0
            assert sample.old_log_probs is not None
            assert sample.ref_log_probs is not None
            for old, ref, counts in zip(sample.old_log_probs, sample.ref_log_probs, sample.response_mask, strict=True):
                if counts:
                    ratio = math.exp(float(ref)) / math.exp(float(old))  # pi_ref / pi_old
                    total += {
                        "k1": -math.log(ratio),
                        "k2": math.log(ratio) ** 2 / 2,
                        "k3": ratio - 1 - math.log(ratio),
                    }[estimator]
            over = max(0, len(sample.response_ids) - (LIMIT - 4))
            worth.append(sample.reward - over / 4 - COEFFICIENT * total)
            every.append(total)
        mean = sum(worth) / len(worth)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in worth) / (len(worth) - 1))
        for place, value in enumerate(worth):
            of_sample[group[0].group, place] = (value - mean) / (deviation + 1e-6)
    return of_sample, sum(every) / len(every)


@pytest.mark.parametrize("estimator", get_args(KlEstimator))
def test_against_float64_on_any_ranks(ranks: Ranks, estimator: str) -> None:
    wanted, mean = expected(estimator)
    ((one, one_mean),) = ranks.run(1, advantages, ParallelConfig(), estimator)
    assert one == pytest.approx(wanted, abs=1e-9)
    assert one_mean == pytest.approx(mean, rel=1e-9)
    assert abs(one[3, 0]) > 0.5  # equal rewards, told apart by the KL
    for layout in (ParallelConfig(dp=2), ParallelConfig(tp=2)):
        parts = ranks.run(2, advantages, layout, estimator)
        assert {key: value for found, _ in parts for key, value in found.items()} == one
        assert {round(value, 12) for _, value in parts} == {round(one_mean, 12)}
        if layout.tp == 2:
            assert parts[0] == parts[1]


@pytest.mark.parametrize("estimator", get_args(KlEstimator))
def test_against_float64_in_this_process(estimator: str) -> None:
    found, mean = advantages(ParallelConfig(), estimator)
    wanted, wanted_mean = expected(estimator)
    assert found == pytest.approx(wanted, abs=1e-9)
    assert mean == pytest.approx(wanted_mean, rel=1e-9)


def test_a_kl_that_is_not_finite_is_said() -> None:
    sample = copy.copy(make_groups()[0][0])
    assert sample.ref_log_probs is not None
    sample.ref_log_probs = np.full_like(sample.ref_log_probs, -np.inf)
    sample.response_mask = np.ones_like(sample.response_mask)
    for estimator in get_args(KlEstimator):
        with pytest.raises(UserError, match=r"problem p0: the KL of a response .* choose another shaping.kl_estimator"):
            response_kl(sample, estimator)
