"""What a run's figures say of a run that cannot learn, in lines that also say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
        is_on: whether the figures of a step show it.
        first: steps in a row before it is said for the first time.
        what: is wrong, given the figures of the last of these steps.
        cure: what to do, for the settings of the run.
    """

    is_on: Callable[[Figures], bool]
    first: int
    what: Callable[[Figures], str]
    cure: Callable[[Figures, RunConfig], str]


class _Watch:
    """Counts how many steps in a row each alarm has been on."""

    def __init__(self) -> None:
        self._lasted = [0] * len(_ALARMS)

    def after(self, figures: Figures) -> list[tuple[_Alarm, int]]:
        """The alarms that are on after a step for as long as it takes to say so, and for how many steps."""
        for place, alarm in enumerate(_ALARMS):
            self._lasted[place] = self._lasted[place] + 1 if alarm.is_on(figures) else 0
        pairs = zip(_ALARMS, self._lasted, strict=True)
        return [(alarm, lasted) for alarm, lasted in pairs if lasted >= alarm.first]


class Alarms:
    """Says what is wrong with one run, whose steps it is told in their order."""

    def __init__(self, config: RunConfig) -> None:
        self._config, self._watch = config, _Watch()

    def after(self, step: int, figures: Figures) -> list[str]:
        """What is to be said after a step, given its figures as metrics.jsonl has them: lines, most often none.

        An alarm that lasts is said again each time that it has lasted twice as long.
        """
        return [one_line(line) for line in self._lines(step, figures)]

    def _lines(self, step: int, figures: Figures) -> Iterator[str]:
        for alarm, lasted in self._watch.after(figures):
            times, rest = divmod(lasted, alarm.first)
            if rest == 0 and times & (times - 1) == 0:  # 1, 2, 4, ... times as long as `first`
                since = f"step {step}" if lasted == 1 else f"steps {step - lasted + 1} to {step}"
                yield f"warning: {since}: {alarm.what(figures)}: {alarm.cure(figures, self._config)}"


def standing(steps: Sequence[Figures]) -> list[str]:
    """What is wrong with a run after its last step: lines, without what to do, which depends on its settings."""
    watch = _Watch()
    on: list[tuple[_Alarm, int]] = []
    for figures in steps:
        on = watch.after(figures)
    return [f"for {lasted} steps {alarm.what(steps[-1])}" for alarm, lasted in on if lasted > 1]


def why_nothing(config: RunConfig) -> str:
    """Why an update may have nothing to learn from, in a run that is configured so."""
    dynamic = config.rollout.dynamic_sampling
    agree = "every prompt's rewards agree"
    reasons = [agree if dynamic == "off" else f"{agree} (rollout.dynamic_sampling={dynamic})"]
    if config.shaping.mask_truncated:
        reasons.append("every response was cut (shaping.mask_truncated=true)")
    return " or ".join(reasons)


def _equal_rewards(figures: Figures) -> str:
    share, reward = figures["groups/all_agree"], figures["reward/mean"]
    return f"the responses to {share:.0%} of the prompts got equal rewards ({reward:.3g} on average) and teach nothing"


def _other_problems(figures: Figures, config: RunConfig) -> str:
    if figures["reward/mean"] > _MOST:
        return "take harder problems"
    return (
        f"see what the model writes (aspo samples {config.output_dir}) and whether the reward knows a right answer "
        "(aspo try-reward); take easier problems, or a higher rollout.responses_per_prompt"
    )


def _more_room(figures: Figures, config: RunConfig) -> str:
    limit = config.rollout.sampling.max_response_tokens
    left_out = "those are left out (shaping.mask_truncated); " if config.shaping.mask_truncated else ""
    return f"{left_out}raise rollout.sampling.max_response_tokens={limit}, or ask for shorter answers (data.template)"


_ALARMS = (
    _Alarm(
        lambda figures: "grad_norm" not in figures,
        1,
        lambda figures: "no update was made, as there was nothing to learn from",
        lambda figures, config: why_nothing(config),
    ),
    _Alarm(
        lambda figures: figures.get("groups/all_agree", 0.0) >= _ALMOST_ALL,
        _STEPS_IN_A_ROW,
        _equal_rewards,
        _other_problems,
    ),
    _Alarm(
        lambda figures: figures.get("response_tokens/cut", 0.0) >= _MOST,
        _STEPS_IN_A_ROW,
        lambda figures: f"{figures['response_tokens/cut']:.0%} of the responses were cut before they had ended",
        _more_room,
    ),
    _Alarm(
        lambda figures: figures.get("reward/failed", 0.0) >= _MOST,
        _STEPS_IN_A_ROW,
        lambda figures: f"{figures['reward/failed']:.0%} of the responses could not be scored, and count as 0",
        lambda figures, config: f"the first errors are in {config.output_dir}/logs; see aspo try-reward",
    ),
)
