"""The problems of a run in its ranks: the leader has them, the others are given those that they ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aspo_megatron.data.samples import Problem
from aspo_megatron.data.store import ProblemStore
from aspo_megatron.inputs.read import Inputs
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.grid.exchange import from_leader, from_leader_to_each
from aspo_megatron.parallel.grid.exchange import rank as own_rank

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SharedProblems:
    """A `Dealer` over all ranks. Its making is a collective, too.

    `digest`: of all problems, see `ProblemStore`; the same on every rank.
    """

    def __init__(self, held: ProblemStore) -> None:
        """`held`: the problems, on the leader; what the others give is not looked at."""
        self._held = held
        self._length, self.digest = from_leader((len(held), held.digest))

    def __len__(self) -> int:
        """How many there are."""
        return self._length

    def deal(self, parts: Sequence[Sequence[int]], rank: int) -> list[Problem]:
        """See `Dealer`."""
        return from_leader_to_each(lambda: [self._held.to_all(part) for part in parts])

    def to_all(self, places: Sequence[int]) -> list[Problem]:
        """See `Dealer`."""
        return from_leader(self._held.to_all(places) if own_rank() == 0 else [])

    def answered(self) -> SharedProblems:
        """See `Dealer`."""
        return SharedProblems(self._held.answered())

    def named(self, ids: Iterable[str]) -> dict[str, Problem]:
        """The problems with these ids. On the leader alone, and no collective."""
        return self._held.named(ids)


@dataclass(frozen=True)
class SharedInputs:
    """What a run reads, in one of its ranks; `heldout` may be empty."""

    family: Family
    tokenizer: PreTrainedTokenizerBase
    train: SharedProblems
    heldout: SharedProblems


def shared(inputs: Inputs) -> SharedInputs:
    """Share what the leader has read. A collective."""
    train, heldout = SharedProblems(inputs.train), SharedProblems(inputs.heldout)
    return SharedInputs(inputs.family, inputs.tokenizer, train, heldout)
