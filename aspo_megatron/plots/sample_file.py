"""Reads sampled responses for showing: samples.jsonl of a run, or the responses of an evaluation."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aspo_megatron.errors import UserError
from aspo_megatron.folders import SAMPLES_FILE
from aspo_megatron.foreign_text import one_line, placed
from aspo_megatron.metrics.damaged_lines import Damage, bounded_lines, named
from aspo_megatron.reading import own_file, parse_json
from aspo_megatron.streams import say

Kind = Literal["right", "wrong", "cut"]

RIGHT = 1.0
"""The reward from which a response counts as right, as in evaluations."""


@dataclass(frozen=True)
class ShownSample:
    """A response. `tokens` and `weights` have one length; both are empty where none were recorded.

    `log_probs` has that length, too, and is empty where none were recorded: those of the tokens by the policy that
    generated them, nats.

    `prompt` is the text as the model was asked, with its template; None where that was not recorded.

    A weight w is the factor of the gradient -A * w * grad log pi at the token: 1 is REINFORCE's, 0 is no gradient.
    """

    step: int | None
    problem: str
    question: str
    answer: str | None
    response: str
    reward: float
    advantage: float | None
    finish_reason: str
    prompt: str | None = None
    tokens: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    log_probs: tuple[float, ...] = ()

    @property
    def is_neutral(self) -> bool:
        """Whether its advantage is 0: its weights are 0 as nothing pushes its tokens, not as any is dropped.

        Where all rewards of a group agree, rounding may leave a trace of an advantage.
        """
        return self.advantage is not None and abs(self.advantage) < 1e-6

    @property
    def right(self) -> bool:
        """Whether it counts as right in an accuracy."""
        return self.reward >= RIGHT

    @property
    def cut(self) -> bool:
        """Whether it was not finished."""
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Selection:
    """Those chosen, in the file's order, and of how many that match: all in the file if nothing was asked."""

    samples: tuple[ShownSample, ...]
    matching: int
    total: int


def read_samples(
    run: Path,
    step: int | None = None,
    problem: str | None = None,
    count: int = 4,
    only: Kind | None = None,
    containing: str | None = None,
    warn: Callable[[str], None] = say,
) -> Selection:
    """The last `count` responses that match. One at a time: a file may be larger than the memory.

    A line that is no response is left out, with one warning for all.

    Args:
        run: run folder, or a JSONL file of responses such as RUN/eval/step-000020.jsonl.
        step: of this training step alone.
        problem: of this problem alone, by its id.
        count: at most so many.
        only: those alone that are right, wrong or cut.
        containing: those alone whose question or response has this text, in upper or lower case.
        warn: is told of lines that are left out.

    Raises:
        UserError: no such file, it has lines of which none is a response, or none match.
    """
    path = run if os.path.isfile(run) else own_file(run, SAMPLES_FILE)
    name = one_line(path)
    chosen: deque[ShownSample] = deque(maxlen=count)
    steps: Counter[int] = Counter()
    problems: Counter[str] = Counter()
    matching = candidates = total = 0
    refused: dict[int, str] = {}
    for sample in _responses(path, refused):
        total += 1
        problems[sample.problem] += 1
        if sample.step is not None:
            steps[sample.step] += 1
        asked = step in (None, sample.step) and problem in (None, sample.problem)
        candidates += asked
        if asked and _is_like(sample, only, containing):
            matching += 1
            chosen.append(sample)
    _tell_of(path, refused, total, warn)
    if not total:
        raise UserError(f"{name}: no response is recorded yet")
    if not matching:
        if candidates:
            what = "".join([f" is {only}" if only else "", " and" if only and containing else ""])
            what += f" has {one_line(containing)!r} in it" if containing else ""
            raise UserError(f"{name}: none of {candidates} responses{what}")
        raise UserError(f"{name}: {_none_matches(step, problem, steps, problems)}")
    return Selection(tuple(chosen), matching, total)


def each_sample(run: Path, warn: Callable[[str], None] = say) -> Iterator[ShownSample]:
    """All responses of a run, one at a time; a line that is none is left out, with one warning for all at the end.

    Raises:
        UserError: no such file, or it has lines of which none is a response.
    """
    path = own_file(run, SAMPLES_FILE)
    refused: dict[int, str] = {}
    total = 0
    for sample in _responses(path, refused):
        total += 1
        yield sample
    _tell_of(path, refused, total, warn)


def _tell_of(path: Path, refused: Mapping[int, str], total: int, warn: Callable[[str], None]) -> None:
    """Say which lines of a file were left out, of which `total` others are responses."""
    if refused and not total:
        raise UserError(next(iter(refused.values())))
    if refused:
        warn(f"warning: {one_line(path)}, {named('line', refused)}: damaged, not a response; left out")


def _responses(path: Path, refused: dict[int, str]) -> Iterator[ShownSample]:
    """Those of a file. `refused` gets the lines that are none, by number, with the reason for the first of them."""
    damage = Damage(path)
    for number, line in _whole_lines(path):
        try:
            sample = parse_sample(line, f"{one_line(path)}, line {number}")
        except UserError as error:
            refused[number] = "" if refused else str(error)
            damage.count(len(line))
            continue
        yield sample


def _is_like(sample: ShownSample, only: Kind | None, containing: str | None) -> bool:
    if only is not None and not {"right": sample.right, "wrong": not sample.right, "cut": sample.cut}[only]:
        return False
    sought = (containing or "").casefold()
    return sought in sample.question.casefold() or sought in sample.response.casefold()


def _none_matches(step: int | None, problem: str | None, steps: Counter[int], problems: Counter[str]) -> str:
    if step is not None and step not in steps:
        return f"no response of step {step}; " + (
            f"there are steps {min(steps)} to {max(steps)}" if steps else "its lines have no step"
        )
    if problem is not None and problem not in problems:
        return f"no response to problem {problem!r}; there are {', '.join(map(repr, list(problems)[:3]))} and so on"
    return f"no response to problem {problem!r} in step {step}"


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines, numbered; an unfinished last line is left out: the run may be writing it."""
    try:
        yield from bounded_lines(path)
    except FileNotFoundError as error:
        what = "no such file; is this a run folder, and was log.samples_per_step above 0?"
        raise UserError(f"{placed(path)}: {what}") from error
    except OSError as error:
        raise UserError(f"{one_line(path)}: cannot be read: {error.strerror or error}") from error


def parse_sample(line: bytes, where: str) -> ShownSample:
    """A line of a file of responses.

    Raises:
        UserError: it is none; begins with `where`.
    """
    try:
        record = parse_json(line, where)
    except UserError as error:
        raise UserError(f"{where}: not JSON: {line[:60]!r}") from error
    try:
        step, advantage, answer = record.get("step"), record.get("advantage"), record.get("answer")
        prompt = record.get("prompt")
        tokens, weights, log_probs = record.get("tokens"), record.get("weights"), record.get("log_probs")
        # An evaluation's `tokens` is their number.
        weighted = isinstance(tokens, list) and weights is not None
        sample = ShownSample(
            step=None if step is None else int(step),
            problem=str(record["problem"]),
            question=str(record.get("question", "")),
            answer=None if answer is None else str(answer),
            response=str(record["response"]),
            reward=float(record["reward"]),
            advantage=None if advantage is None else float(advantage),
            finish_reason=str(record.get("finish_reason", "")),
            prompt=None if prompt is None else str(prompt),
            tokens=tuple(str(token) for token in tokens) if weighted else (),
            weights=tuple(float(weight) for weight in weights) if weighted else (),
            log_probs=tuple(float(log_prob) for log_prob in log_probs) if weighted and log_probs is not None else (),
        )
    except KeyError as error:
        raise UserError(f"{where}: not a sampled response: it has no {error}") from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: not a sampled response: {one_line(error)}") from error
    if len(sample.tokens) != len(sample.weights):
        raise UserError(f"{where}: {len(sample.tokens)} `tokens` but {len(sample.weights)} `weights`")
    if sample.log_probs and len(sample.log_probs) != len(sample.tokens):
        raise UserError(f"{where}: {len(sample.tokens)} `tokens` but {len(sample.log_probs)} `log_probs`")
    return sample


def weight_summary(sample: ShownSample, most: int = 5) -> str:
    """In words: how many tokens are dropped, the range of the others, and which are pushed hardest."""
    if sample.is_neutral:
        return "advantage 0: nothing pushes these tokens, and none is dropped"
    kept = [(weight, token) for weight, token in zip(sample.weights, sample.tokens, strict=True) if weight]
    parts = [f"{len(sample.weights) - len(kept)} of {len(sample.weights)} tokens dropped"]
    finite = [weight for weight, _ in kept if math.isfinite(weight)]
    if finite:
        parts.append(
            f"the others' weights {min(finite):.2f} to {max(finite):.2f}, mean {sum(finite) / len(finite):.2f}"
        )
    if len(finite) < len(kept):
        parts.append(f"{len(kept) - len(finite)} not finite")
    hardest = sorted((pair for pair in kept if math.isfinite(pair[0]) and pair[0] > 1.1), key=lambda pair: -pair[0])
    if hardest:
        parts.append("hardest: " + ", ".join(f"{token!r} {weight:.2f}" for weight, token in hardest[:most]))
    return "; ".join(parts)
