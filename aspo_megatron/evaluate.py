"""avg@K and pass@K of a model on problems, in training and on its own: one code, hence one answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from aspo_megatron.config import EvalConfig, SamplingConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.parallel.exchange import gather
from aspo_megatron.rewards.pool import RewardPool
from aspo_megatron.rollout.engine import Request, ResponseSource

CORRECT = 1.0
"""The reward from which a response counts as right."""

_EVAL_STREAM = 1
"""Separates the random numbers of evaluation from those of rollouts."""


@dataclass(frozen=True)
class Evaluation:
    """Scores over all problems. `records`: every response, in the order of problems, for reading."""

    samples: int
    average: float
    pass_at: dict[int, float]
    records: list[dict[str, Any]]

    def metrics(self) -> dict[str, float]:
        """By metric name, e.g. `eval/avg@4`."""
        return {f"eval/avg@{self.samples}": self.average} | {
            f"eval/pass@{k}": value for k, value in self.pass_at.items()
        }

    def write(self, path: Path) -> None:
        """All records as JSONL."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self.records))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate of pass@k from `correct` right ones of `samples`: 1 - C(n - c, k) / C(n, k).

    (Chen et al., 2021, arXiv 2107.03374, equation 1.)
    """
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def evaluate(
    engine: ResponseSource,
    rewards: RewardPool,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    config: EvalConfig,
    sampling: SamplingConfig,
    seed: int,
    rank: int,
    world_size: int,
) -> Evaluation:
    """Ask every problem `config.samples` times. A collective: each rank asks its share and gets the whole result.

    A response's random numbers depend on `seed`, its problem and its number only, not on ranks or on training.
    """
    chosen = list(enumerate(problems[: config.max_problems]))[rank::world_size]
    requests = [Request(problem, config.samples, (seed, _EVAL_STREAM, index), index) for index, problem in chosen]
    groups = engine.generate(requests, sampling)
    texts = [[tokenizer.decode(s.response_ids, skip_special_tokens=True) for s in group] for group in groups]
    scores = iter(
        rewards.score((request.problem, text) for request, group in zip(requests, texts, strict=True) for text in group)
    )
    own = [
        {
            "index": request.group,
            "problem": request.problem.id,
            "question": request.problem.question,
            "answer": request.problem.answer,
            "response": text,
            "reward": next(scores).value,
            "tokens": len(sample.response_ids),
            "finish_reason": sample.finish_reason,
        }
        for request, group, group_texts in zip(requests, groups, texts, strict=True)
        for sample, text in zip(group, group_texts, strict=True)
    ]
    records = sorted((record for part in gather(own) for record in part), key=lambda record: record["index"])
    return summarize(records, config.samples, config.pass_k)


def summarize(records: list[dict[str, Any]], samples: int, pass_k: Iterable[int]) -> Evaluation:
    """avg@K and pass@k of records with `samples` responses to each problem."""
    right: dict[int, int] = {}
    for record in records:
        right[record["index"]] = right.get(record["index"], 0) + int(record["reward"] >= CORRECT)
    problems = len(right)
    return Evaluation(
        samples=samples,
        average=sum(right.values()) / (problems * samples) if problems else 0.0,
        pass_at={
            k: sum(pass_at_k(samples, count, k) for count in right.values()) / problems if problems else 0.0
            for k in pass_k
        },
        records=records,
    )
