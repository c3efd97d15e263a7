"""What a comparison shows, in sentences: a difference is claimed only where interval and adjusted p-value bear it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aspo_megatron.comparison.quantities import Quantities, Quantity
from aspo_megatron.comparison.runs import Comparison
from aspo_megatron.comparison.statistics import (
    SIGNIFICANCE,
    Difference,
    Interval,
    compare,
    pairs_needed,
    smallest_adjusted_p,
)
from aspo_megatron.foreign_text import counted, one_line

_SMALLEST_SHOWN = 0.001


@dataclass(frozen=True)
class Finding:
    """A quantity, how each group differs in it from the baseline, and a sentence for each of these."""

    quantity: Quantity
    differences: tuple[Difference, ...]
    sentences: tuple[str, ...]


def findings(comparison: Comparison, quantities: Quantities) -> list[Finding]:
    """Of all quantities."""
    found = []
    for quantity in quantities.every:
        differences = tuple(compare(quantity.values, comparison.baseline))
        sentences = tuple(sentence(quantity, one, comparison) for one in differences)
        found.append(Finding(quantity, differences, sentences))
    return found


def sentence(quantity: Quantity, difference: Difference, comparison: Comparison) -> str:
    """What may be said of one group beside the baseline."""
    group, baseline = one_line(difference.group), one_line(comparison.baseline)
    interval, noun = difference.interval, comparison.pair_noun
    if interval.farthest is None:
        if difference.equal == difference.pairs:
            return f"{group} and {baseline} are equal with every {noun}."
        value = f"{quantity.difference(interval.mean)}{quantity.unit}"
        return (
            f"These runs do not tell {group} and {baseline} apart: the difference is {value} with every {noun}, and "
            "without any spread there is no interval."
        )
    won = f"higher with {wins(difference)} {noun}s"
    support = f"95 % interval {between(quantity, interval)}, adjusted p {p_text(difference.adjusted_p)}, {won}"
    if difference.claim is not None:
        size = quantity.difference(abs(interval.mean), signed=False)
        return f"{group} is {difference.claim} than {baseline} by {size}{quantity.unit} ({support})."
    value = f"{quantity.difference(interval.mean)}{quantity.unit}"
    bound = f"{quantity.difference(interval.farthest, signed=False)}{quantity.unit}"
    but = ", though the interval excludes 0: the adjusted p does not bear a claim" if interval.excludes_zero else ""
    return (
        f"These runs do not tell {group} and {baseline} apart{but}. The mean difference is {value} ({support}); one "
        f"larger than {bound} either way is unlikely."
    )


def limits(comparison: Comparison) -> str | None:
    """That so few pairs can show no difference, if that is so: the p-value has a smallest value."""
    pairs, compared = len(comparison.pairs), len(comparison.groups) - 1
    smallest = smallest_adjusted_p(pairs, compared)
    if smallest <= SIGNIFICANCE:
        return None
    noun = comparison.pair_noun
    return (
        f"With {counted(pairs, noun)} and {counted(compared, 'comparison')} the adjusted p-value is at least "
        f"{p_value(smallest)}, however large a difference is: none can be claimed here. It takes at least "
        f"{counted(pairs_needed(compared), noun)}."
    )


def reading_help(comparison: Comparison) -> list[str]:
    """How to read the numbers, in sentences."""
    noun = comparison.pair_noun
    return [
        f"Intervals are 95 % Student-t intervals over the {noun}s: of many such comparisons, each with new {noun}s, "
        "about 95 % of the intervals contain the true mean. They hold for this model, these problems and these "
        "settings.",
        f"A difference is taken {noun} by {noun}, so that what all groups of a {noun} share does not widen its "
        "interval: the intervals of two means may overlap although the difference is clear, and the other way round.",
        f"p is the share of all choices of signs of the differences that are as far from 0 (sign-flip permutation "
        "test); adjusted p is Holm's, over all groups compared in one quantity. A difference is claimed only if its "
        f"adjusted p is at most {SIGNIFICANCE:g} and its interval excludes 0. Quantities are not adjusted for each "
        "other: the more of them one looks at, the more likely one claim is chance. That two groups are not told "
        "apart does not make them equal; the interval says how far apart they may be.",
    ]


def between(quantity: Quantity, interval: Interval) -> str:
    """The ends of a difference's interval, as text; `-` if there is none."""
    if interval.low is None or interval.high is None:
        return "-"
    return f"{quantity.difference(interval.low)} to {quantity.difference(interval.high)}"


def wins(difference: Difference) -> str:
    """In how many pairs the group is higher."""
    equal = f" (equal with {difference.equal})" if difference.equal else ""
    return f"{difference.higher} of {difference.pairs}{equal}"


def p_value(value: float) -> str:
    """A p-value to two digits."""
    return f"below {_SMALLEST_SHOWN:g}" if value < _SMALLEST_SHOWN else f"{value:.2g}"


def p_text(value: float) -> str:
    """A p-value behind its name."""
    return p_value(value) if value < _SMALLEST_SHOWN else f"= {p_value(value)}"


def titled(text: str) -> str:
    """With a capital at its beginning."""
    return text[:1].upper() + text[1:]


def summary(found: Sequence[Finding], comparison: Comparison) -> list[str]:
    """All sentences, those of a quantity below its name, and what these runs cannot show."""
    lines = [limit] if (limit := limits(comparison)) else []
    for finding in found:
        lines.append(f"{titled(finding.quantity.name)}:")
        lines += [f"  {text}" for text in finding.sentences]
    return lines
