"""The table of `aspo check`: each row is shown as soon as it is known."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from aspo_megatron.check.comparison import (
    BUILT_IN,
    CheckRow,
    Tolerances,
    layouts_for,
    make_built_in,
    model_of,
    run_check,
)
from aspo_megatron.check.crowding import refuse_layouts_beyond
from aspo_megatron.checkpoint.usable import usable_weights
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show


def show_rows(
    model: str,
    layouts: Sequence[str],
    *,
    ranks: int,
    loss: str,
    aggregation: str,
    device: str,
    tolerances: Tolerances,
    more_ranks: bool = False,
) -> list[CheckRow]:
    """Check a model's layouts, show the table, and give its rows.

    Args:
        model: Hugging Face folder, megatron checkpoint, or a name of `BUILT_IN`.
        layouts: as `parse_layout` reads them; none: the default ones.
        ranks: most ranks of the default layouts.
        loss: name of the policy loss.
        aggregation: of the loss.
        device: `auto`, `cpu` or `cuda`.
        tolerances: what passes.
        more_ranks: start more than four ranks for each CPU core.

    Raises:
        UserError: the model, a layout or the loss cannot be used, or this machine does not bear the ranks.
    """
    with tempfile.TemporaryDirectory(prefix="aspo-check-") as folder:
        work = Path(folder)
        built_in = model in BUILT_IN and not os.path.exists(model)
        path = make_built_in(model, work / "built-in") if built_in else model_of(Path(model), work)
        family = usable_weights(path)
        chosen = layouts or layouts_for(family, ranks)
        rows = []
        refuse_layouts_beyond(chosen, family, device, more_ranks=more_ranks)
        show(f"{'layout':<24} {'loss':>10} {'grad norm':>10} {'gradients':>10} {'weights':>10}        worst gradient")
        for row in run_check(
            path, chosen, work, loss=loss, aggregation=aggregation, device=device, tolerances=tolerances
        ):
            rows.append(row)
            show(_line(row))
    return rows


def _line(row: CheckRow) -> str:
    weight = "-" if row.weight_difference is None else f"{row.weight_difference:.1e}"
    verdict = "pass" if row.passed else f"FAIL ({', '.join(row.failed)})"
    return (
        f"{one_line(row.layout):<24} {row.loss:>10.6f} {row.grad_norm:>10.6f} {row.gradient_difference:>10.1e} "
        f"{weight:>10}  {verdict}  {one_line(row.gradient_name)}"
    )
