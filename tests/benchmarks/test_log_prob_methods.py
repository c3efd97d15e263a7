"""The methods that a PyTorch without some of them is measured with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.log_prob_methods import methods


def test_a_method_that_pytorch_lacks_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(nn.functional, "linear_cross_entropy", raising=False)  # before 2.13
    found, missing = methods(torch.device("cpu"), triton=False)
    assert "linear_cross_entropy" not in found
    assert missing["linear_cross_entropy"] == "PyTorch has it from 2.13 on"
    assert "log_softmax" in found
