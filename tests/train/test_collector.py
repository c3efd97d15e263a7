"""Samples of a step: the same whatever the ranks, with dynamic sampling and shaping as the settings say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parallel.layouts import PLATFORM
from thorough import one_in

from aspo_megatron.config import ParallelConfig, RunConfig, SamplingConfig
from aspo_megatron.data.prompt_sampler import PromptSampler
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.data.stream import ProblemStream
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.rewards.workers.pool import Reward
from aspo_megatron.rollout.engine import Request, WhenComplete
from distributed import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

STEP = 3
LAST_STEP = 8
LIMIT = 6
Found = list[tuple[int, str, float, list[bool], float]]
"""Of each sample of a kept group: number, problem, reward, mask, advantage."""


class Drawing:
    """Responses of one to six tokens that a request's seed fixes; a third of the prompts has equal first tokens.

    It tells of some of its groups as soon as they are complete.
    """

    def start(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        enough: int | None = None,
        when_complete: WhenComplete | None = None,
    ) -> Callable[[], list[list[Sample]]]:
        assert when_complete is not None
        fresh = [request.group for request in requests if not request.begun]
        cut = fresh[: 0 if enough is None else len(requests) - enough]
        groups = [self.group(request, request.group in cut) for request in requests]
        for request, group in zip(requests, groups, strict=True):
            if request.group not in cut and request.group % 2:
                when_complete(request, group)
        return lambda: groups

    def group(self, request: Request, cut: bool) -> list[Sample]:
        """The last response of a group that is cut has its first token only; the others are not drawn again."""
        samples = [self.draw(request, index) for index in range(request.count)]
        if request.begun:
            assert [sample.finish_reason == "abort" for sample in request.begun] == [False, True]
            samples = [request.begun[0], samples[1]]
        if cut:
            samples[1] = replace(samples[1], finish_reason="abort", response_ids=samples[1].response_ids[:1])
        return samples

    def draw(self, request: Request, index: int) -> Sample:
        agrees = np.random.default_rng(request.seed).random() < 0.33
        generator = np.random.default_rng([*request.seed, 0 if agrees else index])
        length = int(generator.integers(1, LIMIT + 1))
        ids = np.concatenate([generator.integers(0, 2, 1), generator.integers(2, 90, length - 1)])
        return Sample(
            problem_id=request.problem.id,
            group=request.group,
            prompt_ids=np.array(request.problem.prompt_ids),
            response_ids=ids,
            response_mask=np.ones(length, dtype=np.bool_),
            rollout_log_probs=np.zeros(length, dtype=np.float32),
            weight_version=0,
            finish_reason="length" if length == LIMIT else "stop",
        )


@dataclass(frozen=True)
class Scored:
    """Rewards that are there."""

    rewards: list[Reward]

    def result(self) -> list[Reward]:
        return self.rewards


class FirstToken:
    """Rewards: 1 for a response that begins with token 1. It is its own tokenizer: a text is the numbers."""

    def submit(self, items: Iterable[tuple[Problem, str]]) -> Scored:
        return Scored([Reward(float(text.split()[0] == "1")) for _, text in items])

    def decode(self, ids: np.ndarray, skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids.tolist()))


def run_config(settings: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(
        {
            "output_dir": Path("unused"),
            "model": {"path": Path("unused")},
            "data": {"train": {"kind": "jsonl", "path": "unused"}},
            "rollout": {
                "prompts_per_step": 12,
                "responses_per_prompt": 2,
                "sampling": {"max_response_tokens": LIMIT},
                **settings.get("rollout", {}),
            },
            "train": {"prompts_per_update": 4, "steps": LAST_STEP},
            "shaping": settings.get("shaping", {}),
            "advantage": settings.get("advantage", {}),
            "reward": settings.get("reward", {}),
        }
    )


def collect(layout: ParallelConfig, settings: dict[str, Any]) -> tuple[Found, list[float], int]:
    """What this rank keeps, the rewards of all that it asked, and where its stream then stands."""
    config = run_config(settings)
    with process_grid(layout, PLATFORM, seed=1) as topology:
        from aspo_megatron.train.advantages import set_advantages
        from aspo_megatron.train.collector import Collector

        stream = ProblemStream([Problem(f"p{number}", "", (3,)) for number in range(50)], seed=1)
        rollout = config.rollout
        sampler = PromptSampler(stream, rollout.prompts_per_step, rollout.cut_off, topology.rank, topology.world_size)
        by_first: Any = FirstToken()
        collector = Collector(
            config, Drawing(), by_first, by_first, sampler, topology, lambda label: contextlib.nullcontext()
        )
        collected = collector.collect(STEP)
        set_advantages([collected.groups], config, topology)
        found = [
            (s.group, s.problem_id, s.reward, s.response_mask.tolist(), s.advantage)
            for group in collected.groups
            for s in group
        ]
        return found, [s.reward for asked in collected.asked for s in asked.samples], stream.position


def everywhere(ranks: Ranks, world_size: int, **settings: Any) -> tuple[Found, list[float], int]:
    parts = ranks.run(world_size, collect, ParallelConfig(dp=world_size), settings)
    assert len({position for *_, position in parts}) == 1
    return sorted(f for found, *_ in parts for f in found), [r for _, rewards, _ in parts for r in rewards], parts[0][2]


def pairs(found: Found) -> dict[int, list[float]]:
    rewards: dict[int, list[float]] = {}
    for number, _, reward, *_ in found:
        rewards.setdefault(number, []).append(reward)
    return rewards


MODES = [
    {},
    {"rollout": {"dynamic_sampling": "drop"}},
    {"rollout": {"dynamic_sampling": "refill"}},
    {"rollout": {"dynamic_sampling": "refill", "max_asks": 2}},
    {"advantage": {"baseline": "batch", "scale": "batch"}},
    {"shaping": {"overlong_tokens": 3, "overlong_penalty": 0.5, "mask_truncated": True}},
]


@pytest.mark.parametrize("settings", one_in(2, MODES, first=1), ids=str)
def test_ranks_do_not_matter(ranks: Ranks, settings: dict[str, Any]) -> None:
    one, rewards, position = everywhere(ranks, 1, **settings)
    for world_size in (2, 3):
        found, their_rewards, their_position = everywhere(ranks, world_size, **settings)
        assert [row[:4] for row in found] == [row[:4] for row in one]
        np.testing.assert_allclose([row[4] for row in found], [row[4] for row in one], rtol=0, atol=1e-12)
        assert (sorted(their_rewards), their_position) == (sorted(rewards), position)


def test_without_it_all_groups_are_kept(ranks: Ranks) -> None:
    found, rewards, position = everywhere(ranks, 1)
    assert sorted(pairs(found)) == list(range(12))
    assert (len(rewards), position) == (24, 12)
    agreeing = [number for number, pair in pairs(found).items() if pair[0] == pair[1]]
    assert 3 <= len(agreeing) <= 9
    assert all(advantage == 0.0 for number, *_, advantage in found if number in agreeing)
    assert all(abs(advantage) > 0.7 for number, *_, advantage in found if number not in agreeing)


def test_drop_leaves_out_what_agrees_and_keeps_the_numbers(ranks: Ranks) -> None:
    everything = pairs(everywhere(ranks, 1)[0])
    found, rewards, position = everywhere(ranks, 2, rollout={"dynamic_sampling": "drop"})
    assert pairs(found) == {number: pair for number, pair in everything.items() if pair[0] != pair[1]}
    assert (len(rewards), position) == (24, 12)


def test_refill_asks_until_the_batch_is_full(ranks: Ranks) -> None:
    found, rewards, position = everywhere(ranks, 2, rollout={"dynamic_sampling": "refill"})
    assert sorted(pairs(found)) == list(range(12))  # numbered anew: three mini-batches of four
    assert all(pair[0] != pair[1] for pair in pairs(found).values())
    assert len(rewards) == 2 * position > 24
    assert len({problem for _, problem, *_ in found}) == 12


def test_refill_gives_up_after_max_asks(ranks: Ranks) -> None:
    found, rewards, position = everywhere(ranks, 2, rollout={"dynamic_sampling": "refill", "max_asks": 2})
    assert 12 < position == len(rewards) / 2
    assert sorted(pairs(found)) == list(range(len(pairs(found))))
    assert all(pair[0] != pair[1] for pair in pairs(found).values())


def test_shaping(ranks: Ranks) -> None:
    plain, *_ = everywhere(ranks, 1, advantage={"scale": "none"})
    shaped, *_ = everywhere(
        ranks, 1, advantage={"scale": "none"}, shaping={"overlong_tokens": 3, "overlong_penalty": 0.5}
    )
    masked, *_ = everywhere(ranks, 1, shaping={"mask_truncated": True})
    penalty = {4: -0.5 / 3, 5: -1 / 3, 6: -0.5}
    for number in range(12):
        before, after = ([row for row in rows if row[0] == number] for rows in (plain, shaped))
        assert [row[2] for row in before] == [row[2] for row in after]  # what is logged is the reward as it was
        worth = [row[2] + penalty.get(len(row[3]), 0.0) for row in before]
        expected = [value - sum(worth) / 2 for value in worth]
        np.testing.assert_allclose([row[4] for row in after], expected, rtol=0, atol=1e-12)
    assert all(any(row[3]) == (len(row[3]) < LIMIT) for row in masked)
    assert any(len(row[3]) == LIMIT for row in masked)


def collect_on_and_on(layout: ParallelConfig, settings: dict[str, Any]) -> list[list[tuple[int, str, int, float]]]:
    """This rank's samples of every step."""
    with process_grid(layout, PLATFORM, seed=1) as topology:
        from aspo_megatron.train.advantages import set_advantages
        from aspo_megatron.train.collector import Collector
        from aspo_megatron.train.step_metrics import staleness_metrics

        config = run_config(settings)
        stream = ProblemStream([Problem(f"p{number}", "", (3,)) for number in range(200)], seed=1)
        rollout = config.rollout
        sampler = PromptSampler(stream, rollout.prompts_per_step, rollout.cut_off, topology.rank, topology.world_size)
        by_first: Any = FirstToken()
        collector = Collector(
            config, Drawing(), by_first, by_first, sampler, topology, lambda label: contextlib.nullcontext()
        )
        steps = []
        for step in range(1, LAST_STEP + 1):
            found = collector.collect(step)
            set_advantages([found.groups], config, topology)
            figures = staleness_metrics(found, version=step - 1)
            assert figures["staleness/mean"] == figures["staleness/max"] == step - 1  # all are of version 0
            cuts = rollout.cut_off < 1.0 and step < LAST_STEP
            assert figures["cut_off/groups"] == figures["cut_off/responses"] == (3 if cuts else 0)  # 12 / 0.8 - 12
            samples = [sample for group in found.groups for sample in group]
            steps.append([(s.group, s.problem_id, len(s.response_ids), s.advantage) for s in samples])
        return steps


@pytest.mark.parametrize(("ranks_used", "overlap"), [(1, "none"), (3, "wait")])
def test_what_is_cut_off_is_trained_on_whole_in_the_next_step(ranks: Ranks, ranks_used: int, overlap: str) -> None:
    settings = {"rollout": {"engine": "sglang", "cut_off": 0.8, "overlap": overlap}}
    parts = ranks.run(ranks_used, collect_on_and_on, ParallelConfig(dp=ranks_used), settings)
    seen: list[str] = []
    for step in range(LAST_STEP):
        samples = sorted(sample for part in parts for sample in part[step])
        assert [number for number, *_ in samples] == [number for number in range(12) for _ in range(2)]
        for one, other in zip(samples[::2], samples[1::2], strict=True):
            assert one[1] == other[1]
            assert one[3] == pytest.approx(-other[3])
            seen.append(one[1])
    assert len(seen) == len(set(seen)) == 12 * LAST_STEP
    order = ProblemStream([Problem(f"p{number}", "", (3,)) for number in range(200)], seed=1)
    assert set(seen) == {problem.id for problem in order.take(12 * LAST_STEP)}


@pytest.mark.parametrize("dynamic_sampling", ["off", "refill"])
def test_what_is_begun_ahead_changes_no_sample(ranks: Ranks, dynamic_sampling: str) -> None:
    plain, ahead = (
        ranks.run(
            2,
            collect_on_and_on,
            ParallelConfig(dp=2),
            {"rollout": {"engine": "sglang", "dynamic_sampling": dynamic_sampling, "overlap": overlap}},
        )
        for overlap in ("none", "continue")
    )
    assert ahead == plain
