"""`aspo check`: what a row is held to, and that a wrong norm is felt; its default layouts and their names."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_megatron.check.comparison import (
    BUILT_IN,
    CheckedLayout,
    CheckResult,
    Tolerances,
    compare,
    layout_text,
    layouts_for,
    make_built_in,
    parse_layout,
    read_result,
)
from aspo_megatron.check.main import CheckSpec, check_layout
from aspo_megatron.config import ParallelConfig
from aspo_megatron.models.family import read_family
from aspo_megatron.plan.layouts import candidates
from distributed import Ranks

WANT = CheckResult(
    loss=[0.25, 0.125],
    grad_norm=[4.0, 3.0],
    gradients={"first": torch.tensor([1.0, -2.0]), "unused": torch.zeros(2)},
    weights={"first": torch.tensor([0.5, 0.5]), "unused": torch.ones(2)},
)


def changed(name: str, tensor: list[float], of: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return of | {name: torch.tensor(tensor)}


@pytest.mark.parametrize(
    ("difference", "failed"),
    [
        ({}, ()),
        ({"loss": [0.25 * (1 + 5e-6), 0.125]}, ()),
        ({"loss": [0.25 * (1 + 2e-5), 0.125]}, ("loss",)),
        ({"loss": [0.25, 0.126]}, ("loss",)),
        ({"loss": [math.nan, 0.125]}, ("loss",)),
        ({"grad_norm": [4.0 * (1 + 5e-6), 3.0]}, ()),
        ({"grad_norm": [4.0 * (1 + 2e-5), 3.0]}, ("grad norm",)),
        ({"grad_norm": [4.0, 2.999]}, ("grad norm",)),
        ({"grad_norm": [4.0, math.inf]}, ("grad norm",)),
        ({"loss": [0.3, 0.125], "grad_norm": [5.0, 3.0]}, ("loss", "grad norm")),
        ({"gradients": changed("first", [1.0, -2.001], WANT.gradients)}, ("gradients",)),
        ({"gradients": changed("first", [math.nan, -2.0], WANT.gradients)}, ("gradients",)),
        ({"gradients": changed("unused", [0.0, 1e-9], WANT.gradients)}, ("gradients",)),
        ({"gradients": {"first": WANT.gradients["first"]}}, ("gradients",)),
        ({"weights": changed("first", [0.5, 0.50001], WANT.weights)}, ("weights",)),
        ({"weights": changed("first", [math.nan, 0.5], WANT.weights)}, ("weights",)),
    ],
)
def test_every_figure_is_held(difference: dict[str, Any], failed: tuple[str, ...]) -> None:
    row = compare("tp=2", replace(WANT, **difference), WANT, Tolerances())
    assert row.failed == failed
    assert row.passed == (not failed)


def test_hugging_face_has_one_update_and_no_weights() -> None:
    once = replace(WANT, loss=WANT.loss[:1], grad_norm=WANT.grad_norm[:1], weights={})
    row = compare("hugging face", once, WANT, Tolerances())
    assert (row.passed, row.weight_difference) == (True, None)
    assert compare("hugging face", replace(once, grad_norm=[4.1]), WANT, Tolerances()).failed == ("grad norm",)


def check_with_norm(spec: CheckSpec, factor: float) -> None:
    """A row whose gradient norm is wrong by a factor."""
    from megatron.core.optimizer import optimizer

    right = optimizer.get_grad_norm_fp32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "get_grad_norm_fp32", lambda *args, **options: factor * right(*args, **options))
        check_layout(spec)


@pytest.mark.distributed
@pytest.mark.timeout(120)
def test_a_wrong_norm_is_felt_in_gradients_and_weights(ranks: Ranks, tmp_path: Path) -> None:
    model = make_built_in("qwen3-moe", tmp_path / "built-in")

    def row(factor: float) -> CheckResult:
        result = tmp_path / f"{factor}.safetensors"
        common = str(tmp_path / "common.safetensors")
        parallel = ParallelConfig().model_dump()
        spec = CheckSpec(str(model), parallel, "none", "aspo", "token-mean", "cpu", common, str(result))
        ranks.run(1, check_with_norm, spec, factor)
        return read_result(result)

    want = row(1.0)
    norm = torch.stack([gradient.norm() for gradient in want.gradients.values()]).norm()
    assert float(norm) == pytest.approx(want.grad_norm[0] / 2, rel=1e-4)  # clipping acts
    assert compare("again", row(1.0 + 1e-9), want, Tolerances()).passed
    wrong = compare("wrong", row(1.05), want, Tolerances())
    assert wrong.failed == ("loss", "grad norm", "gradients", "weights")  # the loss after the first update


@pytest.mark.parametrize("name", BUILT_IN)
def test_default_layouts_are_those_of_the_plan(name: str, tmp_path: Path) -> None:
    family = read_family(make_built_in(name, tmp_path / "built-in"))
    texts = layouts_for(family, 4)
    layouts = [parse_layout(text) for text in texts]
    planned = [CheckedLayout(parallel) for ranks in (2, 4) for parallel in candidates(family, ranks)]
    assert layouts[: len(planned)] == planned
    assert len(set(layouts)) == len(layouts)
    assert [layout_text(layout) for layout in layouts] == texts
    assert {parse_layout(text).parallel.world_size for text in layouts_for(family, 2)} == {2}
