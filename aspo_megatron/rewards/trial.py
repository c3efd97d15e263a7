"""A trial of a user's reward, before anything is started: one that is broken would be found after the first rollout."""

from __future__ import annotations

from collections.abc import Iterable

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.rewards.mixture import applies
from aspo_megatron.rewards.scorers import is_built_in
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rewards.workers.task_queue import LATE

AS_MODELS_WRITE = "<think>\n{}\n</think>\n\n<answer>{}</answer>\n\\boxed{{{}}}\n```python\n{}\n```\n#### {}"
"""A text as models that reason write it: with all marks by which rewards find an answer."""

_FORMS = ("{}", AS_MODELS_WRITE, "")
"""A trial's texts: a known text alone, as models that reason write it, and nothing. A function may need one of them."""

_PROBLEMS = 3
"""A function that cannot score these, one and all, is broken; one of them alone may be bad."""


def try_reward(config: RewardConfig, problems: Iterable[Problem]) -> None:
    """Score texts with a reward that has a function of the user's in it, in a worker as later.

    The texts are a problem's answer, or its question where there is none, alone, and then, until one can be scored, in
    the tags, box and fences that models put it in, and no text at all. The problems are the first few, and of a mixture
    the first few for each part; only the first of them, if one of its texts can be scored. Nothing is done with
    built-in rewards.

    Raises:
        ConfigError: none of the texts of any of the problems can be scored; says why.
        UserError: the machine has no room for a worker.
    """
    if is_built_in(config):
        return
    with RewardPool(config.model_copy(update={"workers": 1})) as pool:
        errors: dict[int, str | None] = {}
        for alike in of_each(config, problems, _PROBLEMS):
            for problem in alike:
                if id(problem) not in errors:
                    errors[id(problem)] = _error(pool, problem)
                if errors[id(problem)] is None:
                    break
            else:
                first, text = alike[0], _text(alike[0])[:60]
                raise ConfigError(
                    f"reward.kind={config.kind}: a trial of it fails: asked what {one_line(repr(text))} is worth as a "
                    f"response to problem {one_line(first.id)}: {one_line(errors[id(first)])}; have it give a number "
                    "for any text, also for one without an answer"
                )


def as_written(form: str, text: str) -> str:
    """A text in one of the forms."""
    return form.format(*[text] * 5)


def _text(problem: Problem) -> str:
    return problem.question if problem.answer is None else problem.answer


def _error(pool: RewardPool, problem: Problem) -> str | None:
    """Why the text alone cannot be scored; None if one of its forms can."""
    first = None
    for form in _FORMS:
        error = pool.submit([(problem, as_written(form, _text(problem)))]).result()[0].error
        if error is None:
            return None
        first = first or error
        if error.startswith(LATE):  # so it would with the others, one after the other
            break
    return first


def of_each(config: RewardConfig, problems: Iterable[Problem], most: int) -> list[list[Problem]]:
    """The first problems, and of a mixture the first for each part that any is for; at most so many of each."""
    found: list[list[Problem]] = [[], *([] for _ in config.components)]
    for problem in problems:
        wants = [True, *(applies(part, problem) for part in config.components.values())]
        for alike, wanted in zip(found, wants, strict=True):
            if wanted and len(alike) < most:
                alike.append(problem)
        if all(len(alike) == most for alike in found):
            break
    return [alike for alike in found if alike]
