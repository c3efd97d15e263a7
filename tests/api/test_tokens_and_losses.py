"""`token_log_probs` against `log_softmax`, with gradients; what is refused; what importing the interface costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aspo_megatron import api, losses
from aspo_megatron.api import token_log_probs, tokens


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk", [None, 3])
def test_log_probs_entropy_and_gradients_are_those_of_log_softmax(dtype: torch.dtype, chunk: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 5, 8, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(37, 8, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(33, (2, 5), generator=generator)
    upstream = torch.randn(2, 2, 5, generator=generator, dtype=dtype)
    found = token_log_probs(hidden, weight, targets, temperature=0.7, vocab_size=33, chunk=chunk)
    every = (hidden @ weight[:33].T / 0.7).log_softmax(dim=-1)
    expected = every.gather(2, targets[..., None]).squeeze(2), -(every.exp() * every).sum(-1)
    exact = 1e-12 if dtype == torch.float64 else 1e-5
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=exact, atol=exact)
    gradients = [
        torch.autograd.grad((torch.stack(pair) * upstream).sum(), (hidden, weight)) for pair in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=exact, atol=exact)


GOOD: dict[str, Any] = {"hidden": torch.zeros(3, 4), "weight": torch.zeros(9, 4), "targets": torch.zeros(3).long()}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"weight": torch.zeros(9, 5)}, "hidden of shape [3, 4] and weight of shape [9, 5]: must be"),
        ({"weight": torch.zeros(0, 4)}, "weight of shape [0, 4]: must be"),
        ({"targets": torch.zeros(2).long()}, "targets of shape [2]: must have that of hidden, [3]"),
        ({"targets": torch.zeros(3)}, "targets of torch.float32: must be int64"),
        ({"targets": torch.tensor([0, 9, 0])}, "target 9 at position 1 is not in 0..8"),
        ({"weight": torch.zeros(9, 4).double()}, "weight of torch.float64: must be of one dtype"),
        ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
        ({"vocab_size": 10}, "vocab_size=10: weight has 9 rows on each of 1 ranks"),
        ({"chunk": 0}, "chunk=0: must be at least 1"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_tensors_that_do_not_fit_are_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"must|target|rows") as refused:
        token_log_probs(**(GOOD | wrong))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


COST = """
import sys
import aspo_megatron.api
assert not {"torch", "numpy", "pydantic"} & set(sys.modules)
from aspo_megatron.api import ConfigError, load_config, token_log_probs
hidden, weight = (__import__("torch").ones(n, 4) for n in (3, 9))
found, _ = token_log_probs(hidden, weight, __import__("torch").arange(3))
assert abs(float(found.exp().sum()) - 3 / 9) < 1e-6
assert not any(name.split(".")[0] in ("megatron", "transformers", "typer") for name in sys.modules)
"""


def test_importing_it_is_cheap_and_log_probs_need_no_megatron() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", COST], check=True)


def test_every_public_name_is_there_and_no_other() -> None:
    assert dir(api) == sorted(api.__all__)
    assert {name for name in api.__all__ if getattr(api, name) is None} == set()
    assert api.losses is losses
    assert api.Loss is losses.Loss
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        getattr(api, "trane")  # noqa: B009


@pytest.mark.parametrize("there", [True, False])
def test_log_probs_on_a_gpu_are_worked_on_by_triton_where_it_is(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values stand in for those on a GPU."""
    monkeypatch.setattr(tokens, "has_triton", lambda: there)
    hidden, weight = (
        torch.empty(rows, 16, dtype=torch.bfloat16, device="meta", requires_grad=True) for rows in (6, 100)
    )
    with Operations() as seen:
        log_probs, _ = token_log_probs(hidden, weight, torch.empty(6, dtype=torch.int64, device="meta"), chunk=4)
        log_probs.sum().backward()
    assert ("aspo_megatron.log_prob_sums.default" in seen.names) == there
    assert ("aspo_megatron.log_prob_gradient.default" in seen.names) == there


class Operations(TorchDispatchMode):
    """The names of those that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))
