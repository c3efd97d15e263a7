"""What a run has recorded."""

from __future__ import annotations

import os
from pathlib import Path


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The metrics of a run, also of one that goes on at this moment.

    Rows are in the order of their steps, one for each step that is done; the held-out accuracy before training is the
    row of step 0. Of a step that was done again, after a resume, there is the last row. A line that a crash has damaged
    is left out, with a warning on stderr.

    Args:
        run: Folder of the run, or the file metrics.jsonl in it.

    Returns:
        Rows, each a mapping of names of metrics to their values; `step` is one of them. Not every row has every metric.

    Raises:
        UserError: There is no such file, or it is none of metrics.

    Example:
        ```python
        for row in read_metrics("runs/mine"):
            print(row["step"], row.get("reward/mean"))
        ```
    """
    from aspo_megatron.folders import METRICS_FILE
    from aspo_megatron.metrics.record import read_metrics as of_file
    from aspo_megatron.reading import own_file

    path = Path(run)
    return of_file(path if os.path.isfile(path) else own_file(path, METRICS_FILE))
