"""A reward tried on a few problems, to be looked at: what right and wrong responses are worth, and what fails."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aspo_megatron
from aspo_megatron.config import RewardConfig
from aspo_megatron.data.isolated_process import Isolated, IsolatedError
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards import scorers
from aspo_megatron.rewards.mixture import applies
from aspo_megatron.rewards.trial import AS_MODELS_WRITE, as_written
from aspo_megatron.rewards.workers.pool import Reward, RewardPool
from aspo_megatron.rewards.workers.task_queue import LATE

RIGHT = ("the answer alone", "the answer as models write it")
WRONG = "a wrong answer"

_MOST_LATE = 3
"""Responses that take too long, after which no more are scored: each costs its limit twice."""

_PACKAGE = Path(aspo_megatron.__file__).parent
_FRAMES = 4
"""Of a trace: those nearest to what was raised."""


@dataclass(frozen=True)
class Tried:
    """What a response is worth.

    Attributes:
        label: what it is, in words.
        response: its text.
        reward: what the workers say of it.
        seconds: that its scoring took.
        trace: lines of Python's traceback, in the user's code, if scoring raised something there.
    """

    label: str
    response: str
    reward: Reward
    seconds: float
    trace: tuple[str, ...] = ()


@dataclass(frozen=True)
class TriedProblem:
    """A problem and the responses that were tried; or why the reward cannot be asked about it (`unfit`).

    `left`: how many were not tried, as too many had taken too long by then.
    """

    problem: Problem
    tried: tuple[Tried, ...]
    unfit: str | None = None
    left: int = 0


def try_on(config: RewardConfig, problems: Sequence[Problem], given: Mapping[str, Sequence[str]]) -> list[TriedProblem]:
    """Score responses to each problem in a worker, as in a run: see `texts_of`, and those that are given.

    Args:
        config: the reward.
        problems: to be tried on.
        given: further responses, by the problem's id.

    Raises:
        ConfigError: see `scorers.check`.
        UserError: the machine has no room for a worker.
    """
    with RewardPool(config.model_copy(update={"workers": 1})) as pool:
        scoring = _Scoring(pool)
        found = [_tried_problem(config, scoring, problem, problems, given) for problem in problems]
    if scorers.is_built_in(config):
        return found
    return [replace(each, tried=tuple(_traced(config, each))) for each in found]


def _tried_problem(
    config: RewardConfig,
    scoring: _Scoring,
    problem: Problem,
    problems: Sequence[Problem],
    given: Mapping[str, Sequence[str]],
) -> TriedProblem:
    reason = scorers.unfit(config, problem)
    if reason is not None:
        return TriedProblem(problem, (), reason.text)
    texts = [*texts_of(config, problem, problems), *(("given", text) for text in given.get(problem.id, ()))]
    tried = tuple(one for label, text in texts if (one := scoring(problem, label, text)) is not None)
    return TriedProblem(problem, tried, left=len(texts) - len(tried))


class _Scoring:
    """Scores responses one after the other, until `_MOST_LATE` have taken too long."""

    def __init__(self, pool: RewardPool) -> None:
        self._pool, self._late, self._loaded = pool, 0, False

    def __call__(self, problem: Problem, label: str, text: str) -> Tried | None:
        """A response's worth; None if it is not asked for any more."""
        if self._late == _MOST_LATE:
            return None
        reward, seconds = self._timed(problem, text)
        if not self._loaded and reward.error is None:  # loading the scorer, too, was in the time
            reward, seconds = self._timed(problem, text)
        self._loaded = True
        self._late += reward.error is not None and reward.error.startswith(LATE)
        return Tried(label, text, reward, seconds)

    def _timed(self, problem: Problem, text: str) -> tuple[Reward, float]:
        start = time.perf_counter()
        (reward,) = self._pool.submit([(problem, text)]).result()
        return reward, time.perf_counter() - start


def texts_of(config: RewardConfig, problem: Problem, problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Labels and texts: the answer alone and as models write it, a wrong one written so, and no text.

    A problem without an answer is given its question. What `code` takes for an answer is tests, which no response is.
    """
    parts = [part.kind for part in config.components.values() if applies(part, problem)] or [config.kind]
    if "code" in parts:
        return [("no text", "")]
    if problem.answer is None:
        return [("the question", problem.question), ("no text", "")]
    wrong = as_written(AS_MODELS_WRITE, _wrong(problem.answer, problems))
    right = (problem.answer, as_written(AS_MODELS_WRITE, problem.answer))
    return [*zip(RIGHT, right, strict=True), (WRONG, wrong), ("no text", "")]


def _wrong(answer: str, problems: Sequence[Problem]) -> str:
    """The next whole number, or another problem's answer."""
    number = answer.strip()
    if number.removeprefix("-").isdecimal() and number.isascii() and len(number) < 1000:
        return str(int(number) + 1)
    others = (problem.answer for problem in problems if problem.answer is not None)
    return next((other for other in others if other.strip().lower() != answer.strip().lower()), "I do not know.")


def _traced(config: RewardConfig, each: TriedProblem) -> list[Tried]:
    """With traces where a function of the user's has raised: it is called once more, in a process of its own."""
    return [
        Tried(one.label, one.response, one.reward, one.seconds, _trace(config, each.problem, one)) for one in each.tried
    ]


def _trace(config: RewardConfig, problem: Problem, tried: Tried) -> tuple[str, ...]:
    if tried.reward.error is None or tried.reward.error.startswith(LATE):
        return ()

    def raised(response: str) -> tuple[str, ...]:
        try:
            scorers.build(config)(problem, response)
        except BaseException as error:  # `SystemExit`, too
            return _lines(error)
        return ()

    try:
        with Isolated(raised) as isolated:
            return isolated(tried.response, config.timeout_seconds)
    except IsolatedError:
        return ()


def _lines(error: BaseException) -> tuple[str, ...]:
    """Python's traceback from where the user's code begins."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [number for number, frame in enumerate(frames) if not Path(frame.filename).is_relative_to(_PACKAGE)]
    if not own:
        return ()
    shown = frames[own[0] :][-_FRAMES:]
    text = "".join([*traceback.format_list(shown), *traceback.format_exception_only(error)])
    return tuple(text.rstrip().splitlines())
