"""Tests of others are refused in one short line."""

from __future__ import annotations

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.programs.tests import read_tests


@pytest.mark.parametrize("metadata", [{}, {"tests": "[1"}, {"tests": "x" * 90_000}])
def test_a_long_odd_id_is_shown_as_text(metadata: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="problem") as refused:
        read_tests(Problem("\x1b[2J" + "x" * 90_000, "q", (1,), None, metadata))
    assert len(str(refused.value)) < 1000
    assert str(refused.value).isprintable()
