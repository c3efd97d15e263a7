"""What pydantic finds wrong with a value, in this project's words."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic_core import ErrorDetails

_REASONS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "is a section: set the keys in it",
}


def reason_in_words(error: ErrorDetails) -> str:
    """What a value must be, and which was given instead: what stands behind the name of its key."""
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    words = _REASONS.get(error["type"]) or error["msg"].replace("Input should be", "must be")
    words = words.replace("a valid number", "a number").replace("a valid integer", "a whole number")
    given = error["input"]
    if error["type"] == "string_type" and isinstance(given, bool | int | float):
        words += " (put it in quotes)"
    shown = "a section" if isinstance(given, Mapping) else json.dumps(given, ensure_ascii=False, default=str)
    return f"{words}, not {shown}"
