"""The fields of a row: found by name, within each other too, and which names are meant where one is not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import parse_json

ABSENT = object()
"""What `lookup` gives where there is no such field."""

PROMPTS = (
    "prompt", "problem", "question", "messages", "conversations", "conversation", "input", "query", "instruction",
    "question_content", "source_prompt", "raw_problem", "extra_info.question",
)  # fmt: skip
"""Names by which the question goes in known sets of problems; the first are the likeliest."""

ANSWERS = (
    "answer", "reward_model.ground_truth", "ground_truth", "final_answer", "expected_answer", "gold", "gt", "gt_answer",
    "gold_answer", "target", "solution", "label", "extra_info.answer", "output", "response",
)  # fmt: skip
"""Names by which the reference answer goes."""


def lookup(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a field, or `ABSENT`.

    A dot leads into an object, or with a number into a list: `reward_model.ground_truth`, `messages.0.content`. A field
    whose own name has the dot comes first. An object or list may be written as JSON in a text, as in some Parquet
    files. What is within null is null.
    """
    return fields[name] if name in fields else _within(fields, name.split("."))


def _within(value: Any, parts: list[str]) -> Any:
    if not parts or value is None:
        return value
    if isinstance(value, str):
        value = _written(value)
    value = plain(value)
    if isinstance(value, list | tuple):
        number = parts[0]
        is_there = number.isascii() and number.isdigit() and len(number) < 10 and int(number) < len(value)
        return _within(value[int(number)], parts[1:]) if is_there else ABSENT
    if not isinstance(value, Mapping):
        return ABSENT
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        if name in value:
            found = _within(value[name], parts[count:])
            if found is not ABSENT:
                return found
    return ABSENT


def _written(text: str) -> Any:
    """What a text is, if it is an object or a list in JSON; else `ABSENT`."""
    if text.lstrip()[:1] not in ("{", "["):
        return ABSENT
    try:
        return parse_json(text, "")
    except UserError:
        return ABSENT


def plain(value: Any) -> Any:
    """An array or number of NumPy as Python's own; everything else as it is."""
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def named_in(fields: Mapping[str, Any]) -> str:
    """The names of the fields that are there, for an error message."""
    return one_line(", ".join(map(str, itertools.islice(fields, 50)))[:500]) or "none"


def likely(fields: Mapping[str, Any], known: Iterable[str], *, besides: str | None = None) -> str | None:
    """The first of the known names by which a row has something; None if it has none. Capitals do not matter.

    Args:
        fields: the row.
        known: names, the likeliest first.
        besides: a field that is something else already.
    """
    spelled = {name.lower(): name for name in itertools.islice(fields, 1000) if isinstance(name, str)}
    for name in known:
        head, dot, rest = name.partition(".")
        own = spelled.get(head, head) + dot + rest
        value = plain(lookup(fields, own))
        if own != besides and isinstance(value, str | int | float | list) and value != "":
            return own
    return None
