"""The page of `aspo plot`, written again while its runs go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from aspo_megatron.foreign_text import one_line
from aspo_megatron.plots.curves import draw_pictures
from aspo_megatron.plots.page import plot_page, write_page
from aspo_megatron.plots.series import read_series
from aspo_megatron.streams import show
from aspo_megatron.watch.follow import follow
from aspo_megatron.watch.page import status_line
from aspo_megatron.watch.run_view import read_run


def follow_page(
    runs: Sequence[Path], groups: Mapping[str, Sequence[Path]], html: Path, smooth: int | None, seconds: float
) -> None:
    """Write the page as long as one of the runs goes or until Ctrl-C, and once more: only then it stays as it is.

    Args:
        runs: run folders, or metrics.jsonl files.
        groups: name -> its runs.
        html: the page.
        smooth: see `draw_pictures`.
        seconds: between two looks.

    Raises:
        UserError: nothing is given, there is no such folder, or the page cannot be written.
    """
    if not runs and not groups:
        read_series(runs, groups)  # says so
    named = [*runs, *(run for members in groups.values() for run in members)]
    folders = [run.parent if run.is_file() else run for run in named]
    written = False

    def look(last: bool) -> bool:
        nonlocal written
        views = [read_run(folder) for folder in folders]
        if waiting := [view.name for view in views if not view.records]:
            show(f"waiting: no step is recorded yet in {one_line(', '.join(waiting))}")
            return False
        ended = all(view.ended for view in views)
        if ended and not last:
            return True  # the last look writes
        state = "; ".join(
            status_line(view) if len(views) == 1 else f"{view.name}: {status_line(view)}" for view in views
        )
        pictures = draw_pictures(series := read_series(runs, groups), smooth)
        write_page(html, plot_page(series, pictures, state, None if last else max(2, math.ceil(seconds))))
        if not written or last:
            more = "" if last else ", written again with each new step; Ctrl-C ends"
            show(f"page:    {one_line(html)}" + more)
        written = True
        return False

    follow(folders, look, seconds)
