"""HTML pages that are one file: no script, no network, everything that came from elsewhere escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from aspo_megatron.files import write_whole
from aspo_megatron.foreign_text import safe
from aspo_megatron.plots.figures import SeriesTable, config_differences, final_figures
from aspo_megatron.plots.series import Series

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
tbody th { font-weight: normal; }
.note { color: #555; }
"""


def html_text(text: object) -> str:
    """Any value as the text of an HTML element or attribute."""
    return escape(safe(text), quote=True)


def html_page(title: str, style: str, body: str) -> str:
    """A whole page. `style` and `body` are HTML already; the title is text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
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
        UserError: it cannot be written.
    """
    write_whole(path, page)


def plot_page(series: Sequence[Series], png: bytes) -> str:
    """The picture of series (`png`: a PNG file's content) with their final figures and the settings that differ.

    Raises:
        UserError: see `config_differences`.
    """
    title = ", ".join(one.name for one in series)
    picture = base64.b64encode(png).decode()
    finals, differences = final_figures(series), config_differences(series)
    spread = "; ± is the standard deviation over the runs of a group" if any(len(s.runs) > 1 for s in series) else ""
    body = [
        f"<h1>{html_text(title)}</h1>",
        f'<img alt="Curves over the steps of {html_text(title)}" src="data:image/png;base64,{picture}">',
        "<h2>Final figures</h2>",
        f'<p class="note">Held-out accuracy: the last. All others: mean over the last tenth of the steps{spread}.</p>',
        _html_table(finals),
    ]
    if differences.rows:
        body += ["<h2>Settings that differ</h2>", _html_table(differences)]
    elif sum(len(one.runs) for one in series) > 1:
        body.append('<p class="note">No setting differs between the runs, as far as they have a config.yaml.</p>')
    return html_page(title, "", "\n".join(body))


def _html_table(table: SeriesTable) -> str:
    head = "".join(f"<th>{html_text(column)}</th>" for column in table.columns)
    rows = "\n".join(
        f"<tr><th>{html_text(label)}</th>{''.join(f'<td>{html_text(cell)}</td>' for cell in cells)}</tr>"
        for label, cells in table.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )
