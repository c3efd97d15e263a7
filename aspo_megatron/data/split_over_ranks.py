"""Which rank gets which problem: what those that ask for problems need of those that have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aspo_megatron.data.samples import Problem


class Dealer(Protocol):
    """Problems that may be elsewhere. All methods are collectives of the ranks that share them, but for the length."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def deal(self, parts: Sequence[Sequence[int]], rank: int) -> list[Problem]:
        """The problems at the places `parts[rank]`, where `parts` has a part for each rank, and `rank` is this one."""
        ...

    def to_all(self, places: Sequence[int]) -> list[Problem]:
        """The problems at these places, on every rank."""
        ...

    def answered(self) -> Dealer:
        """Those that have an answer."""
        ...


class Held:
    """Problems that this process has as they are, as every other does."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems

    def __len__(self) -> int:
        """How many there are."""
        return len(self._problems)

    def deal(self, parts: Sequence[Sequence[int]], rank: int) -> list[Problem]:
        """See `Dealer`."""
        return self.to_all(parts[rank])

    def to_all(self, places: Sequence[int]) -> list[Problem]:
        """See `Dealer`."""
        return [self._problems[place] for place in places]

    def answered(self) -> Held:
        """See `Dealer`."""
        return Held([problem for problem in self._problems if problem.answer is not None])


def dealer(problems: Sequence[Problem] | Dealer) -> Dealer:
    """Whatever has problems, as one that deals them out."""
    return Held(problems) if isinstance(problems, Sequence) else problems
