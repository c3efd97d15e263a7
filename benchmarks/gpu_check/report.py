"""What the check found, for the terminal, for programs, as a page and as a table for the documentation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import safe
from aspo_megatron.plots.page import html_page, html_text, write_page
from benchmarks.gpu_check.lines import BYTES, Line, Status
from benchmarks.gpu_check.machine import Machine
from benchmarks.gpu_check.sections import Section

_STYLE = """
body { max-width: 84rem; }
.passed, .held { color: var(--good); } .failed { color: var(--bad); font-weight: bold; }
.not, .measured { color: var(--muted); }
.number { text-align: right; white-space: nowrap; } .bound { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: .85em; }
"""
_FAILED_FIRST = (Status.FAILED, Status.PASSED, Status.ON_CPU, Status.MEASURED, Status.NOT_DONE)


@dataclass(frozen=True)
class Report:
    """All that is written down.

    Attributes:
        machine: where it ran.
        date: when, with the time zone.
        small: whether it was the small form, on the CPU, which shows nothing about a GPU.
        sections: those that were asked for.
        lines: what they said.
        seconds: of the whole check.
    """

    machine: Machine
    date: str
    small: bool
    sections: Sequence[Section]
    lines: Sequence[Line]
    seconds: float

    @property
    def totals(self) -> dict[str, int]:
        """How many lines have each status."""
        return {status.value: sum(line.status is status for line in self.lines) for status in Status}

    def of(self, section: Section) -> list[Line]:
        """The lines of a section."""
        return [line for line in self.lines if line.section == section.name]


def terminal_row(line: Line) -> str:
    """A line as it is printed when it comes."""
    figure = figure_text(line)
    held = ", ".join(part for part in (line.bound, line.reference) if part)
    row = f"{line.status.value:11}  {line.section}: {line.name}" + (f"  {figure}" if figure else "")
    row += f"  ({held})" if held else ""
    return safe(row + ("  " + line.note.replace("\n", "\n    ") if line.note else ""))


def closing_row(report: Report) -> str:
    """The last row in the terminal."""
    totals = report.totals
    counted = [Status.PASSED, Status.FAILED, Status.MEASURED, Status.NOT_DONE]
    row = ", ".join(f"{totals[status]} {status.value}" for status in counted) + f"; {report.seconds:.0f} s"
    return row + (f"; {totals[Status.ON_CPU]} held on cpu, which says nothing of a GPU" if report.small else "")


def figure_text(line: Line) -> str:
    """The figure with its unit, to four digits; empty without one."""
    if line.figure is None:
        return ""
    if math.isfinite(line.figure) and float(line.figure).is_integer() and abs(line.figure) < 1e7:
        number = f"{line.figure:.0f}"
    elif math.isfinite(line.figure) and line.unit in BYTES:
        number = f"{line.figure:,.0f}"
    else:
        number = f"{line.figure:.4g}"
    return f"{number} {line.unit}".rstrip()


def write_report(report: Report, out: Path) -> list[Path]:
    """Write the three files.

    Raises:
        UserError: one cannot be written.
    """
    paths = [out / f"gpu_check.{suffix}" for suffix in ("json", "html", "md")]
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json_text(report), encoding="utf-8")
        paths[2].write_text(markdown(report), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    write_page(paths[1], page(report))
    return paths


def json_text(report: Report) -> str:
    """For programs. A figure that is no number is null, and the note says what it was."""
    found = {
        "date": report.date,
        "small": report.small,
        "cards": report.machine.cards,
        "versions": report.machine.versions,
        "totals": report.totals,
        "seconds": report.seconds,
        "lines": [_json_line(line) for line in report.lines],
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _json_line(line: Line) -> dict[str, object]:
    fields = asdict(line)
    if line.figure is not None and not math.isfinite(line.figure):
        fields |= {"figure": None, "note": f"figure: {line.figure}. {line.note}".rstrip()}
    return fields


def page(report: Report) -> str:
    """One HTML file."""
    title_of_page = "GPU check" + (" (small form, on a CPU)" if report.small else "")
    failed = [line for line in report.lines if line.status is Status.FAILED]
    body = [
        f"<h1>{html_text(title_of_page)}</h1>",
        f"<p>{html_text(closing_row(report))}</p>",
        f'<p class="note">{html_text(report.machine)}. {html_text(report.date)}.</p>',
    ]
    if report.small:
        body.append("<p>Nothing here was shown on a GPU: the same code ran with small sizes on a CPU.</p>")
    if failed:
        body += ["<h2>Failed</h2>", _html_table(failed, with_section=True)]
    body += ["<h2>Sections</h2>", _html_overview(report)]
    for section in report.sections:
        lines = report.of(section)
        if lines:
            title = f'<h2 id="{html_text(section.name)}">{html_text(section.title)}</h2>'
            body += [title, _html_table(lines, with_section=False)]
    return html_page(title_of_page, _STYLE, "\n".join(body))


def _html_overview(report: Report) -> str:
    """How many lines of each status a section has, and its seconds; each name leads to its lines."""
    shown = [status for status in _FAILED_FIRST if report.totals[status.value]]
    heads = "".join(f'<th class="number">{html_text(name)}</th>' for name in (*shown, "s"))
    rows = []
    for section in report.sections:
        lines = report.of(section)
        counts = [sum(line.status is status for line in lines) for status in shown]
        cells = "".join(
            f'<td class="number{f" {_class(status)}" if count else ""}">{count or ""}</td>'
            for status, count in zip(shown, counts, strict=True)
        )
        name = f'<a href="#{html_text(section.name)}">{html_text(section.name)}</a>' if lines else section.name
        spent = f"{sum(line.seconds for line in lines):.0f}" if lines else "not begun"
        rows.append(
            f'<tr><td>{name}</td><td>{html_text(section.title)}</td>{cells}<td class="number">{spent}</td></tr>'
        )
    head = f"<thead><tr><th>section</th><th>about</th>{heads}</tr></thead>"
    return f'<div class="scroll"><table>{head}\n<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>'


def _class(status: Status) -> str:
    return status.value.split()[0]


def _html_table(lines: Sequence[Line], *, with_section: bool) -> str:
    names = [*(["section"] if with_section else []), "status", "what", "figure", "bound", "held against", "note", "s"]
    head = "".join(
        f'<th class="number">{name}</th>' if name in ("figure", "s") else f"<th>{name}</th>" for name in names
    )
    rows = "\n".join(_html_row(line, with_section=with_section) for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _html_row(line: Line, *, with_section: bool) -> str:
    cells = [f"<td>{html_text(line.section)}</td>"] if with_section else []
    cells += [
        f'<td class="{_class(line.status)}">{html_text(line.status.value)}</td>',
        f"<td>{html_text(line.name)}</td>",
        f'<td class="number">{html_text(figure_text(line))}</td>',
        f'<td class="bound">{html_text(line.bound)}</td>',
        f"<td>{html_text(line.reference)}</td>",
        f"<td><pre>{html_text(line.note)}</pre></td>",
        f'<td class="number">{line.seconds:.1f}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def markdown(report: Report) -> str:
    """A table for docs/gpu.md, of a section's lines after another's; long notes are in the other two files."""
    rows = [f"{report.date}: {report.machine}. {closing_row(report)}.".replace("|", "\\|"), ""]
    rows += ["| section | what | result | figure | bound | held against |", "| --- | --- | --- | --: | --- | --- |"]
    for section in report.sections:
        for line in report.of(section):
            note = line.note.split("\n")[0] if line.status in (Status.FAILED, Status.NOT_DONE) else ""
            result = f"{line.status.value}: {note}" if note else line.status.value
            cells = (line.section, line.name, result, figure_text(line), line.bound, line.reference)
            rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return safe(text).replace("\n", " ").replace("|", "\\|").replace("<", "&lt;").strip()
