"""A trial of a user's reward, before anything is started: one that is broken would be found after the first rollout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.rewards.mixture import applies
from aspo_megatron.rewards.pool import RewardPool
from aspo_megatron.rewards.scorers import is_built_in


def try_reward(config: RewardConfig, problems: Iterable[Problem]) -> None:
    """Score a text with a reward that has a function of the user's in it, in a worker as later.

    The texts are a problem's answer, or its question where there is none, and if that cannot be scored, no text at
    all. The problems: the first one, and of a mixture the first one for each part. A function that scores one of a
    problem's texts is called once for it. Nothing is done with built-in rewards.

    Raises:
        ConfigError: none of a problem's texts can be scored; says why.
        UserError: the machine has no room for a worker.
    """
    if is_built_in(config):
        return
    with RewardPool(config.model_copy(update={"workers": 1})) as pool:
        for problem in _one_of_each(config, problems):
            text = problem.question if problem.answer is None else problem.answer
            reward = pool.submit([(problem, text)]).result()[0]
            if reward.error is not None and pool.submit([(problem, "")]).result()[0].error is not None:
                raise ConfigError(
                    f"reward.kind={config.kind}: a trial of it fails: asked what {one_line(repr(text[:60]))} is worth "
                    f"as a response to problem {one_line(problem.id)}: {one_line(reward.error)}"
                )


def _one_of_each(config: RewardConfig, problems: Iterable[Problem]) -> Iterator[Problem]:
    """The first problem, and of a mixture the first that each part applies to."""
    untried = dict(config.components)
    for number, problem in enumerate(problems):
        found = [name for name, part in untried.items() if applies(part, problem)]
        if found or number == 0:
            yield problem
        untried = {name: part for name, part in untried.items() if name not in found}
        if not untried:
            return
