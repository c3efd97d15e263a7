"""The mutants, by the room that they break."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.mutants.mutant import Mutant
from benchmarks.mutants.rooms import attention, log_prob, losses, packing, step

ROOMS: Mapping[str, tuple[Mutant, ...]] = {
    "losses": losses.MUTANTS,
    "packing": packing.MUTANTS,
    "log_prob": log_prob.MUTANTS,
    "attention": attention.MUTANTS,
    "step": step.MUTANTS,
}
