"""The page of a comparison, as Markdown: sections that are put together, so that others can be added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from aspo_megatron.comparison.quantities import Quantities, Quantity
from aspo_megatron.comparison.runs import Comparison
from aspo_megatron.comparison.same_settings import Variation
from aspo_megatron.comparison.sentences import (
    Finding,
    between,
    limits,
    p_value,
    reading_help,
    titled,
    wins,
)
from aspo_megatron.comparison.statistics import Difference, Interval, mean_interval
from aspo_megatron.comparison.token_weights import BINS, TokenWeights, rows
from aspo_megatron.foreign_text import counted, markdown, one_line

_NAMED = (
    "model.path", "data.train.kind", "data.train.path", "data.train.family", "train.steps", "rollout.prompts_per_step",
    "rollout.responses_per_prompt", "train.prompts_per_update", "train.epochs", "optimizer.lr", "loss.name",
    "loss.kl_coef", "loss.aggregation", "advantage.baseline", "advantage.scale", "eval.samples", "seed",
)  # fmt: skip
"""Settings that a reader asks for first, where all runs have the same; the others are in each run's config.yaml."""


@dataclass(frozen=True)
class Section:
    """A part of the page. `lines` are Markdown, each a paragraph, a picture, or a list or table of several lines."""

    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Cells are text. The first `names` columns are of names, others of numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1

    def markdown(self) -> str:
        """As Markdown."""
        aligned = ["---" if column < self.names else "--:" for column in range(len(self.head))]
        lines = [_cells(self.head), aligned, *map(_cells, self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Iterable[str]) -> list[str]:
    return [markdown(cell) for cell in row]


def page_text(title: str, opening: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: its heading, of the user.
        opening: what is compared; see `opening_text`.
        sections: in their order; one without lines is left out.
    """
    parts = [f"# {markdown(title)}", markdown(opening)]
    for section in sections:
        if section.lines:
            parts += [f"## {markdown(section.heading)}", *section.lines]
    return "\n\n".join(parts) + "\n"


def opening_text(comparison: Comparison) -> str:
    """In a paragraph, what is compared with what."""
    groups, pairs, noun = len(comparison.groups), len(comparison.pairs), comparison.pair_noun
    steps = comparison.groups[0].last_steps[0]
    return (
        f"{groups} groups of runs that differ in {one_line(comparison.by)}: "
        f"{one_line(', '.join(comparison.names))}. Each has {counted(pairs, noun)} "
        f"({comparison.those_pairs(comparison.pairs)}), in all "
        f"{counted(groups * pairs, 'run')} of {counted(steps, 'step')}. The other groups are compared with "
        f"{one_line(comparison.baseline)}, {noun} by {noun}."
    )


def shown_section(found: Sequence[Finding], quantities: Quantities, comparison: Comparison) -> Section:
    """What the runs show, a list of sentences for each quantity, and what could not be compared."""
    lines = [markdown(limit)] if (limit := limits(comparison)) else []
    for finding in found:
        lines.append(f"**{markdown(titled(finding.quantity.name))}**")
        lines.append(_list(finding.sentences))
    if quantities.left_out:
        lines += ["Not compared:", _list(quantities.left_out)]
    return Section("What the runs show", tuple(lines))


def accuracies_section(quantity: Quantity | None, comparison: Comparison) -> Section:
    """The final accuracy of every run: a row for each pair, then the means."""
    heading = f"Final accuracy by {comparison.pair_noun}"
    if quantity is None:
        return Section(heading, ())
    body = [
        (pair, *(quantity.shown(float(quantity.values[name][row])) for name in comparison.names))
        for row, pair in enumerate(comparison.pairs)
    ]
    means = ("mean", *(quantity.shown(float(quantity.values[name].mean())) for name in comparison.names))
    return Section(heading, (Table((comparison.pair_noun, *comparison.names), (*body, means)).markdown(),))


def means_section(found: Sequence[Finding], comparison: Comparison) -> Section:
    """The mean of each group with its interval: a row for each quantity."""
    if not found:
        return Section("Means", ())
    body = [
        (titled(finding.quantity.name), *(mean_cell(finding.quantity, name) for name in comparison.names))
        for finding in found
    ]
    note = f"Means over {comparison.pair_noun}s; in brackets the 95 % interval."
    return Section("Means", (Table(("quantity", *comparison.names), tuple(body)).markdown(), markdown(note)))


def mean_cell(quantity: Quantity, group: str) -> str:
    """A group's mean with its interval. Of a share it is cut off at 0 and 100 %, as none is beyond."""
    interval = mean_interval(quantity.values[group])
    if interval.low is None or interval.high is None:
        return quantity.shown(interval.mean)
    low, high = interval.low, interval.high
    if quantity.is_share:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{quantity.shown(interval.mean)} ({quantity.shown(low)} to {quantity.shown(high)})"


def differences_section(found: Sequence[Finding], comparison: Comparison, picture: str | None) -> Section:
    """A row for each quantity and group; `picture` is the file name of the forest plot."""
    if not found:
        return Section("Paired differences", ())
    body = [
        (titled(finding.quantity.name), one.group, *difference_cells(finding.quantity, one))
        for finding in found
        for one in finding.differences
    ]
    head = ("quantity", "group", *difference_head(comparison))
    note = "Differences of shares are in percentage points."
    lines = [Table(head, tuple(body), names=2).markdown(), markdown(note)]
    if picture:
        lines.insert(0, image("Paired differences with their intervals", picture))
    return Section("Paired differences", tuple(lines))


def difference_head(comparison: Comparison) -> tuple[str, ...]:
    """Of the columns of `difference_cells`."""
    return (f"less {comparison.baseline}", "95 % interval", "p", "adjusted p", f"higher with ({comparison.pair_noun}s)")


def difference_cells(quantity: Quantity, difference: Difference) -> tuple[str, ...]:
    """Mean, interval, p-values and wins."""
    interval: Interval = difference.interval
    mean, ends = quantity.difference(interval.mean), between(quantity, interval)
    return (mean, ends, p_value(difference.p), p_value(difference.adjusted_p), wins(difference))


def main_table(finding: Finding, comparison: Comparison) -> Table:
    """A quantity with means and differences: a row for each group, the baseline's without a difference."""
    of_group = {one.group: difference_cells(finding.quantity, one) for one in finding.differences}
    head = difference_head(comparison)
    body = [
        (name, mean_cell(finding.quantity, name), *of_group.get(name, ("",) * len(head))) for name in comparison.names
    ]
    return Table((finding.quantity.name, "mean (95 % interval)", *head), tuple(body))


def curves_section(picture: str) -> Section:
    """The figure of `aspo plot`; `picture` is its file name."""
    return Section("Curves", (image("Curves of the groups over the steps", picture),))


def weights_section(weights: TokenWeights, comparison: Comparison, picture: str | None) -> Section:
    """Mean weights and dropped shares by probability, or why there are none; `picture` is a file name."""
    lines = []
    if picture:
        lines += [
            image("Weight of a token's gradient by its probability", picture),
            "The weight w of a token's gradient, -A w grad log pi, as the loss gives it after the step's updates, by "
            "the probability that the token had when it was generated; of the responses in each run's samples.jsonl. "
            "A weight of 0 is a dropped token, and counts in the mean. Lines are means over the runs of a group, bands "
            "go from the lowest to the highest run.",
            Table(("group", *BINS), tuple(map(tuple, rows(weights, comparison.names)))).markdown(),
            "Mean weight; in brackets the share of dropped tokens and the number of all tokens in the bin.",
        ]
    return Section("Weights of tokens by their probability", (*lines, *map(markdown, weights.notes)))


def help_section(comparison: Comparison) -> Section:
    """How to read intervals and p-values."""
    return Section("How to read this", tuple(map(markdown, reading_help(comparison))))


def settings_section(comparison: Comparison) -> Section:
    """What the runs share, what differs, what was left out, and where they are."""
    known = [f"{key}={comparison.settings[key]}" for key in _NAMED if comparison.settings.get(key, "null") != "null"]
    shared = f"{counted(len(comparison.settings), 'setting')} have one value in all runs"
    lines = [markdown(f"{shared}, among them {', '.join(known)}." if known else f"{shared}.")]
    entries = [f"{comparison.by}: the groups", f"{comparison.pair}: the pairs", *map(_variation, comparison.variations)]
    lines += ["These differ, besides `output_dir`:", _list(entries)]
    if comparison.left_out:
        lines += ["Left out:", _list(comparison.left_out)]
    runs = [
        f"{name}: {', '.join(map(str, group.folders))}"
        for name, group in zip(comparison.names, comparison.groups, strict=True)
    ]
    return Section("What was compared", (*lines, "Runs:", _list(runs)))


def _variation(variation: Variation) -> str:
    why = {
        "given": "as allowed by --also",
        "start": "each pair has a start of its own, the same in all groups",
        "without result": "changes nothing of what is computed but rounding",
    }[variation.kind]
    return f"{variation.key}: {why}{_values(variation.values)}"


def _values(values: Mapping[str, str]) -> str:
    return "; " + ", ".join(f"{of}: {value}" for of, value in values.items()) if values else ""


def image(text: str, name: str) -> str:
    """A picture beside the page, as Markdown."""
    return f"![{text}]({quote(name)})"


def _list(entries: Iterable[str]) -> str:
    return "\n".join(f"- {markdown(entry)}" for entry in entries)
