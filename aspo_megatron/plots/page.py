"""HTML pages that are one file: no script, no network, everything that came from elsewhere escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from aspo_megatron.errors import UserError
from aspo_megatron.files import write_whole
from aspo_megatron.foreign_text import one_line, safe
from aspo_megatron.plots.alarms.told import Told
from aspo_megatron.plots.curves import Pictures
from aspo_megatron.plots.figures import SeriesTable, config_differences, final_figures
from aspo_megatron.plots.series import Series
from aspo_megatron.plots.styles import swatch

# In the dark, pictures are turned over: their white becomes the page's #222, and half a turn keeps the hues.
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1a1a1a; --muted: #555; --line: #ddd; --mark: #fff0b8;
  --good: #176b2c; --bad: #b00020; }
@media (prefers-color-scheme: dark) {
  :root { --page: #222; --text: #e6e6e6; --muted: #aaa; --line: #444; --mark: #4d4113; --good: #7fd391;
    --bad: #ff8a80; }
  .pictures img, .swatch { filter: invert(.9) hue-rotate(180deg) brightness(1.34); }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 66rem;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3, p, li { overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
tbody th { font-weight: normal; }
.note { color: var(--muted); }
"""

_PLOT_STYLE = """
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .75rem; }
.pictures img { width: 100%; height: auto; display: block; }
.names { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; list-style: none; padding: 0; }
.swatch { vertical-align: -1px; margin-right: .4rem; } thead .swatch { display: block; margin-bottom: .2rem; }
thead th { min-width: 5rem; max-width: 12rem; overflow-wrap: anywhere; }
td { min-width: 3.5rem; max-width: 18rem; overflow-wrap: anywhere; }
tbody th { position: sticky; left: 0; background: var(--page); min-width: 7rem; max-width: 15rem;
  overflow-wrap: anywhere; }
.alarms b { color: var(--bad); }
.best { font-weight: bold; } .best span { background: var(--mark); padding: 0 .3rem; margin-left: -.3rem; }
@media (max-width: 40rem) { tbody th { max-width: 8rem; } }
"""


def html_text(text: object) -> str:
    """Any value as the text of an HTML element or attribute."""
    return escape(safe(text), quote=True)


def html_page(title: str, style: str, body: str, refresh_seconds: int | None = None) -> str:
    """A whole page, dark for those who like that.

    Args:
        title: text.
        style: rules of CSS. Colours of the page's own are `var(--text)`, `--page`, `--muted`, `--line`, `--mark`,
            `--good` and `--bad`.
        body: HTML.
        refresh_seconds: the browser loads the page again after so many; None: never.
    """
    refresh = "" if refresh_seconds is None else f'<meta http-equiv="refresh" content="{refresh_seconds}">\n'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
{refresh}<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html_text(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_page(path: Path, page: str) -> None:
    """Write a page into a file, whose folder is made if need be.

    Raises:
        UserError: it cannot be written, or its name is that of another kind of file.
    """
    if path.suffix.lower() not in ("", ".html", ".htm"):
        raise UserError(f"--html {one_line(path)}: this is a page; give it a name that ends in .html")
    write_whole(path, page)


def plot_page(
    series: Sequence[Series], pictures: Pictures, status: str = "", refresh_seconds: int | None = None
) -> str:
    """The pictures of series with their final figures and the settings that differ.

    Args:
        series: see `read_series`.
        pictures: see `draw_pictures`.
        status: a line below the title.
        refresh_seconds: see `html_page`.

    Raises:
        UserError: see `config_differences`.
    """
    title = ", ".join(one.name for one in series)
    finals, differences = final_figures(series), config_differences(series)
    grouped = any(len(one.runs) > 1 for one in series)
    note = "Held-out accuracy: the last. All others: mean over the last tenth of the steps"
    note += "; ± is the standard deviation over the runs of a group" if grouped else ""
    note += ". Marked: the best." if any(finals.best) else "."
    body = [f"<h1>{html_text(title)}</h1>"]
    if status:
        body.append(f'<p class="note">{html_text(status)}</p>')
    body += [_names(series), _pictures(pictures)]
    body += [f'<p class="note">{html_text(line)}</p>' for line in pictures.notes]
    body += _alarms(pictures.told)
    body += ["<h2>Final figures</h2>", f'<p class="note">{note}</p>', _html_table(finals)]
    if differences.rows:
        body += ["<h2>Settings that differ</h2>", _html_table(differences)]
    elif sum(len(one.runs) for one in series) > 1:
        body.append('<p class="note">No setting differs between the runs, as far as they have a config.yaml.</p>')
    body.append(_folders(series))
    return html_page(title, _PLOT_STYLE, "\n".join(body), refresh_seconds)


def _names(series: Sequence[Series]) -> str:
    """What each line is; nothing for one series alone."""
    if len(series) == 1:
        return ""
    counts = [f" ({len(one.runs)} runs)" if len(one.runs) > 1 else "" for one in series]
    entries = "\n".join(
        f"<li>{swatch(number)}{html_text(one.name)}{count}</li>"
        for number, (one, count) in enumerate(zip(series, counts, strict=True))
    )
    return f'<ul class="names">\n{entries}\n</ul>'


def _pictures(pictures: Pictures) -> str:
    images = "\n".join(
        f'<img alt="{html_text(title)} over the steps" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for title, png in pictures.panels
    )
    return f'<div class="pictures">\n{images}\n</div>'


def _alarms(told: Sequence[Told]) -> list[str]:
    """What is wrong, and what to do; nothing without alarms."""
    if not told:
        return []
    entries = "\n".join(
        f"<li><b>{html_text(f'{one.where}: {one.raised.name}')}</b>: {html_text(one.raised.line)}</li>" for one in told
    )
    note = "Red triangles in the pictures: where a run raised each of its alarms first (see docs/alarms.md)."
    return ["<h2>Alarms</h2>", f'<p class="note">{note}</p>', f'<ul class="alarms">\n{entries}\n</ul>']


def _folders(series: Sequence[Series]) -> str:
    """Where the runs are: their names leave out what they have in common."""
    entries = "\n".join(
        f"<li>{html_text(one.name)}: {html_text(folder)}</li>" for one in series for folder in one.folders
    )
    return f"<details><summary>Folders of the runs</summary>\n<ul>\n{entries}\n</ul></details>"


def _html_table(table: SeriesTable) -> str:
    several = len(table.columns) > 1
    head = "".join(
        f"<th>{swatch(number) if several else ''}{html_text(column)}</th>"
        for number, column in enumerate(table.columns)
    )
    best = table.best or ((),) * len(table.rows)
    rows = "\n".join(_row(label, cells, marked) for (label, cells), marked in zip(table.rows, best, strict=True))
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )


def _row(label: str, cells: Sequence[str], best: Sequence[int]) -> str:
    parts = [f"<th>{html_text(label)}</th>"]
    for index, cell in enumerate(cells):
        text = html_text(cell)
        parts.append(f'<td class="best"><span>{text}</span></td>' if index in best else f"<td>{text}</td>")
    return f"<tr>{''.join(parts)}</tr>"
