"""The layouts of a model on so many ranks: one list, for `aspo plan`, `aspo check` and the tests that prove layouts.

Whether any layout is allowed, and why not, `Family.check_layout` says.
"""

from __future__ import annotations

from collections.abc import Iterator

from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.models.family import Family


def layouts(family: Family, ranks: int) -> Iterator[ParallelConfig]:
    """Every layout of the model on `ranks` ranks that is allowed, of sizes that are powers of two; dp takes the rest.

    Norms are split over tp, and the optimizer over replicas and contexts. Virtual stages are one or two.
    """
    for tp in _powers(ranks):
        for pp in _powers(ranks // tp):
            for cp in _powers(ranks // (tp * pp)):
                dp = ranks // (tp * pp * cp)
                for vpp in (1, 2) if pp > 1 else (1,):
                    for ep, etp in _expert_splits(family, tp, tp * cp * dp):
                        parallel = ParallelConfig(
                            tp=tp,
                            pp=pp,
                            cp=cp,
                            dp=dp,
                            vpp=vpp,
                            ep=ep,
                            etp=etp,
                            sequence_parallel=tp > 1,
                            distributed_optimizer=dp * cp > 1,
                        )
                        if _allowed(family, parallel):
                            yield parallel


def _powers(ranks: int) -> Iterator[int]:
    """The powers of two that divide `ranks`."""
    power = 1
    while ranks % power == 0:
        yield power
        power *= 2


def _expert_splits(family: Family, tp: int, ranks: int) -> Iterator[tuple[int, int | None]]:
    """Sizes of ep and etp; the latter is None where it is tp."""
    if not family.num_experts:
        yield 1, None
        return
    for ep in _powers(ranks):
        for etp in _powers(ranks // ep):
            yield ep, None if etp == tp else etp


def _allowed(family: Family, parallel: ParallelConfig) -> bool:
    try:
        family.check_layout(parallel)
    except ConfigError:
        return False
    return True
