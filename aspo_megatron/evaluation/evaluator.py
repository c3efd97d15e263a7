"""avg@K and pass@K of a model on problems, in training and on its own: one code, hence one answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from aspo_megatron.config import EvalConfig, SamplingConfig
from aspo_megatron.data.decoding import decode
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.data.split_over_ranks import Dealer, dealer
from aspo_megatron.errors import AgreedError
from aspo_megatron.evaluation.results import CORRECT, ResponseRecord, ResultFile
from aspo_megatron.evaluation.scores import Scores
from aspo_megatron.files import json_line, write_whole
from aspo_megatron.foreign_text import one_line
from aspo_megatron.parallel.grid.exchange import from_leader, gather
from aspo_megatron.rewards.scoring import score_groups
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rollout.engine import EVALUATION_STREAM, Generation, Request, ResponseSource, RolloutEngine

_MANY_RESPONSES = 32
"""If none of so many can be scored, what scores them is broken; of a few it may be their fault."""


@dataclass(frozen=True)
class Evaluation:
    """Scores over all problems. `records`: every response, in the order of problems, for reading."""

    scores: Scores
    records: Sequence[ResponseRecord]

    @property
    def average(self) -> float:
        """avg@K."""
        return self.scores.average.value

    def metrics(self) -> dict[str, float]:
        """By metric name, e.g. `eval/avg@4`; and what says how sure they are: how many problems, and their error."""
        named = {f"eval/{name}": estimate.value for name, estimate in self.scores.named().items()}
        error = self.scores.sampling_error
        of_error = {} if error is None else {"eval/sampling_error": error}
        return named | {"eval/problems": float(len(self.scores.right))} | of_error

    def content(self) -> bytes:
        """All records as JSONL."""
        return b"".join(map(json_line, self.records))

    def write(self, path: Path) -> None:
        """Write `content` into a file.

        Raises:
            UserError: it cannot be written.
        """
        write_whole(path, self.content())


@dataclass(frozen=True)
class Evaluator:
    """Makes requests of problems, and records of the responses. Each rank asks its share of the problems.

    A response's random numbers depend on the seed, its problem and its number only, not on ranks, on training, or on
    what an earlier process has already asked.
    """

    rewards: RewardPool
    tokenizer: PreTrainedTokenizerBase
    samples: int
    seed: int
    rank: int
    world_size: int

    def requests(self, problems: Dealer, indexes: Sequence[int]) -> list[Request]:
        """This rank's share of the problems with these numbers, which they bear."""
        parts = [indexes[rank :: self.world_size] for rank in range(self.world_size)]
        own = zip(parts[self.rank], problems.deal(parts, self.rank), strict=True)
        return [Request(problem, self.samples, (self.seed, EVALUATION_STREAM, index), index) for index, problem in own]

    def records(self, requests: Sequence[Request], groups: Sequence[list[Sample]]) -> list[ResponseRecord]:
        """Those of all ranks' responses, on every rank, in the problems' order. A collective."""
        answered = [(request.problem, group) for request, group in zip(requests, groups, strict=True)]
        own = [
            {
                "index": sample.group,
                "problem": asked.problem.id,
                "question": asked.problem.question,
                "prompt": prompt,
                "answer": asked.problem.answer,
                "response": text,
                "reward": reward.value,
                "tokens": len(sample.response_ids),
                "finish_reason": sample.finish_reason,
                "error": reward.error,
            }
            for asked in score_groups(answered, self.rewards, self.tokenizer)
            for prompt in [decode(self.tokenizer, asked.problem.prompt_ids)]
            for sample, text, reward in zip(asked.samples, asked.texts, asked.rewards, strict=True)
        ]
        return sorted((record for part in gather(own) for record in part), key=lambda record: record["index"])


def evaluate(
    engine: ResponseSource,
    rewards: RewardPool,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem] | Dealer,
    config: EvalConfig,
    sampling: SamplingConfig,
    seed: int,
    rank: int,
    world_size: int,
) -> Evaluation:
    """Ask every problem `config.samples` times, all at once. A collective: every rank gets the whole result.

    Raises:
        AgreedError: no response could be scored.
    """
    evaluator = Evaluator(rewards, tokenizer, config.samples, seed, rank, world_size)
    asked = range(len(problems))[: config.max_problems]
    requests = evaluator.requests(dealer(problems), asked)
    records = evaluator.records(requests, engine.generate(requests, sampling))
    refuse_unscored(records)
    return summarize(records, config.samples, config.pass_k)


def evaluate_into(
    results: ResultFile | None,
    engine: RolloutEngine,
    evaluator: Evaluator,
    problems: Dealer,
    sampling: SamplingConfig,
    at_once: int,
    tell: Callable[[int, Scores], None],
) -> None:
    """Ask the problems that are not in `results` yet, some at a time, and append their records. A collective.

    Servers are given the next problems while they are still at the last responses to these. Where no response to some
    problems could be scored, these problems are not written, so that the same evaluation can go on with them.

    Args:
        results: the file, on the leader; None on the other ranks.
        engine: has the weights.
        evaluator: makes requests and records.
        problems: all of them; a problem's place is its number in the file.
        sampling: how responses are drawn.
        at_once: problems that are asked at a time, on all ranks together.
        tell: given the number of problems done and their scores each time that some more are, on the leader.

    Raises:
        AgreedError: no response to the problems that were asked at a time could be scored, and there are
            `_MANY_RESPONSES` of them, or none has been scored before.
    """
    done_before, scored = from_leader((tuple(results.right), results.scored) if results else ((), 0))
    done = set(done_before)
    left = [index for index in range(len(problems)) if index not in done]
    begun: deque[tuple[list[Request], Generation]] = deque()
    for start in range(0, len(left) + at_once, at_once):
        if start < len(left):
            requests = evaluator.requests(problems, left[start : start + at_once])
            begun.append((requests, engine.start(requests, sampling)))
        if start == 0:
            continue
        asked, generation = begun.popleft()
        records = evaluator.records(asked, generation.finish())
        if not scored or len(records) >= _MANY_RESPONSES:
            refuse_unscored(records)
        scored += sum(record["error"] is None for record in records)
        if results:
            results.append(records)
            tell(len(results.right), results.scores())


def refuse_unscored(records: Sequence[ResponseRecord]) -> None:
    """See that some response could be scored; the same on all ranks, as all have the same records.

    Raises:
        AgreedError: none could.
    """
    if records and all(record["error"] is not None for record in records):
        problem, error = (one_line(records[0][name]) for name in ("problem", "error"))
        raise AgreedError(f"reward: none of {len(records)} responses could be scored; the first, to {problem}: {error}")


def summarize(records: Sequence[ResponseRecord], samples: int, pass_k: Iterable[int]) -> Evaluation:
    """avg@K and pass@k of records with `samples` responses to each problem."""
    right: dict[int, int] = {}
    for record in records:
        right[record["index"]] = right.get(record["index"], 0) + int(record["reward"] >= CORRECT)
    return Evaluation(Scores.of((right[index] for index in sorted(right)), samples, pass_k), records)
