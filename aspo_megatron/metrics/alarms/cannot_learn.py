"""Alarms of a run that learns nothing: no update, equal rewards, cut or unscored responses."""

from __future__ import annotations

from aspo_megatron.config import RunConfig
from aspo_megatron.metrics.alarms.alarm import Alarm, Level
from aspo_megatron.metrics.alarms.course import Course
from aspo_megatron.metrics.alarms.settings import Settings
from aspo_megatron.metrics.alarms.thresholds import AGREE, CUT, FAILED, STEPS_IN_A_ROW

_RIGHT = 0.5
"""A mean reward above: the prompts are too easy rather than too hard."""


def why_nothing(config: RunConfig) -> str:
    """Why an update may have nothing to learn from, in a run that is configured so."""
    return _why_nothing(Settings.of(config))


def _why_nothing(settings: Settings) -> str:
    agree = "every prompt's rewards agree"
    dynamic = settings.get("rollout.dynamic_sampling") in (None, "off")
    reasons = [agree if dynamic else f"{agree} ({settings.named('rollout.dynamic_sampling')})"]
    if settings.get("shaping.mask_truncated"):
        reasons.append(f"every response was cut ({settings.named('shaping.mask_truncated')})")
    return " or ".join(reasons)


def _share(course: Course, metric: str) -> float:
    return course.value(metric) or 0.0


def _high(course: Course, metric: str, least: float) -> Level:
    return Level.HIGH if _share(course, metric) >= least else Level.NONE


def _equal_rewards(course: Course) -> str:
    share, reward = _share(course, "groups/all_agree"), course.value("reward/mean") or 0.0
    return f"the responses to {share:.0%} of the prompts got equal rewards ({reward:.3g} on average) and teach nothing"


def _other_problems(course: Course, settings: Settings) -> str:
    if (course.value("reward/mean") or 0.0) > _RIGHT:
        return "take harder problems"
    return (
        f"see what the model writes (aspo samples {settings.folder}) and whether the reward knows a right answer "
        "(aspo try-reward); take easier problems, or a higher rollout.responses_per_prompt"
    )


def _more_room(course: Course, settings: Settings) -> str:
    left_out = "those are left out (shaping.mask_truncated); " if settings.get("shaping.mask_truncated") else ""
    limit = settings.named("rollout.sampling.max_response_tokens")
    return f"{left_out}raise {limit}, or ask for shorter answers (data.template)"


CANNOT_LEARN = (
    Alarm(
        name="no update",
        metric="grad_norm",
        level=lambda course: Level.NONE if "grad_norm" in course.figures else Level.HIGH,
        first=1,
        what=lambda course: "no update was made, as there was nothing to learn from",
        cure=lambda course, settings: _why_nothing(settings),
        when="a step makes no update",
        why="the step cost its time and changed nothing",
        collapse=False,
        advice="rollout.dynamic_sampling=refill, or other problems; without shaping.mask_truncated, cut responses "
        "count",
    ),
    Alarm(
        name="equal rewards",
        metric="groups/all_agree",
        level=lambda course: _high(course, "groups/all_agree", AGREE),
        first=STEPS_IN_A_ROW,
        what=_equal_rewards,
        cure=_other_problems,
        when=f"{AGREE:.0%} of the prompts or more, in {STEPS_IN_A_ROW} steps in a row",
        why="the advantage of such responses is 0",
        collapse=False,
        advice="harder problems where the reward is high; else see what the model writes (aspo samples RUN) and "
        "whether the reward knows a right answer (aspo try-reward), easier problems, or a higher "
        "rollout.responses_per_prompt",
    ),
    Alarm(
        name="cut responses",
        metric="response_tokens/cut",
        level=lambda course: _high(course, "response_tokens/cut", CUT),
        first=STEPS_IN_A_ROW,
        what=lambda course: (
            f"{_share(course, 'response_tokens/cut'):.0%} of the responses were cut before they had ended"
        ),
        cure=_more_room,
        when=f"{CUT:.0%} of the responses or more, in {STEPS_IN_A_ROW} steps in a row",
        why="they never reach an answer, whatever they would have said",
        collapse=False,
    ),
    Alarm(
        name="failed rewards",
        metric="reward/failed",
        level=lambda course: _high(course, "reward/failed", FAILED),
        first=STEPS_IN_A_ROW,
        what=lambda course: (
            f"{_share(course, 'reward/failed'):.0%} of the responses could not be scored, and count as 0"
        ),
        cure=lambda course, settings: f"the first errors are in {settings.folder}/logs; see aspo try-reward",
        when=f"{FAILED:.0%} of the responses or more, in {STEPS_IN_A_ROW} steps in a row",
        why="a broken reward teaches nonsense",
        collapse=False,
    ),
)
"""What in the metrics of a run says that it learns nothing, or that something is broken."""
