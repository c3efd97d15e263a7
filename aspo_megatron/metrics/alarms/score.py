"""Alarms of a score that falls: the reward of training, and the accuracy on held-out problems."""

from __future__ import annotations

import math

from aspo_megatron.metrics.alarms.alarm import Alarm, Level
from aspo_megatron.metrics.alarms.course import Course
from aspo_megatron.metrics.alarms.settings import Settings
from aspo_megatron.metrics.alarms.thresholds import (
    BEST_STEPS,
    HELDOUT_AT_ONCE,
    HELDOUT_CHURN,
    HELDOUT_ERRORS,
    HELDOUT_FALL,
    HELDOUT_LEAST,
    HELDOUT_NOISE,
    HELDOUT_PROBLEMS,
    RECENT_STEPS,
    REWARD_FALL,
    REWARD_FALL_AT_ONCE,
    REWARD_NOISE,
    REWARD_STEPS,
)


def _reward(course: Course) -> Level:
    best, noise, last, mean = course.best_reward, course.noise, course.last_reward, course.reward
    if best is None or noise is None or last is None:
        return Level.NONE
    if best - last > max(REWARD_FALL_AT_ONCE * course.size, REWARD_NOISE * noise):
        return Level.EXTREME
    falls = mean is not None and best - mean > max(
        REWARD_FALL * course.size, REWARD_NOISE * noise / math.sqrt(RECENT_STEPS)
    )
    return Level.HIGH if falls else Level.NONE


def _reward_what(course: Course) -> str:
    last, best = course.last_reward or 0.0, course.best_reward or 0.0
    of_late = "" if course.reward is None else f", {course.reward:.3g} of late"
    return f"the reward has fallen ({last:.3g} in this step{of_late}, {best:.3g} at its best)"


def _heldout(course: Course) -> Level:
    """Of the last two evaluations: it stays on until the next one."""
    best = course.best_evaluation
    if best is None:
        return Level.NONE
    below = [(best.accuracy - one.accuracy) / one.margin for one in course.evaluations if one.step > best.step]
    if below and below[-1] > HELDOUT_AT_ONCE:
        return Level.EXTREME
    return Level.EXTREME if len(below) > 1 and min(below) > 1 else Level.NONE


def _is_hacked(course: Course) -> bool:
    """Whether the reward of training has not fallen since the best evaluation, where as large a fall would show.

    The responses that it is of are older than the last evaluation, so what counts is the fall that two have seen.
    Before the first step there is no reward; then it is that of the first steps.
    """
    best = course.best_evaluation
    before = None if best is None else course.start_reward if best.reward is None else best.reward
    if best is None or before is None or course.reward is None:
        return False
    noise, gain = (course.noise or 0.0) * math.sqrt(2 / RECENT_STEPS), course.reward - before
    return gain >= -noise and 2 * noise < best.accuracy - max(one.accuracy for one in course.evaluations)


def _heldout_what(course: Course) -> str:
    best, last = course.best_evaluation, course.evaluations[-1]
    assert best is not None
    fallen = f"held-out accuracy has fallen to {last.accuracy:.1%} (best: {best.accuracy:.1%} in step {best.step})"
    if _is_hacked(course):
        return f"{fallen} while the reward of training has not: the policy games the reward, or memorises its problems"
    return f"{fallen}: the policy gets worse"


def _heldout_cure(course: Course, settings: Settings) -> str:
    step = course.best_evaluation.step if course.best_evaluation else 0
    back = (
        f"take the weights of step {step} if they were saved" if step else "nothing since the starting model is better"
    )
    if _is_hacked(course):
        return (
            f"see what is rewarded (aspo samples {settings.folder}, aspo try-reward); more problems, a higher "
            f"{settings.named('loss.kl_coef')}; {back}"
        )
    return f"lower {settings.named('optimizer.lr')}, or raise {settings.named('loss.kl_coef')}; {back}"


SCORE = (
    Alarm(
        name="falling reward",
        metric="reward/mean",
        level=_reward,
        first=REWARD_STEPS,
        what=_reward_what,
        cure=lambda course, settings: (
            f"lower {settings.named('optimizer.lr')} or {settings.named('train.epochs')}, or "
            f"raise {settings.named('loss.kl_coef')}; the states saved before are as they were"
        ),
        when=f"the mean over {RECENT_STEPS} steps is {REWARD_FALL:.0%} below the best mean over {BEST_STEPS} steps, "
        f"and {REWARD_NOISE:g} times its own noise, in {REWARD_STEPS} steps in a row; or a step is "
        f"{REWARD_FALL_AT_ONCE:.0%} below, and {REWARD_NOISE:g} times the noise of a step",
        why="what was learnt is lost. Per cent of the best, or of what it had gained where that is more",
    ),
    Alarm(
        name="falling held-out accuracy",
        metric="eval/avg@K",
        level=_heldout,
        first=1,
        what=_heldout_what,
        cure=_heldout_cure,
        when=f"two evaluations in a row are more than a margin below the best one, or one is {HELDOUT_AT_ONCE:g} times "
        f"as far. The margin is {100 * HELDOUT_FALL:g} points, {HELDOUT_PROBLEMS} problems or {HELDOUT_ERRORS:g} "
        "standard errors, whichever is most: `eval/sampling_error`, and what it makes if the answers to "
        f"{HELDOUT_CHURN:.0%} of the problems change with the weights. If the run's own evaluations agree better, it "
        f"is {HELDOUT_NOISE:g} times their noise, but {100 * HELDOUT_LEAST:g} points, {HELDOUT_PROBLEMS} problems and "
        f"{HELDOUT_ERRORS:g} sampling errors at least",
        why="the policy gets worse; while the reward of training does not fall, it games the reward",
        advice="lower optimizer.lr, or raise loss.kl_coef; while the reward does not fall, see what is rewarded (aspo "
        "samples RUN, aspo try-reward), and take more problems; take the weights of the best evaluation, if saved",
    ),
)
"""What the scores themselves say: the last to be seen, and the surest."""
