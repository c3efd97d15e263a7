"""Alarms of a collapse: each rule below and above its threshold, noise, healthy convergence, and what is absent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from aspo_megatron.config.io import load_config
from aspo_megatron.metrics.alarms import ALARMS, Alarms, Raised, Settings, alarms_of, standing
from aspo_megatron.metrics.alarms import thresholds as at

Records = list[dict[str, float]]

HEALTHY = {
    "reward/mean": 0.4,
    "reward/failed": 0.0,
    "groups/all_agree": 0.3,
    "response_tokens/mean": 1000.0,
    "response_tokens/cut": 0.1,
    "repetition/mean": 0.1,
    "entropy": 0.6,
    "kl_ref": 0.05,
    "approx_kl": 0.01,
    "clip/fraction": 0.03,
    "grad_norm": 0.5,
}
LOW, HIGH = 1 - 1e-6, 1 + 1e-6


def run(*changes: dict[str, float], before: int = 6) -> Records:
    """`before` healthy steps, then one for each change."""
    steps = [HEALTHY] * before + [HEALTHY | change for change in changes]
    return [{"step": float(step), **figures} for step, figures in enumerate(steps, start=1)]


def raised(records: Records) -> dict[str, int]:
    """Alarm -> the step in which it was raised first."""
    return {one.name: one.step for one in alarms_of(records)}


# ---- each rule, just below and just above its threshold ------------------------------------------------------------

ENTROPY, LENGTH = HEALTHY["entropy"], HEALTHY["response_tokens/mean"]
REPEATED = HEALTHY["repetition/mean"]
THRESHOLDS = [
    ("local optimum", "entropy", at.ENTROPY_LEFT * ENTROPY, at.ENTROPY_LEFT_AT_ONCE * ENTROPY, -1),
    ("dissolving policy", "entropy", at.ENTROPY_TIMES * ENTROPY, at.ENTROPY_TIMES_AT_ONCE * ENTROPY, 1),
    ("repetition", "repetition/mean", REPEATED + at.REPETITION_RISE, REPEATED + at.REPETITION_RISE_AT_ONCE, 1),
    ("clipped tokens", "clip/fraction", at.CLIPPED, at.CLIPPED_AT_ONCE, 1),
    ("large updates", "approx_kl", at.UPDATE_KL, at.UPDATE_KL_AT_ONCE, 1),
    ("far from the start", "kl_ref", at.KL, at.KL_AT_ONCE, 1),
    ("response length", "response_tokens/mean", at.LENGTH_RISE * LENGTH, at.LENGTH_RISE_AT_ONCE * LENGTH, 1),
    ("response length", "response_tokens/mean", at.LENGTH_FALL * LENGTH, at.LENGTH_FALL_AT_ONCE * LENGTH, -1),
]


@pytest.mark.parametrize(("name", "metric", "high", "at_once", "sign"), THRESHOLDS)
def test_a_threshold(name: str, metric: str, high: float, at_once: float, sign: int) -> None:
    below, above = (LOW, HIGH) if sign > 0 else (HIGH, LOW)
    kl = metric == "kl_ref"  # at its threshold it is many times what it was: another rule
    assert raised(run(*[{metric: high * below}] * 9)) == ({name: 9} if kl else {})
    assert raised(run(*[{metric: high * above}] * 9)) == {name: 9}  # the third in a row
    assert raised(run(*[{metric: high * above}, {metric: high * above}, {}] * 3)) == {}
    assert raised(run({metric: at_once * below})) == {}
    assert raised(run({metric: at_once * above})) == {name: 7}  # at once


@pytest.mark.parametrize("metric", [metric for _, metric, *_ in THRESHOLDS])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_metric_that_is_absent_or_no_number_raises_nothing(metric: str, value: float | None) -> None:
    records = run(*[{}] * 9)
    for record in records:
        if value is None:
            del record[metric]
        else:
            record[metric] = value
    assert raised(records) == {}


def test_a_metric_that_is_no_number_for_a_step_ends_what_lasted() -> None:
    high, nan = {"clip/fraction": at.CLIPPED}, {"clip/fraction": math.nan}
    assert raised(run(high, high, nan, high, high)) == {}
    assert raised(run(high, high, nan, high, high, high)) == {"clipped tokens": 12}


def test_a_kl_that_explodes_is_told_below_the_large_one() -> None:
    steady = [{"kl_ref": 0.05}] * 9
    exploded = {"kl_ref": at.KL_EXPLODED * HIGH}
    assert raised(run(*steady, *[exploded] * 3)) == {"far from the start": 18}
    assert raised(run(*steady, *[{"kl_ref": at.KL_EXPLODED * LOW}] * 9)) == {}
    slow = [{"kl_ref": 0.05 * 1.1**step} for step in range(40)]  # it ends at 2
    assert raised(run(*slow)) == {}


# ---- entropy and length depend on the reward -----------------------------------------------------------------------


def course(entropy: Sequence[float], reward: Sequence[float], **others: Sequence[float]) -> Records:
    names = ["entropy", "reward/mean", *others]
    columns = zip(entropy, reward, *others.values(), strict=True)
    return run(*(dict(zip(names, values, strict=True)) for values in columns), before=0)


def noisy(values: Iterable[float], noise: float, seed: int) -> list[float]:
    random = np.random.default_rng(seed)
    return [float(value + noise * random.normal()) for value in values]


@pytest.mark.parametrize("seed", range(20))
def test_healthy_convergence_raises_nothing(seed: int) -> None:
    """Entropy to 5 % and below while the reward goes from 0.2 to 0.95, with the noise of a step."""
    steps = 80
    rewards = noisy(np.concatenate([np.linspace(0.2, 0.95, steps // 2), np.full(steps // 2, 0.95)]), 0.03, seed)
    entropy = 0.7 * np.concatenate([np.geomspace(1, 0.05, steps // 2), np.full(steps // 2, 0.03)])
    assert raised(course(entropy.tolist(), rewards)) == {}


def test_a_local_optimum_is_entropy_that_falls_while_the_reward_stays() -> None:
    entropy = [0.7 * 0.8**step for step in range(30)]
    found = alarms_of(course(entropy, noisy([0.3] * 30, 0.01, 0)))
    assert [one.name for one in found] == ["local optimum"]
    assert found[0].metric == "entropy"
    assert entropy[found[0].step - 3] <= at.ENTROPY_LEFT * 0.7 * 0.8  # the third step below the share
    start = 0.3
    for gain, names in ((at.MATCH_START * start * 0.9, {"local optimum"}), (at.MATCH_START * start * 1.1, set())):
        assert set(raised(course(entropy, [start] * 3 + [start + gain] * 27))) == names, gain
    high = 0.8  # there the room to the top is what counts
    for gain, names in ((at.MATCH_ROOM * 0.2 * 0.9, {"local optimum"}), (at.MATCH_ROOM * 0.2 * 1.1, set())):
        assert set(raised(course(entropy, [high] * 3 + [high + gain] * 27))) == names, gain
    for reward, names in ((at.NEAR_TOP - 0.01, {"local optimum"}), (at.NEAR_TOP + 0.01, set())):
        assert set(raised(course(entropy, [reward] * 30))) == names


def test_of_rewards_that_are_not_from_0_to_1_any_gain_will_do() -> None:
    """Of 10, with a bonus, or -1 and 1: nobody knows how much there is to gain."""
    entropy = [0.7 * 0.8**step for step in range(30)]
    for before, after in ((9.0, 9.95), (0.95, 1.2), (-0.4, -0.2)):
        assert raised(course(entropy, [before] * 3 + [after] * 27)) == {}
    assert set(raised(course(entropy, [9.0] * 30))) == {"local optimum"}
    assert set(raised(course(entropy, [-0.4] * 30))) == {"local optimum"}


def test_a_policy_that_began_deterministic_has_no_entropy_to_lose() -> None:
    begin = at.ENTROPY_NATS
    assert raised(course([begin * LOW] * 3 + [begin * 0.01] * 9, [0.3] * 12)) == {}
    assert set(raised(course([begin * HIGH] * 3 + [begin * 0.01] * 9, [0.3] * 12))) == {"local optimum"}


def test_a_dissolving_policy_has_many_nats_more() -> None:
    risen = [0.1] * 6 + [0.5] * 9
    assert set(raised(course(risen, [0.3] * 15))) == {"dissolving policy"}
    assert set(raised(course(risen, [0.3] * 6 + [0.9] * 9))) == {"dissolving policy"}  # noise may have earned it
    small = 0.01
    assert raised(course([small] * 6 + [small + at.ENTROPY_RISE * LOW] * 9, [0.3] * 15)) == {}
    assert set(raised(course([small] * 6 + [small + at.ENTROPY_RISE * HIGH] * 9, [0.3] * 15))) == {"dissolving policy"}


def test_a_length_that_grows_while_the_reward_rises_is_healthy() -> None:
    length = np.linspace(1000, 5000, 40).tolist()
    healthy = course([0.6] * 40, noisy(np.linspace(0.3, 0.5, 40), 0.01, 1), **{"response_tokens/mean": length})
    assert raised(healthy) == {}
    alone = course([0.6] * 40, noisy([0.3] * 40, 0.01, 1), **{"response_tokens/mean": length})
    assert set(raised(alone)) == {"response length"}
    shorter = {"response_tokens/mean": np.linspace(1000, 400, 40).tolist()}
    for reward, names in ((at.NEAR_TOP - 0.01, {"response length"}), (at.NEAR_TOP + 0.01, set())):
        assert set(raised(course([0.6] * 40, [reward] * 40, **shorter))) == names


# ---- the reward ----------------------------------------------------------------------------------------------------


def rewards(values: Iterable[float]) -> Records:
    return run(*({"reward/mean": value} for value in values), before=0)


def test_a_reward_that_falls_below_its_best() -> None:
    steady = noisy([0.8] * 20, 0.005, 0)
    just = at.REWARD_FALL * 0.8
    assert raised(rewards([*steady, *[0.8 - 0.85 * just] * 20])) == {}
    found = raised(rewards([*steady, *[0.8 - 1.15 * just] * 6]))
    assert found == {"falling reward": 24}  # the mean over three is as low in step 23
    assert raised(rewards([*steady, 0.8 - at.REWARD_FALL_AT_ONCE * 0.8 * 0.95, *steady])) == {}
    assert raised(rewards([*steady, 0.8 - at.REWARD_FALL_AT_ONCE * 0.8 * 1.05])) == {"falling reward": 21}


@pytest.mark.parametrize(("prompts", "step"), [(128.0, 2), (4.0, None), (None, None)])
def test_a_reward_that_is_lost_in_the_first_update(prompts: float | None, step: int | None) -> None:
    """Nobody has seen its noise; that of many prompts cannot be so large."""
    records = rewards([0.7, 0.02, 0.0])
    for record in records:
        if prompts is not None:
            record["groups/asked"] = prompts
    assert raised(records) == ({} if step is None else {"falling reward": step})


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.01])
@pytest.mark.parametrize("shift", [0.0, -1.5])
def test_the_scale_of_the_reward_does_not_matter(scale: float, shift: float) -> None:
    values = [*noisy(np.linspace(0.3, 0.8, 30), 0.01, 3), *np.linspace(0.8, 0.4, 10)]
    found = raised(rewards([scale * (value + shift) for value in values]))
    assert set(found) == {"falling reward"}
    assert 32 <= found["falling reward"] <= 38


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.15])
def test_noise_of_the_reward_is_no_fall(noise: float) -> None:
    """Also over many steps, where the best is the luckiest of them."""
    for seed in range(10):
        assert raised(rewards(noisy([0.5] * 400, noise, seed))) == {}, seed


def test_a_reward_that_could_not_be_scored_is_no_fall() -> None:
    """The reward is 0 then, for another reason: the alarm of that is another."""
    broken = {"reward/mean": 0.0, "reward/failed": 1.0}
    assert raised(run(*[broken] * 2, before=12)) == {}
    assert set(raised(run(*[broken | {"reward/failed": 0.0}] * 2, before=12))) == {"falling reward"}


def test_noise_in_all_metrics_raises_nothing() -> None:
    spread = {"entropy": 0.15, "repetition/mean": 0.3, "clip/fraction": 0.4, "approx_kl": 0.5, "kl_ref": 1.0,
              "response_tokens/mean": 0.1, "reward/mean": 0.08}  # fmt: skip
    for seed in range(10):
        random = np.random.default_rng(seed)
        steps = [
            {name: HEALTHY[name] * float(random.lognormal(0, sigma)) for name, sigma in spread.items()}
            for _ in range(300)
        ]
        assert raised(run(*steps, before=0)) == {}, seed


# ---- held-out accuracy ---------------------------------------------------------------------------------------------


def evaluations(
    accuracies: Sequence[float], problems: float | None = None, reward: float = 0.4, error: float | None = None
) -> Records:
    """One before the first step, then one every second step; the reward goes from 0.4 to `reward`."""
    steps = run(*[{}] * (2 * len(accuracies) - 2), before=0)
    of_size = {} if problems is None else {"eval/problems": problems}
    of_size |= {} if error is None else {"eval/sampling_error": error}
    records: Records = [{"step": 0.0, "eval/avg@4": accuracies[0], **of_size}, *steps]
    for number, accuracy in enumerate(accuracies):
        records[2 * number] |= {"eval/avg@4": accuracy, "eval/pass@1": accuracy, **of_size}
    for step, record in enumerate(steps):
        record["reward/mean"] = 0.4 + (reward - 0.4) * step / len(steps)
    return records


def test_held_out_accuracy_below_its_best() -> None:
    fall = at.HELDOUT_FALL
    name = "falling held-out accuracy"
    assert raised(evaluations([0.3, 0.4, 0.4 - fall * LOW, 0.4 - fall * LOW, 0.4 - fall * LOW])) == {}
    assert raised(evaluations([0.3, 0.4, 0.4 - 1.1 * fall, 0.4, 0.4 - 1.1 * fall])) == {}  # never two in a row
    assert raised(evaluations([0.3, 0.4, 0.4 - 1.1 * fall, 0.4 - 1.1 * fall])) == {name: 6}
    assert raised(evaluations([0.3, 0.4, 0.4 - fall * at.HELDOUT_AT_ONCE * 1.01])) == {name: 4}
    assert raised(evaluations([0.4, 0.4 - fall * at.HELDOUT_AT_ONCE * 1.01])) == {name: 2}  # below the one before all
    assert raised(evaluations([0.4, math.nan, 0.4])) == {}


def test_with_few_problems_the_margin_is_wider() -> None:
    values = [0.3, 0.5, 0.4, 0.38, 0.4]
    assert set(raised(evaluations(values, 1000.0))) == {"falling held-out accuracy"}
    assert raised(evaluations(values, 30.0)) == {}


def test_problems_that_are_always_right_or_always_wrong_leave_little_noise() -> None:
    """256 problems right or wrong at random have an error of 1.6 points, too large for a fall of 6.5."""
    values, name = [0.3, 0.5, 0.435, 0.435], "falling held-out accuracy"
    assert raised(evaluations(values, 256.0)) == {}
    assert raised(evaluations(values, 256.0, error=0.005)) == {name: 6}
    assert raised(evaluations(values, 256.0, error=0.02)) == {}
    assert raised(evaluations(values, 40.0, error=0.005)) == {}  # not three problems of forty
    unknown = evaluations(values, 256.0, error=0.005)
    del unknown[2]["eval/sampling_error"]  # of the best
    assert raised(unknown) == {}


def test_responses_that_are_all_alike_count_as_one() -> None:
    """Greedy ones: their error is 0, and yet they are right or wrong anew as the weights move."""
    values = [0.3, 0.5, 0.4, 0.4]
    assert raised(evaluations(values, 256.0, error=0.0)) == {}
    assert raised(evaluations([0.3, 0.5, 0.3, 0.3], 256.0, error=0.0)) == {"falling held-out accuracy": 6}
    certain = evaluations([0.9, 1.0, 0.94, 0.94], 256.0, error=0.005)
    certain[2]["eval/sampling_error"] = 0.0  # all right, as they surely are
    assert raised(certain) == {"falling held-out accuracy": 6}


def test_a_plateau_at_nothing_says_little_of_the_noise_above() -> None:
    plateau = [0.0] * 6
    assert raised(evaluations([*plateau, 0.5, 0.465], 200.0, error=0.0177)) == {}
    assert raised(evaluations([*plateau, 0.5, 0.3], 200.0, error=0.0177)) == {"falling held-out accuracy": 14}


def test_evaluations_that_agree_make_the_margin_narrow() -> None:
    name = "falling held-out accuracy"
    steady = [0.3, 0.4, 0.401, 0.4, 0.402, 0.401, 0.4, 0.401, 0.402]
    calm = [0.4, *steady[1:]]
    best, least = 0.402, at.HELDOUT_LEAST
    assert raised(evaluations([*calm, best - least * HIGH, best - least * HIGH])) == {name: 20}
    assert raised(evaluations([*calm, best - least * LOW, best - least * LOW])) == {}
    assert raised(evaluations([*calm, best - at.HELDOUT_AT_ONCE * least * HIGH])) == {name: 18}
    assert raised(evaluations([*steady, best - 2 * least, best - 2 * least])) == {}  # its jumps were large
    few = [*calm, best - 2.5 / 50, best - 2.5 / 50]
    assert raised(evaluations(few, 500.0)) == {name: 18}
    assert raised(evaluations(few, 50.0)) == {}  # not three problems of fifty


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
def test_noise_of_evaluations_raises_next_to_nothing(noise: float) -> None:
    """60 evaluations of n problems whose 4 responses are right or wrong at random: no n problems have more noise."""
    told = [seed for seed in range(40) if raised(evaluations(noisy([0.5] * 60, noise, seed), 0.25 / 4 / noise**2))]
    assert len(told) <= 1
    known = [seed for seed in range(40) if raised(evaluations(noisy([0.5] * 60, noise, seed), 1000.0, error=noise))]
    assert len(known) <= 1


def test_whether_the_reward_falls_with_it_is_said() -> None:
    falls = [0.3, 0.45, 0.4, 0.3]
    (hacked,) = alarms_of(evaluations(falls, reward=0.42))
    assert "45.0% in step 2) while the reward of training has not: the policy games the reward" in hacked.line
    (worse,) = alarms_of(evaluations(falls, reward=0.36))
    assert worse.what.endswith("45.0% in step 2): the policy gets worse")


# ---- what is said, and when ----------------------------------------------------------------------------------------


GIVEN = ["output_dir=runs/mine", "model.path=m", "data.train={kind: jsonl, path: p}", "optimizer.lr=3e-6"]


def said(records: Records, *settings: str, resumed_after: int = 0) -> dict[int, list[str]]:
    """The lines after each step; the steps up to one are those of an earlier process."""
    alarms = Alarms(load_config(None, [*GIVEN, *settings]))
    alarms.go_on_after(records[:resumed_after])
    lines = {
        int(one["step"]): alarms.after(int(one["step"]), {name: one[name] for name in one if name != "step"})
        for one in records[resumed_after:]
    }
    return {step: found for step, found in lines.items() if found}


def test_the_line_names_the_settings_with_their_values() -> None:
    lines = said(run(*[{"clip/fraction": 0.3}] * 13))
    assert list(lines) == [9, 12, 18]  # 3, 6 and 12 steps in a row
    assert lines[9] == [
        "warning: steps 7 to 9: 30% of the tokens had no gradient: the updates of a step move the policy too far: "
        "lower optimizer.lr=3e-06 or train.epochs=1, or make fewer updates of a step (a higher "
        "train.prompts_per_update=16)"
    ]


def test_what_is_told_at_once_is_told_again_when_it_has_lasted_twice_as_long() -> None:
    lines = said(run(*[{"approx_kl": 20.0}] * 9))
    assert list(lines) == [7, 8, 10, 14]
    assert lines[7][0].startswith("warning: step 7: the updates of a step move the policy too far (approx_kl is 20 ")


def test_a_run_that_resumes_goes_on_with_its_history() -> None:
    """Its start is that of its first step, and what has lasted is said as if nothing had come between."""
    records = run(*[{"entropy": 0.1}] * 14)
    whole = said(records)
    assert list(whole) == [9, 12, 18]
    for after in (1, 4, 8, 9, 13):
        assert said(records, resumed_after=after) == {step: whole[step] for step in whole if step > after}
    assert said(records[8:]) == {}  # a start of its own has nothing to compare with


def test_one_setting_turns_all_off() -> None:
    records = run(*[{"entropy": 0.01, "groups/all_agree": 1.0}] * 9)
    assert len(said(records)) > 2
    assert said(records, "log.alarms=false") == {}
    assert alarms_of(records, Settings({"log": {"alarms": False}})) == []
    assert alarms_of(records, Settings({"log": {}})) != []


def test_alarms_are_told_by_step_once_each_and_do_not_depend_on_what_follows() -> None:
    records = run(*[{"clip/fraction": 0.3}] * 4, {}, *[{"clip/fraction": 0.3, "entropy": 0.01}] * 6)
    found = alarms_of(records)
    assert [(one.step, one.name) for one in found] == [(9, "clipped tokens"), (12, "local optimum")]
    assert isinstance(found[0], Raised)
    assert found[0].collapse
    assert found[0].line == f"{found[0].what}: {found[0].cure}"
    for count in range(len(records)):
        assert alarms_of(records[:count]) == [one for one in found if one.step <= count]


def test_what_stands_after_the_last_step() -> None:
    assert standing(run({"entropy": 0.01})) == {
        "local optimum": "in the last step the entropy has fallen (0.01 nats per token, 0.6 at the start) and the "
        "reward has not risen to match (0.4, 0.4 at the start): a local optimum"
    }
    assert standing(run({"entropy": 0.01}, {})) == {}


def test_names_and_metrics() -> None:
    assert len({alarm.name for alarm in ALARMS}) == len(ALARMS)
    assert all(alarm.when and alarm.why for alarm in ALARMS)
