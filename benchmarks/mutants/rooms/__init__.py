"""The mutants, by the room that they break."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.mutants.mutant import Mutant
from benchmarks.mutants.rooms import (
    client,
    conversion,
    losses,
    mapping,
    resume,
    sandbox,
    sync,
)

ROOMS: Mapping[str, tuple[Mutant, ...]] = {
    "losses": losses.MUTANTS,
    "mapping": mapping.MUTANTS,
    "conversion": conversion.MUTANTS,
    "resume": resume.MUTANTS,
    "client": client.MUTANTS,
    "sync": sync.MUTANTS,
    "sandbox": sandbox.MUTANTS,
}
