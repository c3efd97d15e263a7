"""What a request may say of how tokens are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEFAULTS: dict[str, Any] = {
    "max_new_tokens": 128,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "stop": (),
    "stop_token_ids": (),
    "skip_special_tokens": True,
}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings, of those that are given.

    Raises:
        ValueError: there is no such setting, or it is out of its range.
    """
    unknown = sorted(set(given) - set(_DEFAULTS))
    if unknown:
        raise ValueError(f"unknown field `{unknown[0]}`")
    sampling = {name: default if given.get(name) is None else given[name] for name, default in _DEFAULTS.items()}
    if isinstance(sampling["stop"], str):
        sampling["stop"] = (sampling["stop"],)
    in_range = (
        sampling["max_new_tokens"] >= 0
        and sampling["temperature"] >= 0
        and 0 < sampling["top_p"] <= 1
        and (sampling["top_k"] == -1 or sampling["top_k"] >= 1)
    )
    if not in_range:
        raise ValueError(f"out of range: {sampling}")
    return sampling
