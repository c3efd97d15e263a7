"""What a user's function may give as a reward: any one number, of whichever library, and nothing else."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sympy
import torch

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.numbers import as_number
from aspo_megatron.rewards.scorers import build
from aspo_megatron.rewards.workers.pool import RewardPool

PROBLEM = Problem("p-0", "?", (1,))
HALVES = [
    0.5, Decimal("0.5"), Fraction(1, 2), np.float16(0.5), np.float64(0.5), np.array(0.5), np.array([[0.5]]),
    np.array(Decimal("0.5")), torch.tensor(0.5), torch.tensor([0.5], dtype=torch.bfloat16), sympy.Rational(1, 2),
    torch.tensor(0.5, requires_grad=True),
]  # fmt: skip
ONES = [
    1,
    True,
    np.True_,
    np.int8(1),
    np.array(True),
    torch.tensor(True),
    torch.tensor([[1]]),
    np.array([1], dtype="O"),
]
NONE = [
    None, "1", b"1", np.str_("1"), np.array("1"), float("nan"), np.nan, float("inf"), Decimal("NaN"), Decimal("sNaN"),
    10**400, 1j, np.complex64(1), torch.tensor(1j), [1.0], (1.0,), {"score": 1.0}, np.array([1.0, 2.0]), np.array([]),
    torch.tensor([1.0, 2.0]), torch.tensor(float("nan")), torch.empty(1, device="meta"), float, np.float64, object(),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "number"),
    [*((v, 0.5) for v in HALVES), *((v, 1.0) for v in ONES), *((v, None) for v in NONE)],
    ids=lambda value: type(value).__name__,
)
def test_as_number(value, number):
    found = as_number(value)
    assert found == number
    assert found is None or type(found) is float


MODULE = """
from decimal import Decimal
from fractions import Fraction

import numpy as np

VALUES = {
    "truth": np.True_, "array": np.array([0.5]), "decimal": Decimal("0.25"), "fraction": Fraction(1, 8),
    "text": "0.5", "none": None, "several": np.arange(10000.0), "complex": np.complex128(1), "nan": np.array(np.nan),
    "lines": type("A", (), {"__repr__": lambda self: "a" + chr(10) + "b"})(),
}

def give(problem, response):
    return VALUES[response]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "number_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "number_rewards:give"


def test_workers_take_them(module):
    with RewardPool(RewardConfig(kind=module, workers=1)) as pool:
        given = ["truth", "array", "decimal", "fraction"]
        assert [reward.value for reward in pool.score((PROBLEM, name) for name in given)] == [1.0, 0.5, 0.25, 0.125]
        refused = pool.score((PROBLEM, name) for name in ["text", "none", "several", "complex", "nan", "lines"])
    for reward, shown in zip(
        refused, ["'0.5'", "None", "array([", "np.complex128(1+0j)", "array(nan)", "a b"], strict=True
    ):
        assert reward.value == 0.0
        assert reward.error is not None
        assert f"reward '{module}' gave {shown}" in reward.error
        assert "for problem p-0; it must give a finite number" in reward.error
        assert len(reward.error) < 300


def test_so_do_parts_of_a_mixture(module):
    part = {"kind": module, "weight": 2.0}
    scored = build(RewardConfig.model_validate({"kind": "mixture", "components": {"a": part}}))(PROBLEM, "truth")
    assert (scored.value, dict(scored.parts)) == (2.0, {"a": 1.0})
