"""The mutants, by the room that they break."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.mutants.mutant import Mutant
from benchmarks.mutants.rooms import losses

ROOMS: Mapping[str, tuple[Mutant, ...]] = {
    "losses": losses.MUTANTS,
}
