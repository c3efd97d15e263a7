"""docs/alarms.md: every alarm, when it is raised, why, and what to do; `python tools/alarms_page.py` writes it anew.

The table and its thresholds come from the alarms themselves, in `aspo_megatron/metrics/alarms`.
"""

from __future__ import annotations

import re
from pathlib import Path

from aspo_megatron.metrics.alarms import ALARMS, Settings
from aspo_megatron.metrics.alarms.alarm import Alarm
from aspo_megatron.metrics.alarms.course import Course
from aspo_megatron.metrics.alarms.thresholds import (
    ENTROPY_LEFT_AT_ONCE,
    LENGTH_RISE,
    NEAR_TOP,
    START_STEPS,
    STEPS_IN_A_ROW,
)

_CODE = re.compile(r"aspo (samples RUN|try-reward)|RUN/logs|[a-z_]+(\.[a-z_]+)+(=[a-z]+)?")
"""Settings, commands and folders in what is to be done."""

PAGE = Path(__file__).resolve().parents[1] / "docs" / "alarms.md"

_HEAD = f"""\
# Alarms

<!-- Generated: python tools/alarms_page.py -->

A run looks at its own metrics after every step, and warns as soon as they say that it learns nothing, or that the
policy collapses. It looks at held-out accuracy and reward, and at what the
[ASPO paper](https://arxiv.org/abs/2510.06062v2) looks at in its appendix D to tell healthy convergence from a local
optimum: entropy, repetition, clipping, KL and length.

- **The terminal** and `RUN/logs` get a line when an alarm is raised, with what to do, and again each time that it
  has lasted twice as long.
- **`aspo plot`** marks the step in the panel of the metric, with a red triangle and a dotted line, and names the
  alarms below the figure. Its page and `--text` list them with what to do.
- **`aspo watch`** shows those that are on now in lines that begin with `!`, and names those that are over.

All of these are computed from `metrics.jsonl` alone, for runs that go and for those that are over, and a run that
resumes goes on with the lines it finds there. `log.alarms=false` turns them all off, also in the plots of that run.
No alarm changes or ends a run.

**The start** is the median of the first {START_STEPS} steps, of the reward their mean. A metric that a run does not
have (no KL term, a loss of your own without clip metrics), or that is not a number, raises no alarm. Where two
thresholds are named, the smaller one has to last, as a single step may be bad luck ({STEPS_IN_A_ROW} steps in a row
as a rule); the larger one is told at once.
"""

_SURE = """\
## How sure they are, and how early

Of the runs of [examples/aspo_vs_grpo](../examples/aspo_vs_grpo/README.md), of which most were seen when the thresholds
were chosen, and some were made afterwards:

- Of 160 healthy runs with losses that clip three raised an alarm of a collapse (one of the 50 made afterwards), when 9
  to 13 points of held-out accuracy had been lost from one evaluation to the next. Of 64 with losses that do not, or
  that drop no token, 19 did (two of 20), when 7 to 28 points were lost; twelve of them came back later.
- Of 36 runs that were made to collapse slowly (twelve afterwards), all were told before ten points were lost where each
  step was evaluated, 33 of them before five; 32 with an evaluation every 2 steps, 20 with one every 4, five with one
  every 10. Without held-out problems 28 of them were told at all, 9 points at the earliest. So a run that is to be told
  early needs held-out problems and a small `eval.every`: what is lost between two evaluations cannot be told before.
- Where each step was evaluated, the first alarm was always that of held-out accuracy. The others came later, or told
  runs without evaluations.
- That the reward is gamed was said of eleven of twelve runs with a wrong reward, but also of eight of the 24 whose
  learning rate was too high, where the reward had not fallen yet.

With few problems little can be told: with 30 of them and `eval.samples=1` a fall has to be 45 points; `eval.samples` of
4 or more lets the run know how sure its accuracy is. Of 3 problems or fewer no fall is told.
"""

_HEALTHY = f"""\
## What healthy convergence looks like

Entropy falls while the reward rises, and clip fractions, `approx_kl` and the gradient fall with it, as there is
less left to learn. A run whose entropy goes to {ENTROPY_LEFT_AT_ONCE:.0%} of its start while its reward goes from
0.2 to 0.95 raises no alarm, and neither does one whose reward is near its top ({NEAR_TOP:g} of 1). Length may grow
to {LENGTH_RISE:g} times its start and beyond as long as the reward rises with it. Near the end of such a run the
responses to most prompts agree, and the run says so: it has learnt these problems.

A local optimum looks the same in entropy, but the reward stays where it is: the policy has become sure of answers
that are no better. Look at `aspo samples RUN`, and at `eval/pass@K`, which falls first when ways to reach answers
are given up.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for collapse, title, text in (
        (True, "A run that collapses", "The policy gets worse, or will soon."),
        (False, "A run that learns nothing", "The steps cost their time and teach little."),
    ):
        rows = [_row(alarm) for alarm in ALARMS if alarm.collapse is collapse]
        table = "\n".join(
            ["| alarm | metric | raised when | why | what to do |", "| --- | --- | --- | --- | --- |", *rows]
        )
        parts.append(f"## {title}\n\n{text}\n\n{table}\n")
    return "\n".join([*parts, _SURE, _HEALTHY])


def _row(alarm: Alarm) -> str:
    cure = _CODE.sub(r"`\g<0>`", alarm.advice or alarm.cure(Course(), Settings({})))
    return f"| {' | '.join((alarm.name, f'`{alarm.metric}`', alarm.when, alarm.why, cure))} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
