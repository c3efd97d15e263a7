"""Every threshold of the alarms. docs/alarms.md is made of them.

They are to tell a run that collapses from a healthy one, whatever the model: what has a scale of its own in each run
(entropy, length, reward) is compared with the start of the same run, what has none (shares of tokens, nats) is not.
Most come in two sizes: the smaller has to last, as a single step may be bad luck; the larger is told at once, as a
collapse may take no more than a few steps.
"""

from __future__ import annotations

STEPS_IN_A_ROW = 3
"""A single step may be bad luck; so many in a row are not."""

START_STEPS = 3
"""The start of a run is the median of its first steps: of three, one may be an exception and does no harm."""

# ---- cannot learn ----------------------------------------------------------------------------------------------------

AGREE = 0.95
"""Of the prompts, whose responses all got equal rewards: what is left to learn from is noise."""

CUT = 0.5
"""Of the responses: most of what is learnt is then to stop in time."""

FAILED = 0.5
"""Of the responses, which could not be scored and count as 0."""

# ---- the reward, which the others refer to ---------------------------------------------------------------------------

RECENT_STEPS = 3
"""The reward of late is the mean over so many steps."""

BEST_STEPS = 10
"""The best reward is the highest mean over so many steps: the highest of many short means is luck."""

NOISE_STEPS = 50
"""Noise is measured by how far the reward jumps from step to step over so many steps, without the most recent ones."""

FEWEST_JUMPS = 3
"""With fewer jumps nobody knows how noisy the reward is; then it is taken to be as noisy as it can be."""

SCORED = 0.1
"""A step of which more responses could not be scored has no reward: a broken reward is not a bad answer."""

GAIN_NOISE = 2.0
"""The reward has gained if it is above its start by so many standard errors of the difference of the two means ..."""

GAIN_SHARE = 0.02
"""... and by this share of the start's or the best's size, whichever is larger: where there is no noise."""

NEAR_TOP = 0.9
"""A reward from here on is near its top, where a best below 1 says that the top is 1."""

MATCH_ROOM, MATCH_START = 0.2, 0.3
"""A loss of most of the entropy is matched if the reward has gained this share of the room above its start (to 1), or
this share of its start: what a hard task can give is the latter."""

# ---- collapse --------------------------------------------------------------------------------------------------------

ENTROPY_LEFT, ENTROPY_LEFT_AT_ONCE = 0.2, 0.05
"""Of the entropy at the start. Healthy runs go as low while the reward rises; without that, nothing new is tried any
more."""

ENTROPY_NATS = 0.05
"""A policy that begins below is deterministic already: what it loses is no collapse."""

ENTROPY_TIMES, ENTROPY_TIMES_AT_ONCE = 2.5, 5.0
"""Of the entropy at the start. Wide clip ranges and bonuses raise it, to twice as much where the model was very sure;
more is a policy that forgets what it knows, whatever the reward: one that noise can earn rises with it."""

ENTROPY_RISE = 0.3
"""Nats per token: a rise from nearly nothing to a little is many times its start, and harmless."""

REPETITION_RISE, REPETITION_RISE_AT_ONCE = 0.2, 0.5
"""4-grams that repeat, as a share, above the start: long chains of thought repeat more than short ones, but not by so
much."""

CLIPPED, CLIPPED_AT_ONCE = 0.25, 0.5
"""Tokens without a gradient, as a share: healthy runs have a few per cent, small models with several epochs ten."""

UPDATE_KL, UPDATE_KL_AT_ONCE = 0.25, 10.0
"""Nats per token between the policy that sampled and the one after the updates of the step: most healthy runs stay
below 0.03, with 0.1 in their first step; small models with twelve updates a step were seen to learn at 0.1 to 0.3, with
0.5 in single steps. k3 is a mean that single tokens dominate: one whose probability had grown some thousand times made
it 2.6 in one step of 1,500 tokens, in two of 160 healthy runs."""

KL, KL_AT_ONCE = 3.0, 100.0
"""Nats per token to the starting model; k3 too, so that only a great many at once mean anything by themselves."""

KL_TIMES, KL_EXPLODED = 10.0, 1.0
"""A KL of so many times its median over the steps before explodes, if it is so many nats by now."""

KL_STEPS = 10
"""Steps of that median; the most recent ones are left out."""

LENGTH_FALL, LENGTH_RISE = 0.5, 2.0
"""Of the length at the start, without a gain of reward: with one, shorter or longer is what the task wants."""

LENGTH_FALL_AT_ONCE, LENGTH_RISE_AT_ONCE = 0.25, 4.0

REWARD_FALL, REWARD_FALL_AT_ONCE = 0.15, 0.4
"""Below its best, as a share of the best, or of what it has gained where that is more."""

REWARD_NOISE = 7.0
"""The fall is to be so many times the noise of the mean of late, or of a single step, too. The best is the luckiest of
many means, and noise is only estimated: with 6, noise alone raised an alarm in some of 60 made-up runs of 500 steps;
with 7 in none or nearly none."""

REWARD_STEPS = 2
"""In a row: each is a mean over several steps already."""

HELDOUT_FALL = 0.05
"""Points of accuracy (as a share) below the best evaluation. Of 60 healthy runs that were recorded three dipped by six
or seven points in one evaluation; see `HELDOUT_AT_ONCE`."""

HELDOUT_ERRORS = 3.5
"""And so many standard errors of a difference between two evaluations: the best is the luckiest of many. All ask the
same problems, so that their responses count (`eval/sampling_error`), and `HELDOUT_CHURN`. Where the error is not known,
but the number of problems is: right or wrong at random, of n problems with K responses each and accuracy p, the error
of a difference is at most sqrt(2 p (1 - p) / (n K)). Responses that are all alike, as greedy ones, count as one."""

HELDOUT_CHURN = 0.1
"""Of the problems, whose answers change with the weights from one evaluation to the next, whichever way."""

HELDOUT_NOISE, HELDOUT_JUMPS, HELDOUT_LAST_JUMPS = 6.0, 3, 20
"""Less is enough in a run whose evaluations agree: so many times the noise of its own evaluations, measured by how
their jumps differ (from so many jumps on, over the last so many, without the two that may be what is looked for)."""

HELDOUT_UNSURE = 1.5
"""Few jumps may agree by luck: divided by their number, this share is added to the noise that they say."""

HELDOUT_LEAST, HELDOUT_PROBLEMS = 0.02, 3
"""But these points, and so many problems, at least."""

HELDOUT_AT_ONCE = 1.4
"""One evaluation as far below as so many times that is told at once; else it takes two in a row."""
