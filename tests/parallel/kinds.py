"""Which layouts of at most four ranks prove a larger one."""

from __future__ import annotations

from aspo_megatron.config import ParallelConfig

Digit = tuple[str, str]
"""What a digit of a rank's number chooses of the dense layers (tp, cp, dp, pp), and of the experts (etp, ep, copy)."""


def kinds(parallel: ParallelConfig) -> frozenset[ParallelConfig]:
    """The layouts of at most four ranks that prove this one.

    A rank's number is made of digits, tp fastest, then cp, dp and pp; read another way, the fastest are etp, then ep,
    then the copies of an expert. So each digit has two meanings: what the rank has of the dense layers, and what of the
    experts. How digits of two meanings go together shows on two digits. So a layout is proved by all that are left of
    it where only two digits are kept, each as 2 ranks, with the same options.

    Raises:
        ValueError: experts are split across a digit (3 ranks of tp over 2 of etp).
    """
    digits = _digits(parallel)
    if len(digits) < 2:
        return frozenset({_of_digits(parallel, digits)})
    pairs = ([first, second] for place, first in enumerate(digits) for second in digits[place + 1 :])
    return frozenset(_of_digits(parallel, pair) for pair in pairs)


def _digits(parallel: ParallelConfig) -> list[Digit]:
    """The axis of the dense layers, and that of experts, of each digit of a rank's number; the fastest first."""
    digits = []
    etp, block = parallel.expert_tp, parallel.ep * parallel.expert_tp
    below = 1
    for axis in ("tp", "cp", "dp"):
        for prime in _primes(getattr(parallel, axis)):
            role = "etp" if below < etp else "ep" if below < block else "copy"
            end = etp if role == "etp" else block
            if role != "copy" and end % (below * prime):
                raise ValueError(f"etp={etp} and ep={parallel.ep} divide no run of the {axis} ranks")
            digits.append((axis, role))
            below *= prime
    return digits + [("pp", "pp")] * len(_primes(parallel.pp))


def _of_digits(parallel: ParallelConfig, kept: list[Digit]) -> ParallelConfig:
    sizes = {axis: 2 ** sum(axis in pair for pair in kept) for axis in ("tp", "cp", "dp", "pp", "ep", "etp")}
    return parallel.model_copy(
        update=sizes
        | {
            "etp": None if sizes["etp"] == sizes["tp"] else sizes["etp"],
            "vpp": min(parallel.vpp, 2) if sizes["pp"] > 1 else 1,
            "pp_layers": None,
            "sequence_parallel": parallel.sequence_parallel and sizes["tp"] > 1,
            "distributed_optimizer": parallel.distributed_optimizer and sizes["dp"] * sizes["cp"] > 1,
        }
    )


def _primes(number: int) -> list[int]:
    """Prime factors, the smallest first."""
    found = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found
