"""Tables of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aspo_megatron.foreign_text import one_line


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    """Columns as wide as they must be; the first and those of `left` begin at the left."""
    cells = [list(map(one_line, row)) for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 or column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
