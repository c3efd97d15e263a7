"""`aspo losses`: the losses there are."""

from __future__ import annotations

from typing import Annotated

import typer

from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show


def losses(
    name: Annotated[
        str | None, typer.Argument(help="One loss, or your own package.module:Class. [default: all]")
    ] = None,
) -> None:
    """List the losses with their hyperparameters."""
    from aspo_megatron import losses as registry

    for each in registry.names() if name is None else [name]:
        loss = registry.get(each)
        summary, *_ = (loss.__doc__ or "").strip().splitlines() or [""]
        show(f"{one_line(each)}: {one_line(summary)}".removesuffix(": "))
        for key, field in loss.model_fields.items():
            value = "(required)" if field.is_required() else field.default
            show(f"    loss.{key} = {one_line(value)}  {one_line(field.description or '')}".rstrip())
