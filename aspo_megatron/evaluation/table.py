"""Several evaluations beside each other, and beside what was published: a table of models by benchmarks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aspo_megatron.data.thinking import Thinking
from aspo_megatron.errors import ConfigError
from aspo_megatron.evaluation.benchmarks import BENCHMARKS, MAX_RESPONSE_TOKENS, TEMPERATURE, TOP_P
from aspo_megatron.evaluation.job import CHAT_VARIABLE
from aspo_megatron.evaluation.published import BASES, CODE, MATH, PUBLISHED, Published
from aspo_megatron.evaluation.results import SCORES_SUFFIX, read_scores, scores_path
from aspo_megatron.evaluation.scores import difference_estimate, mean_estimate
from aspo_megatron.foreign_text import markdown, one_line

_PAPER = {
    "sampling.temperature": TEMPERATURE,
    "sampling.top_p": TOP_P,
    "sampling.top_k": 0,
    "sampling.max_response_tokens": MAX_RESPONSE_TOKENS,
}


MODES: dict[str, Thinking] = {"on": "on", "off": "off"}
"""What a table may be restricted to."""
_UNKNOWN = "unknown"
_MEANING = {
    "none": "the chat template has no switch for it, and neither opens nor closes a block of thoughts.",
    _UNKNOWN: "the result does not say; it is of an older version.",
}


@dataclass(frozen=True)
class ScoreTable:
    """Cells are text; `notes` stand below."""

    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """As Markdown."""
        head, *rows = [[markdown(cell) for cell in line] for line in (self.head, *self.rows)]
        lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
        return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(f"\n{markdown(n)}" for n in self.notes)])


Results = dict[str, dict[str, dict[str, Any]]]
"""What scores files hold, by model and benchmark."""


def read_results(paths: Iterable[str]) -> Results:
    """Read the results that are named: files, folders of files, folders of such folders; `NAME=PATH` renames a model.

    Raises:
        ConfigError: there is none, one cannot be read, or a model has two of one benchmark.
    """
    results: Results = {}
    for text in paths:
        name, equals, place = text.partition("=")
        path = Path(place if equals else text)
        for file in _scores_files(path):
            content = read_scores(file)
            model = name if equals else content["model"]
            of_model = results.setdefault(model, {})
            if content["benchmark"] in of_model:
                raise ConfigError(
                    f"{one_line(file)}: a second result of {one_line(model)} on {one_line(content['benchmark'])}; "
                    f"name it: {one_line(model)}-2={one_line(file)}"
                )
            of_model[content["benchmark"]] = content
    return results


def _scores_files(path: Path) -> list[Path]:
    if os.path.isdir(path):
        pattern = f"*{SCORES_SUFFIX}"
        found = sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))
        if not found:
            what = f"no result of `aspo eval` (*{SCORES_SUFFIX}) in it, nor in the folders below"
            raise ConfigError(f"{one_line(path)}: {what}")
        return found
    return [scores_path(path) if path.suffix == ".jsonl" else path]


def comparison(
    results: Results, bases: Sequence[str], *, passed: bool = False, thinking: Thinking | None = None
) -> ScoreTable:
    """Models by benchmarks: avg@K, or pass@K, in percent, with 95 % intervals; published rows below.

    Args:
        results: one's own, see `chosen` for those of one mode of thinking.
        bases: which published rows: those of models of these sizes.
        passed: pass@K in place of avg@K.
        thinking: on or off leaves out published rows of the other.

    Raises:
        ConfigError: some rows are with thinking, others without; names them.
    """
    names = _columns(results)
    notes = _Notes()
    published = [
        row
        for row in PUBLISHED
        if row.base in bases
        and any(name in (row.passed if passed else row.average) for name in names)
        and thinking in (None, row.thinking)
    ]
    _refuse_mixed(results, published)
    rows = [
        [model, _modes(of_model), *(_own_cell(name, of_model.get(name), passed, notes) for name in names)]
        for model, of_model in results.items()
    ]
    for row in published:
        label = f"{row.model} {notes.mark(f'published: {row.source}')}"
        rows.append([label, row.thinking, *(_published_cell(name, row, passed, notes) for name in names)])
    what = "pass" if passed else "avg"
    head = ["model", "thinking", *(f"{_title(name)}, {what}@{_k(name, results)}" for name in names)]
    intervals = "In percent; in brackets: 95 % confidence interval, normal approximation over problems."
    return ScoreTable(head, rows, [intervals, *_explained({row[1] for row in rows}), *notes.lines])


def chosen(results: Results, thinking: Thinking) -> Results:
    """The results without those of the other mode; a model without any is left out.

    Args:
        results: all.
        thinking: on or off. What has neither stays.

    Raises:
        ConfigError: none is left.
    """
    other = "off" if thinking == "on" else "on"
    kept = {
        model: {name: content for name, content in of_model.items() if content["thinking"] != other}
        for model, of_model in results.items()
    }
    kept = {model: of_model for model, of_model in kept.items() if of_model}
    if not kept:
        raise ConfigError(f"--thinking {thinking}: all results are with thinking {other}")
    return kept


def usual_bases(results: Results, thinking: Thinking | None) -> list[str]:
    """Sizes of published models that results are shown beside: the smallest, or all that do not think, as they do.

    `thinking`: what the table is restricted to.
    """
    modes = {content["thinking"] for of_model in results.values() for content in of_model.values()} | {thinking}
    fitting = dict.fromkeys(row.base for row in PUBLISHED if row.thinking == "off")
    return list(fitting) if "off" in modes and "on" not in modes else [BASES[0]]


def differences(results: Results, against: str) -> ScoreTable:
    """Each model's avg@K less that of `against`, in percentage points, with intervals of the paired differences.

    Raises:
        ConfigError: there is no such model.
    """
    if against not in results:
        raise ConfigError(f"--against {one_line(against)}: no such model; there are: {one_line(', '.join(results))}")
    names = _columns({against: results[against]})
    rows = []
    for model, of_model in results.items():
        if model != against:
            rows.append([model, *(_difference_cell(of_model.get(name), results[against][name]) for name in names)])
    head = [f"less {against}", *(f"{_title(name)}, avg" for name in names)]
    note = (
        "In percentage points; in brackets: 95 % confidence interval of the difference, paired by problem. With 0 in "
        "it, the two may be equally good. Only complete results on the same problems are compared."
    )
    return ScoreTable(head, rows, [note])


class _Notes:
    """Notes below a table, each with a mark of its own."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, note: str) -> str:
        return self._marks.setdefault(note, f"[{len(self._marks) + 1}]")

    @property
    def lines(self) -> list[str]:
        return [f"{mark} {note}" for note, mark in self._marks.items()]


def _refuse_mixed(results: Results, published: Sequence[Published]) -> None:
    """See that no row thinks beside one that does not: that makes more of a difference than what is compared."""
    modes: dict[str, dict[str, None]] = {"on": {}, "off": {}}
    for model, of_model in results.items():
        for name, content in of_model.items():
            if content["thinking"] in modes:
                modes[content["thinking"]][one_line(f"{model} on {name}")] = None
    own = [mode for mode, rows in modes.items() if rows]
    for row in published:
        modes[row.thinking][f"{row.model} (published)"] = None
    if not (modes["on"] and modes["off"]):
        return
    on, off = (", ".join(modes[mode]) for mode in ("on", "off"))
    hint = "take one with --thinking on or --thinking off"
    if len(own) == 1:
        sizes = dict.fromkeys(row.base for row in PUBLISHED if row.thinking == own[0])
        hint = f"take --thinking {own[0]}, with --published none or of {', '.join(sizes)}"
    raise ConfigError(f"results with thinking ({on}) and without ({off}) are not to be compared; {hint}")


def _modes(of_model: dict[str, dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(content["thinking"] or _UNKNOWN for content in of_model.values()))


def _explained(modes: set[str]) -> list[str]:
    """What the words in the column of thinking mean, those that do not say it themselves."""
    there = {word for mode in modes for word in mode.split(", ")}
    return [f"Thinking {word}: {meaning}" for word, meaning in _MEANING.items() if word in there]


def _columns(results: Results) -> list[str]:
    """The benchmarks that there are results of: those known in their order, then others."""
    there = dict.fromkeys(name for of_model in results.values() for name in of_model)
    return [*(name for name in BENCHMARKS if name in there), *(name for name in there if name not in BENCHMARKS)]


def _title(name: str) -> str:
    return BENCHMARKS[name].title if name in BENCHMARKS else name


def _k(name: str, results: Results) -> int:
    if name in BENCHMARKS:
        return BENCHMARKS[name].samples
    return int(next(of_model[name]["samples"] for of_model in results.values() if name in of_model))


def _own_cell(name: str, content: dict[str, Any] | None, passed: bool, notes: _Notes) -> str:
    if content is None:
        return ""
    samples = int(content["samples"])
    shares = [(count > 0) if passed else count / samples for count in content["right"]]
    estimate = mean_estimate([float(share) for share in shares])
    text = f"{100 * estimate.value:.1f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    for note in _remarks(name, content):
        text += f" {notes.mark(note)}"
    return text


def _published_cell(name: str, row: Published, passed: bool, notes: _Notes) -> str:
    values = row.passed if passed else row.average
    if name not in values:
        return ""
    doubt = f" {notes.mark(row.doubts[name])}" if name in row.doubts else ""
    return f"{values[name]:.1f}{doubt}"


def _remarks(name: str, content: dict[str, Any]) -> list[str]:
    """What makes a result another thing than the paper's, or than its neighbours."""
    remarks = []
    variables = [
        f"{key.removeprefix(CHAT_VARIABLE)} {json.dumps(value)}"
        for key, value in content["identity"].items()
        if key.startswith(CHAT_VARIABLE)
    ]
    if variables:
        remarks.append(f"chat template with {', '.join(variables)}")
    if not content["complete"]:
        remarks.append(f"{len(content['right'])} of {content['problems']} problems so far")
    if content["failed"]:
        remarks.append(f"{content['failed']} responses could not be scored, and count as wrong")
    if name in BENCHMARKS:
        identity = content["identity"]
        paper = _PAPER | {"samples": BENCHMARKS[name].samples}
        differing = [
            f"{key.removeprefix('sampling.')} {identity.get(key)}, not {value}"
            for key, value in paper.items()
            if identity.get(key) != value
        ]
        if content["problems"] != BENCHMARKS[name].problems:
            differing.append(f"{content['problems']} problems, not {BENCHMARKS[name].problems}")
        if differing:
            whose = "the paper's" if name in (*MATH, *CODE) else "the usual"
            remarks.append(f"not {whose} setting: {'; '.join(differing)}")
    return remarks


def _difference_cell(one: dict[str, Any] | None, other: dict[str, Any]) -> str:
    if one is None or not (one["complete"] and other["complete"]):
        return ""
    if one["identity"].get("problems") != other["identity"].get("problems"):
        return ""
    shares = [[count / result["samples"] for count in result["right"]] for result in (one, other)]
    estimate = difference_estimate(*shares)
    text = f"{100 * estimate.value:+.1f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"
    return text
