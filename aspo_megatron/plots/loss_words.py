"""What there is to say of a loss, for the command and the page: read from its class."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from aspo_megatron import losses
from aspo_megatron.losses import Loss

_LABEL = re.compile(r"(?:^|(?<=\s))(?=(?:Settings of its source|Sources disagree|Denominator|Bad tokens): )")
"""Where a part of a docstring begins that is a paragraph of its own, even within a line."""


@dataclass(frozen=True)
class Hyperparameter:
    """A setting `loss.KEY`. `default` is its text, None if it must be given."""

    key: str
    default: str | None
    description: str


@dataclass(frozen=True)
class LossWords:
    """`paragraphs`: of the docstring after its summary, each in one line, unless it is indented."""

    name: str
    summary: str
    formula: tuple[str, ...]
    source: str
    paragraphs: tuple[str, ...]
    hyperparameters: tuple[Hyperparameter, ...]


def loss_words(name: str) -> LossWords:
    """Of the loss `name`.

    Formula and source are the class's own: one that is derived from another loss may have changed what it does.

    Args:
        name: as `losses.get` has it.

    Raises:
        ConfigError: see `losses.get`.
    """
    loss = losses.get(name)
    own = vars(loss)
    summary, *rest = re.split(r"\n\s*\n", inspect.cleandoc(str(own.get("__doc__") or "")))
    return LossWords(
        name=name,
        summary=_joined(summary),
        formula=tuple(str(own.get("formula", "")).splitlines()),
        source=str(own.get("source", "")),
        paragraphs=tuple(part for paragraph in rest for part in _parts(paragraph)),
        hyperparameters=_hyperparameters(loss),
    )


def _hyperparameters(loss: type[Loss]) -> tuple[Hyperparameter, ...]:
    return tuple(
        Hyperparameter(key, None if field.is_required() else _text(field.default), field.description or "")
        for key, field in loss.model_fields.items()
    )


def _text(value: object) -> str:
    """As it is written in YAML, for what most hyperparameters are."""
    return "null" if value is None else str(value)


def _parts(paragraph: str) -> list[str]:
    if any(line.startswith(" ") for line in paragraph.splitlines()):
        return [paragraph]
    return [part.strip() for part in _LABEL.split(_joined(paragraph)) if part.strip()]


def _joined(lines: str) -> str:
    return " ".join(lines.split())
