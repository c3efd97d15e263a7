"""Which faults a run meets, and when: drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

VICTIMS = ("launcher", "rank 0", "rank 1", "worker", "all")


@dataclass(frozen=True)
class Fault:
    """`what` happens to `victim` once the run has done `step` since it was last started, and `later` seconds after.

    `step`: None: at once, in whatever it is at, which after an end is its start.
    `seconds`: how long a process is stopped, or the disk is full; None: until the run has ended.
    """

    what: str
    victim: str
    step: int | None
    later: float
    seconds: float | None = None

    def __str__(self) -> str:
        when = "" if self.step is None else f"step {self.step} and "
        lasts = "" if self.seconds is None else f" for {self.seconds:.1f} s"
        named = {"kill": f"SIGKILL to {self.victim}", "stop": f"SIGSTOP to {self.victim}", "ask": "SIGTERM to launcher"}
        return f"after {when}{self.later:.2f} s: {named.get(self.what, self.what)}{lasts}"


FULL, FULL_FOR_GOOD = "full disk", "full disk until the run ends"


def draw(seed: int, steps: int, count: int, longest: float) -> list[Fault]:
    """`count` faults in their order; every kind comes before one comes again.

    Args:
        seed: of all that is random here.
        steps: that the run has.
        count: number of faults.
        longest: seconds of the longest stop, and of a disk that is full for a moment.
    """
    chance = random.Random(seed)
    kinds: list[tuple[str, str]] = []
    while len(kinds) < count:
        kinds += shuffled(chance, [*(("kill", victim) for victim in VICTIMS), *_OTHERS])
    moments = sorted(chance.uniform(0.0, steps - 1.0) for _ in range(count))
    return [
        Fault(what, victim, *_when(chance, moment, number), _seconds(chance, what, longest))
        for number, ((what, victim), moment) in enumerate(zip(kinds[:count], moments, strict=True))
    ]


def _when(chance: random.Random, moment: float, number: int) -> tuple[int | None, float]:
    """Every fifth comes while the run starts, if the one before has ended it."""
    return (None, chance.uniform(0.0, 10.0)) if number % 5 == 4 else (int(moment), moment % 1.0 * 0.5)


_OTHERS = (
    ("stop", "launcher"),
    ("stop", "rank 0"),
    ("stop", "rank 1"),
    ("stop", "worker"),
    (FULL, "disk"),
    (FULL_FOR_GOOD, "disk"),
    ("ask", "launcher"),
)


def _seconds(chance: random.Random, what: str, longest: float) -> float | None:
    return chance.uniform(longest / 60, longest) if what in ("stop", FULL) else None


def shuffled(chance: random.Random, items: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The items in another order."""
    return chance.sample(list(items), len(items))
