"""Cases of a test that are more of the same: `make test` takes some of them, `make test-thorough` all."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def some_of(cases: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """The cases as parameters of a test, in their order; those that are not `kept` are marked `thorough`.

    Raises:
        ValueError: `kept` has what is no case, or is empty.
    """
    cases = list(cases)
    if not kept or any(case not in cases for case in kept):
        raise ValueError(f"not among the cases: {[case for case in kept if case not in cases]}")
    return [case if case in kept else _marked(case) for case in cases]


def one_in(step: int, cases: Iterable[Any], first: int = 0) -> list[Any]:
    """The cases as parameters of a test; those but every `step`-th from number `first` on are marked `thorough`."""
    cases = list(cases)
    return some_of(cases, cases[first::step])


def _marked(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough)
