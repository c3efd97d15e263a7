"""The bounds of `loss.rollout_correction`."""

from __future__ import annotations

from collections.abc import Mapping

from aspo_megatron.config.words import RolloutCorrection

CORRECTION_BOUNDS: Mapping[RolloutCorrection, tuple[float | None, float | None]] = {
    "none": (None, None),
    "tis": (None, 2.0),
    "icepop": (0.5, 2.0),
    "kpop": (None, 0.5),
    "sequence-tis": (None, 2.0),
    "sequence-mask": (0.5, 2.0),
    "geometric-mask": (0.999, 1.001),
    "k3-mask": (None, 0.01),
}
"""Least and largest of what each kind looks at, unless the configuration has others; None: it has no such bound."""


def refuse_bounds(kind: RolloutCorrection, least: float | None, most: float | None) -> None:
    """See that bounds are those of the kind and leave something between them. Those of `none` are not looked at.

    Raises:
        ValueError: says which key, and what to do.
    """
    own_least, own_most = CORRECTION_BOUNDS[kind]
    if kind == "none":
        return
    if least is not None and own_least is None:
        raise ValueError(f"rollout_ratio_min={least:g}: rollout_correction={kind} has no min; leave it out")
    least, most = own_least if least is None else least, own_most if most is None else most
    if least is not None and most is not None and least > most:
        raise ValueError(
            f"rollout_ratio_min is {least:g} and rollout_ratio_max {most:g}: no token is between them; "
            f"rollout_correction={kind} has {own_least:g} and {own_most:g} by itself"
        )
