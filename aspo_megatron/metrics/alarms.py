"""What a run's figures say of a run that cannot learn, in lines that also say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from aspo_megatron.config import RunConfig
from aspo_megatron.foreign_text import one_line

Figures = Mapping[str, float]

_STEPS_IN_A_ROW = 3
"""A single step may be bad luck; so many in a row are not."""
_ALMOST_ALL = 0.95
_MOST = 0.5


@dataclass(frozen=True)
class _Alarm:
    """One kind of trouble.

    Attributes:
        name: of the alarm.
        is_on: whether the figures of a step show it.
        first: steps in a row before it is said for the first time; then each time that it has lasted twice as long.
        line: what is said, given the figures of the last of these steps.
    """

    name: str
    is_on: Callable[[Figures], bool]
    first: int
    line: Callable[[Figures, RunConfig], str]


class Alarms:
    """Watches the steps of one run, in their order."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._lasted = {alarm.name: 0 for alarm in _ALARMS}

    def after(self, step: int, figures: Figures) -> list[str]:
        """What is to be said after a step, given its figures as metrics.jsonl has them: lines, most often none."""
        return [one_line(line) for line in self._lines(step, figures)]

    def _lines(self, step: int, figures: Figures) -> Iterator[str]:
        for alarm in _ALARMS:
            lasted = self._lasted[alarm.name] = self._lasted[alarm.name] + 1 if alarm.is_on(figures) else 0
            times, rest = divmod(lasted, alarm.first)
            if times and not rest and times & (times - 1) == 0:  # 1, 2, 4, ... times as long as `first`
                since = f"step {step}" if lasted == 1 else f"steps {step - lasted + 1} to {step}"
                yield f"warning: {since}: {alarm.line(figures, self._config)}"


def why_nothing(config: RunConfig) -> str:
    """Why an update may have nothing to learn from, in a run that is configured so."""
    dynamic = config.rollout.dynamic_sampling
    agree = "every prompt's rewards agree"
    reasons = [agree if dynamic == "off" else f"{agree} (rollout.dynamic_sampling={dynamic})"]
    if config.shaping.mask_truncated:
        reasons.append("every response was cut (shaping.mask_truncated=true)")
    return " or ".join(reasons)


def _all_agree(figures: Figures, config: RunConfig) -> str:
    reward, share = figures["reward/mean"], figures["groups/all_agree"]
    what = f"the responses to {share:.0%} of the prompts got equal rewards ({reward:.3g} on average), so that there is"
    if reward > _MOST:
        return f"{what} nothing to learn from them: take harder problems"
    return (
        f"{what} nothing to learn from them: see what the model writes (aspo samples {config.output_dir}) and whether "
        "the reward knows a right answer (aspo try-reward); take easier problems, or a higher "
        "rollout.responses_per_prompt"
    )


def _cut(figures: Figures, config: RunConfig) -> str:
    limit = config.rollout.sampling.max_response_tokens
    left_out = " and left out of training (shaping.mask_truncated)" if config.shaping.mask_truncated else ""
    return (
        f"{figures['response_tokens/cut']:.0%} of the responses were cut at "
        f"rollout.sampling.max_response_tokens={limit}, before they had ended{left_out}: raise it, or ask for shorter "
        "answers (data.template)"
    )


def _failed(figures: Figures, config: RunConfig) -> str:
    return (
        f"{figures['reward/failed']:.0%} of the responses could not be scored, and count as 0: the first errors are in "
        f"{config.output_dir}/logs"
    )


_ALARMS = (
    _Alarm(
        "nothing trained",
        lambda figures: "grad_norm" not in figures,
        1,
        lambda figures, config: f"no update was made, as there was nothing to learn from: {why_nothing(config)}",
    ),
    _Alarm("all agree", lambda figures: figures["groups/all_agree"] >= _ALMOST_ALL, _STEPS_IN_A_ROW, _all_agree),
    _Alarm("cut", lambda figures: figures["response_tokens/cut"] >= _MOST, _STEPS_IN_A_ROW, _cut),
    _Alarm("failed", lambda figures: figures["reward/failed"] >= _MOST, _STEPS_IN_A_ROW, _failed),
)
