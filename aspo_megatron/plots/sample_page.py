"""Sampled responses as a page: by problem, with a filter and a legend that need no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.plots.page import html_page, html_text
from aspo_megatron.plots.sample_file import Selection, ShownSample, weight_summary
from aspo_megatron.plots.sample_view import asked, footer, heading
from aspo_megatron.plots.weight_classes import LEGEND, LEGEND_TITLE, UNKNOWN, WeightClass, shown_token, weight_class

_KINDS = ("all", "right", "wrong", "cut", "best", "worst")
"""What can be chosen on the page; each but the first is a class of its responses."""

_BASE_STYLE = """
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.6 ui-monospace, monospace;
  margin: .3rem 0 .6rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem .4rem; background: var(--page); padding: .5rem 0; margin: 0;
  border-bottom: 1px solid var(--line); }
.legend span { padding: .1rem .4rem; border-radius: 3px; }
@media (min-width: 48rem) { .legend { position: sticky; top: 0; } }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; }
section > h2 { margin: 1rem 0 .3rem; }
article { border-left: 4px solid var(--bad); padding-left: .8rem; margin: .8rem 0; }
article.right { border-color: var(--good); }
h3 { font-size: 1em; font-weight: normal; margin: 0; }
h3 b { color: var(--bad); } .right h3 b { color: var(--good); }
h3 span { background: var(--mark); padding: 0 .4rem; border-radius: 3px; }
summary { cursor: pointer; color: var(--muted); }
section > p { margin: .3rem 0; }
input { margin-left: 0; } label { margin-right: 1rem; white-space: nowrap; cursor: pointer; }
"""


@dataclass(frozen=True)
class _Group:
    """The responses of a step to a problem, the best first."""

    samples: tuple[ShownSample, ...]

    def kinds(self, sample: ShownSample) -> list[str]:
        """The classes of one of them. Best and worst are those of the highest and lowest reward, if they differ."""
        high, low = (end(one.reward for one in self.samples) for end in (max, min))
        found = ["right" if sample.right else "wrong"]
        found += ["cut"] if sample.cut else []
        if high > low:
            found += [kind for kind, end in (("best", high), ("worst", low)) if sample.reward == end]
        return found


def samples_page(title: str, selection: Selection) -> str:
    """The responses as a page of its own; the weight of a token shows when the pointer is on it."""
    groups = _grouped(selection.samples)
    body = [f"<h1>{html_text(title)}</h1>", *_filter(groups)]
    if any(sample.weights for sample in selection.samples):
        legend = " ".join(f'<span class="{_css(entry)}">{html_text(entry.label)}</span>' for entry in LEGEND)
        body.append(f'<p class="legend">{html_text(LEGEND_TITLE)} {legend}</p>')
    body += ["<main>", *map(_html_group, groups), "</main>"]
    body.append(f'<p class="note">{html_text(footer(selection))}</p>')
    return html_page(title, _BASE_STYLE + _filter_style() + _colors(), "\n".join(body))


def _grouped(samples: Sequence[ShownSample]) -> list[_Group]:
    """By step and problem, in the order in which they begin."""
    found: dict[tuple[int | None, str, str], list[ShownSample]] = {}
    for sample in samples:
        found.setdefault((sample.step, sample.problem, sample.question), []).append(sample)
    return [_Group(tuple(sorted(group, key=lambda sample: -sample.reward))) for group in found.values()]


def _filter(groups: Sequence[_Group]) -> list[str]:
    """A choice of kinds with how many there are."""
    kinds = [kind for group in groups for sample in group.samples for kind in ("all", *group.kinds(sample))]
    parts = []
    for kind in _KINDS:
        if kind in kinds:
            checked = " checked" if kind == "all" else ""
            choice = f'<input type="radio" name="show" id="show-{kind}"{checked}>'
            parts.append(f"<label>{choice} {kind} ({kinds.count(kind)})</label>")
    return parts


def _filter_style() -> str:
    rules = []
    for kind in _KINDS[1:]:
        chosen = f"body:has(#show-{kind}:checked)"
        hidden = f"{chosen} article:not(.{kind}), {chosen} section:not(:has(article.{kind}))"
        rules.append(f"{hidden} {{ display: none; }}")
    return "\n".join(rules) + "\n"


def _css(entry: WeightClass) -> str:
    return f"w{(*LEGEND, UNKNOWN).index(entry)}"


def _colors() -> str:
    light, dark = [], []
    for entry in (*LEGEND, UNKNOWN):
        parts = [f"background: {entry.background}"] if entry.background else []
        parts += [f"color: {entry.color}"] if entry.color else []
        parts += ["text-decoration: line-through"] if entry.struck else []
        light.append(f".{_css(entry)} {{ {'; '.join(parts)} }}")
        background, color = entry.dark
        parts = [f"background: {background}"] if background else []
        parts += [f"color: {color}"] if color else []
        dark.append(f".{_css(entry)} {{ {'; '.join(parts)} }}")
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}"])


def _html_group(group: _Group) -> str:
    first = group.samples[0]
    where = "" if first.step is None else f"Step {first.step}, "
    right = sum(sample.right for sample in group.samples)
    count = f"{counted(len(group.samples), 'response')}, {right} right"
    parts = [f"<section>\n<h2>{where}problem {html_text(one_line(first.problem))}</h2>", f'<p class="note">{count}</p>']
    for label, text in asked(first):
        parts.append(_labelled(label, html_text(text)))
    if first.prompt is not None:
        prompt = f'<div class="text">{html_text(first.prompt)}</div>'
        parts.append(f"<details><summary>prompt, as the model was asked</summary>\n{prompt}</details>")
    parts += [_html_sample(sample, group.kinds(sample)) for sample in group.samples]
    return "\n".join(parts) + "\n</section>"


def _labelled(label: str, content: str) -> str:
    return f'<div class="note">{label}</div>\n<div class="text">{content}</div>'


def _html_sample(sample: ShownSample, kinds: Sequence[str]) -> str:
    marks = "".join(f" <span>{kind}</span>" for kind in kinds if kind in ("best", "worst"))
    line = f"<h3><b>{kinds[0]}</b> | {html_text(heading(sample, alone=False))}{marks}</h3>"
    parts = [f'<article class="{" ".join(kinds)}">', line, f'<div class="text">{_html_response(sample)}</div>']
    if sample.weights:
        parts.append(f'<p class="note">{html_text(weight_summary(sample))}</p>')
    return "\n".join(parts) + "\n</article>"


def _html_response(sample: ShownSample) -> str:
    if not sample.weights or sample.is_neutral:
        return html_text(sample.response)
    spans = []
    for token, weight in zip(sample.tokens, sample.weights, strict=True):
        entry = weight_class(weight)
        shown = html_text(shown_token(token, entry))
        spans.append(f'<span class="{_css(entry)}" title="weight {weight:.3g}">{shown}</span>')
    return "".join(spans)
