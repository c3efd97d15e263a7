"""The mutants, by the room that they break."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.mutants.mutant import Mutant
from benchmarks.mutants.rooms import (
    attention,
    client,
    conversion,
    layers,
    log_prob,
    losses,
    mapping,
    packing,
    resume,
    rewards,
    sandbox,
    step,
    sync,
)

ROOMS: Mapping[str, tuple[Mutant, ...]] = {
    "losses": losses.MUTANTS,
    "packing": packing.MUTANTS,
    "log_prob": log_prob.MUTANTS,
    "attention": attention.MUTANTS,
    "layers": layers.MUTANTS,
    "step": step.MUTANTS,
    "mapping": mapping.MUTANTS,
    "conversion": conversion.MUTANTS,
    "resume": resume.MUTANTS,
    "client": client.MUTANTS,
    "sync": sync.MUTANTS,
    "sandbox": sandbox.MUTANTS,
    "rewards": rewards.MUTANTS,
}
