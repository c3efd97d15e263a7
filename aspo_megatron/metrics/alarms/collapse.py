"""Alarms of a policy that collapses: entropy, repetition, updates and KL, length. Of its score: see score.py.

What is looked at is what the ASPO paper looks at to tell healthy convergence from a local optimum (arXiv 2510.06062v2,
appendix D): entropy, repetition, clipping, KL and length, beside accuracy.
"""

from __future__ import annotations

from aspo_megatron.metrics.alarms.alarm import Alarm, Level, level_of
from aspo_megatron.metrics.alarms.course import Course
from aspo_megatron.metrics.alarms.settings import Settings
from aspo_megatron.metrics.alarms.thresholds import (
    CLIPPED,
    CLIPPED_AT_ONCE,
    ENTROPY_LEFT,
    ENTROPY_LEFT_AT_ONCE,
    ENTROPY_NATS,
    ENTROPY_RISE,
    ENTROPY_TIMES,
    ENTROPY_TIMES_AT_ONCE,
    KL,
    KL_AT_ONCE,
    KL_EXPLODED,
    KL_STEPS,
    KL_TIMES,
    LENGTH_FALL,
    LENGTH_FALL_AT_ONCE,
    LENGTH_RISE,
    LENGTH_RISE_AT_ONCE,
    MATCH_ROOM,
    MATCH_START,
    NEAR_TOP,
    REPETITION_RISE,
    REPETITION_RISE_AT_ONCE,
    STEPS_IN_A_ROW,
    UPDATE_KL,
    UPDATE_KL_AT_ONCE,
)

_LASTS = f"in {STEPS_IN_A_ROW} steps in a row"


def _since_start(course: Course, metric: str) -> tuple[float, float] | None:
    """A metric of the last step, and at the start."""
    value, start = course.value(metric), course.start(metric)
    return None if value is None or start is None else (value, start)


def _said(course: Course, metric: str, unit: str) -> str:
    """E.g. `0.12 nats per token, 0.69 at the start`."""
    value, start = _since_start(course, metric) or (0.0, 0.0)
    return f"{value:.3g}{unit}, {start:.3g} at the start"


def _rewards(course: Course) -> str:
    return f"({course.reward or 0.0:.3g}, {course.start_reward or 0.0:.3g} at the start)"


def _entropy_left(course: Course) -> Level:
    found = _since_start(course, "entropy")
    if found is None or found[1] < ENTROPY_NATS or course.has_converged:
        return Level.NONE
    return level_of(-found[0] / found[1], -ENTROPY_LEFT, -ENTROPY_LEFT_AT_ONCE)


def _entropy_risen(course: Course) -> Level:
    found = _since_start(course, "entropy")
    if found is None or found[0] - found[1] < ENTROPY_RISE:
        return Level.NONE
    return level_of(found[0] / max(found[1], 1e-9), ENTROPY_TIMES, ENTROPY_TIMES_AT_ONCE)


def _repetition(course: Course) -> Level:
    found = _since_start(course, "repetition/mean")
    return level_of(None if found is None else found[0] - found[1], REPETITION_RISE, REPETITION_RISE_AT_ONCE)


def _kl(course: Course) -> Level:
    value, before = course.value("kl_ref"), course.earlier_median("kl_ref")
    level = level_of(value, KL, KL_AT_ONCE)
    explodes = value is not None and before is not None and value >= max(KL_EXPLODED, KL_TIMES * before)
    return Level.HIGH if explodes and not level else level


def _length(course: Course) -> Level:
    found = _since_start(course, "response_tokens/mean")
    if found is None or course.has_gained or course.is_near_top:
        return Level.NONE
    value, start = found
    if value < LENGTH_FALL_AT_ONCE * start or value > LENGTH_RISE_AT_ONCE * start:
        return Level.EXTREME
    return Level.HIGH if value < LENGTH_FALL * start or value > LENGTH_RISE * start else Level.NONE


def _smaller_updates(settings: Settings) -> str:
    return (
        f"lower {settings.named('optimizer.lr')} or {settings.named('train.epochs')}, or make fewer updates of a step "
        f"(a higher {settings.named('train.prompts_per_update')})"
    )


def _closer(settings: Settings) -> str:
    return f"lower {settings.named('optimizer.lr')}, or raise {settings.named('loss.kl_coef')}"


def _length_cure(course: Course, settings: Settings) -> str:
    value, start = _since_start(course, "response_tokens/mean") or (0.0, 0.0)
    see = f"see what the model writes (aspo samples {settings.folder})"
    if value > start:
        return f"{see}; a penalty of over-long responses ({settings.named('shaping.overlong_tokens')}) keeps them short"
    return f"{see}, and whether the reward likes short ones; {_closer(settings)}"


COLLAPSE = (
    Alarm(
        name="local optimum",
        metric="entropy",
        level=_entropy_left,
        first=STEPS_IN_A_ROW,
        what=lambda course: (
            f"the entropy has fallen ({_said(course, 'entropy', ' nats per token')}) and the reward has "
            f"not risen to match {_rewards(course)}: a local optimum"
        ),
        cure=lambda course, settings: (
            f"{_closer(settings)}, {settings.named('loss.entropy_coef')} or the upper end of the loss's clip range"
        ),
        when=f"{ENTROPY_LEFT:.0%} or less of the start's entropy is left {_LASTS}, or {ENTROPY_LEFT_AT_ONCE:.0%} in "
        f"one; the start had {ENTROPY_NATS:g} nats or more",
        why=f"nothing new is tried any more. No alarm while the reward is {NEAR_TOP:g} of 1 or more, or has risen by "
        f"{MATCH_ROOM:.0%} of the room between its start and 1, or by {MATCH_START:.0%} of its start; of rewards that "
        "are not from 0 to 1, while it has risen at all: that is healthy convergence",
    ),
    Alarm(
        name="dissolving policy",
        metric="entropy",
        level=_entropy_risen,
        first=STEPS_IN_A_ROW,
        what=lambda course: (
            f"the entropy has risen ({_said(course, 'entropy', ' nats per token')}): the policy dissolves"
        ),
        cure=lambda course, settings: (
            f"{_closer(settings)}; keep {settings.named('loss.entropy_coef')} small, and see "
            "whether the reward knows a right answer (aspo try-reward)"
        ),
        when=f"{ENTROPY_TIMES:g} times the start's entropy {_LASTS}, or {ENTROPY_TIMES_AT_ONCE:g} times in one; "
        f"{ENTROPY_RISE:g} nats above it at least",
        why="the policy forgets what it knew; if the reward rises meanwhile, see whether noise can earn it",
    ),
    Alarm(
        name="repetition",
        metric="repetition/mean",
        level=_repetition,
        first=STEPS_IN_A_ROW,
        what=lambda course: f"the responses repeat themselves ({_said(course, 'repetition/mean', ' of the 4-grams')})",
        cure=lambda course, settings: (
            f"see what the model writes (aspo samples {settings.folder}); {_closer(settings)}"
        ),
        when=f"{100 * REPETITION_RISE:g} points above the start {_LASTS}, or {100 * REPETITION_RISE_AT_ONCE:g} in one",
        why="text that repeats itself carries no answer",
    ),
    Alarm(
        name="clipped tokens",
        metric="clip/fraction",
        level=lambda course: level_of(course.value("clip/fraction"), CLIPPED, CLIPPED_AT_ONCE),
        first=STEPS_IN_A_ROW,
        what=lambda course: (
            f"{course.value('clip/fraction') or 0.0:.0%} of the tokens had no gradient: the updates of a "
            "step move the policy too far"
        ),
        cure=lambda course, settings: _smaller_updates(settings),
        when=f"{CLIPPED:.0%} of the tokens {_LASTS}, or {CLIPPED_AT_ONCE:.0%} in one",
        why="the policy has left the range in which the loss is meant to hold",
    ),
    Alarm(
        name="large updates",
        metric="approx_kl",
        level=lambda course: level_of(course.value("approx_kl"), UPDATE_KL, UPDATE_KL_AT_ONCE),
        first=STEPS_IN_A_ROW,
        what=lambda course: (
            f"the updates of a step move the policy too far (approx_kl is "
            f"{course.value('approx_kl') or 0.0:.3g} nats per token)"
        ),
        cure=lambda course, settings: _smaller_updates(settings),
        when=f"{UPDATE_KL:g} nats per token {_LASTS}, or {UPDATE_KL_AT_ONCE:g} in one",
        why="the responses of the step say little of a policy so far away",
    ),
    Alarm(
        name="far from the start",
        metric="kl_ref",
        level=_kl,
        first=STEPS_IN_A_ROW,
        what=lambda course: f"the KL to the starting model is {course.value('kl_ref') or 0.0:.3g} nats per token",
        cure=lambda course, settings: (
            f"{_closer(settings)}; if single tokens make it, {settings.named('loss.kl_estimator')} may be k2"
        ),
        when=f"{KL:g} nats per token, or {KL_TIMES:g} times the median of the {KL_STEPS} steps before and "
        f"{KL_EXPLODED:g} at least, {_LASTS}; or {KL_AT_ONCE:g} in one",
        why="the policy has left the language that it began with",
    ),
    Alarm(
        name="response length",
        metric="response_tokens/mean",
        level=_length,
        first=STEPS_IN_A_ROW,
        what=lambda course: (
            f"the length of the responses has left its start "
            f"({_said(course, 'response_tokens/mean', ' tokens')}) and the reward has not risen {_rewards(course)}"
        ),
        cure=_length_cure,
        when=f"below {LENGTH_FALL:g} or above {LENGTH_RISE:g} times the start's length {_LASTS}, or below "
        f"{LENGTH_FALL_AT_ONCE:g} or above {LENGTH_RISE_AT_ONCE:g} times in one",
        why=f"it gives up answering, or never ends. No alarm while the reward is above its start, or {NEAR_TOP:g} of 1 "
        "or more: longer or shorter is then what the task wants",
        advice="see what the model writes (aspo samples RUN); too long: shaping.overlong_tokens; too short: see "
        "whether the reward likes short ones, lower optimizer.lr, or raise loss.kl_coef",
    ),
)
"""What in a step's figures says that the policy gets worse, often before its score does."""
