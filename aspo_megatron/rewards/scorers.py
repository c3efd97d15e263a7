"""Which function scores a response: a built-in reward, a user's own by import path, or a mixture of these."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aspo_megatron.data.bad_problems import Reason
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.rewards.cpu_clock import cpu_seconds
from aspo_megatron.rewards.mixture import Mixture, Score, applies, unmet
from aspo_megatron.rewards.numbers import as_number
from aspo_megatron.rewards.text import named
from aspo_megatron.user_code import import_named

if TYPE_CHECKING:
    from aspo_megatron.config import CodeConfig, RewardConfig

Scorer = Callable[[Problem, str], float]

BUILT_IN = ("math", "code", "choice", "reasoning_gym")
"""The kinds that come with the product, besides `mixture`."""

_SHOWN = 60


def check(config: RewardConfig, problems: Iterable[Problem] = ()) -> None:
    """Refuse a reward that cannot work, before any process is started.

    Args:
        config: the reward asked for; a user's module is imported, and for `code` a program is run.
        problems: those to be scored; each must have what a built-in reward needs.

    Raises:
        ConfigError: a kind is unknown or cannot be imported, does not fit a problem, or no part of a mixture does;
            or programs cannot be isolated on this machine.
    """
    # A module that goes to another folder as it is imported must not take the run's paths with it.
    with contextlib.nullcontext() if is_built_in(config) else contextlib.chdir("."):
        build(config)
    for problem in problems:
        reason = unfit(config, problem)
        if reason is not None:
            raise ConfigError(reason.text)


def unfit(config: RewardConfig, problem: Problem) -> Reason | None:
    """Why a reward cannot score the responses to a problem; None if it can."""
    if config.kind != "mixture":
        return _unfit(config.kind, config.code, "reward", problem)
    parts = {name: part for name, part in config.components.items() if applies(part, problem)}
    if not parts:
        why = unmet(config.components, problem)
        text = f"reward.components: none applies to {named(problem)}: {why}; add one whose `when` it meets, or has none"
        return Reason("no reward for it", text)
    reasons = (
        _unfit(part.kind, part.code or config.code, f"reward.components.{name}", problem)
        for name, part in parts.items()
    )
    return next((reason for reason in reasons if reason is not None), None)


def _unfit(kind: str, code: CodeConfig, key: str, problem: Problem) -> Reason | None:
    if kind == "math":
        return _unfit_for_math(key, problem)
    if kind == "reasoning_gym" and "family" not in problem.metadata:
        return Reason(
            "not of reasoning-gym",
            f"{key}.kind: reasoning_gym scores problems of reasoning-gym only, which {named(problem)} is not",
        )
    if kind == "choice":
        return _unfit_for_choice(key, problem)
    return _unfit_for_code(key, code, problem) if kind == "code" else None


def _without_answer(kind: str, key: str, problem: Problem) -> Reason:
    return Reason(
        "no reference answer",
        f"{key}.kind: {kind} needs reference answers, and {named(problem)} has none; set answer_field of its source",
    )


def _unfit_for_choice(key: str, problem: Problem) -> Reason | None:
    from aspo_megatron.rewards.choice.reward import right_letter

    if problem.answer is None:
        return _without_answer("choice", key, problem)
    try:
        right_letter(problem)
    except ValueError as error:
        return Reason("no letter of an option as reference answer", f"{key}.kind: choice: {error}")
    return None


def _unfit_for_math(key: str, problem: Problem) -> Reason | None:
    if problem.answer is None:
        return _without_answer("math", key, problem)
    from aspo_megatron.rewards.mathematics.reading.references import flaw

    found = flaw(problem.answer)
    if found is None:
        return None
    shown = one_line(repr(problem.answer[:_SHOWN]))
    return Reason(
        f"{found} reference answer",
        f"{key}.kind: math: the reference answer {shown} of {named(problem)} is {found}, so that no response could be "
        "compared with it; correct it",
    )


def _unfit_for_code(key: str, code: CodeConfig, problem: Problem) -> Reason | None:
    from aspo_megatron.rewards.programs.tests import has_tests, read_tests

    if not has_tests(problem, code.tests_field):
        return Reason(
            "no tests",
            f"{key}.kind: code needs tests, and {named(problem)} has none; set {key}.code.tests_field",
        )
    try:
        read_tests(problem, code.tests_field)
    except ValueError as error:
        return Reason("unreadable tests", f"{key}.kind: code: {error}")
    return None


def is_built_in(config: RewardConfig) -> bool:
    """Whether no function of the user's takes part."""
    kinds = [part.kind for part in config.components.values()] if config.kind == "mixture" else [config.kind]
    return all(kind in BUILT_IN for kind in kinds)


def build(config: RewardConfig) -> Callable[[Problem, str], Score]:
    """The function that scores responses as the configuration says; values are finite.

    Raises:
        ConfigError: see `check`.
    """
    if config.kind == "mixture":
        parts = [
            (
                name,
                part,
                _finite(part.kind, _scorer(part.kind, part.options, part.code or config.code, config, f".{name}")),
            )
            for name, part in config.components.items()
        ]
        return Mixture(parts).score
    scorer = _finite(config.kind, _scorer(config.kind, config.options, config.code, config, ""))
    return lambda problem, response: Score(scorer(problem, response))


def _scorer(kind: str, options: Mapping[str, Any], code: CodeConfig, config: RewardConfig, part: str) -> Scorer:
    """The function of one kind; `part` is a mixture's part with a dot before it, or nothing."""
    key = f"reward.components{part}" if part else "reward"
    if kind not in BUILT_IN:
        function = _user_function(kind, options, key)
        return functools.partial(function, **options) if options else function
    if options:
        raise ConfigError(f"{key}.options: they go to a function of your own, and {kind} takes none")
    # Imported here, as each needs libraries that the others do not.
    if kind == "math":
        from aspo_megatron.rewards.mathematics import reward as math_reward

        return functools.partial(math_reward.score, seconds=cpu_seconds(config.timeout_seconds))
    if kind == "choice":
        from aspo_megatron.rewards.choice import reward as choice_reward

        return choice_reward.score
    if kind == "reasoning_gym":
        from aspo_megatron.rewards import reasoning_gym

        return functools.partial(reasoning_gym.score, seconds=cpu_seconds(config.timeout_seconds))
    from aspo_megatron.rewards.programs.reward import CodeScorer

    return CodeScorer(code, config.timeout_seconds).score


def _user_function(kind: str, options: Mapping[str, Any], key: str) -> Scorer:
    """A user's function, see `import_named`."""
    module_name, _, name = kind.partition(":")
    if not module_name or not name:
        near = difflib.get_close_matches(kind, (*BUILT_IN, "mixture"), n=1)
        kinds = ", ".join((*BUILT_IN, "mixture"))
        hint = f"did you mean {near[0]!r}? Otherwise give" if near else f"it can be {kinds} or"
        raise ConfigError(f"{key}.kind: unknown reward {kind!r}; {hint} package.module:function")
    scorer = import_named(kind, f"{key}.kind")
    if not callable(scorer):
        raise ConfigError(f"{key}.kind: {kind!r} is a {type(scorer).__name__}, not a function")
    if inspect.iscoroutinefunction(scorer):
        raise ConfigError(f"{key}.kind: {kind!r} is an async function; give a plain one, which returns the number")
    _check_signature(kind, scorer, options, key)
    return scorer


def _check_signature(kind: str, scorer: Scorer, options: Mapping[str, Any], key: str) -> None:
    try:
        signature = inspect.signature(scorer)
    except ValueError:  # C functions may not tell.
        return
    try:
        signature.bind(None, "", **options)
    except TypeError as error:
        called = "".join(f", {name}" for name in options)
        raise ConfigError(
            f"{key}.kind: {kind!r} takes {signature}, but is called with (problem, response{called}): {error}"
        ) from error


def _finite(kind: str, scorer: Scorer) -> Scorer:
    """The same function, which raises ValueError for what is no finite number."""

    def checked(problem: Problem, response: str) -> float:
        value: object = scorer(problem, response)
        number = as_number(value)
        if number is None:
            shown = one_line(" ".join(repr(value)[: 4 * _SHOWN].split()))[:_SHOWN]
            raise ValueError(f"reward {kind!r} gave {shown} for {named(problem)}; it must give a finite number")
        return number

    return checked
