"""The picture of the losses: its numbers, and that it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from aspo_megatron import losses
from aspo_megatron.plots import loss_gallery
from aspo_megatron.plots.loss_gallery import draw_gallery, gradient_weights

RATIOS = torch.tensor([0.1, 0.5, 1.0, 2.0, 10.0], dtype=torch.float64)


def test_weights_of_known_losses() -> None:
    assert gradient_weights("aspo", RATIOS, 1.0).tolist() == pytest.approx([3, 2, 1, 0, 0])
    assert gradient_weights("aspo", RATIOS, -1.0).tolist() == pytest.approx([0, 0, 1, 2, 3])
    assert gradient_weights("grpo", RATIOS, 2.5).tolist() == pytest.approx([0.1, 0.5, 1, 0, 0])


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_has_finite_weights(name: str) -> None:
    for advantage in (-1.0, 1.0):
        assert gradient_weights(name, RATIOS, advantage).isfinite().all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_weight_below_zero_is_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: float) -> None:
    """A loss of the wrong sign must not look like one without weights."""
    monkeypatch.setattr(loss_gallery, "gradient_weights", lambda name, ratios, advantage: sign * ratios)
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *rest, **options: drawn.append(figure))
    loss_gallery.draw_gallery(tmp_path / "losses.png", ["grpo"])
    (panel,) = drawn[0].axes
    low, high = panel.get_ylim()
    assert (low, high) == ((-0.2, 6.0) if sign > 0 else (-6.0, 6.0))


def test_the_picture_is_written(tmp_path: Path) -> None:
    draw_gallery(tmp_path / "docs" / "losses.png")
    assert (tmp_path / "docs" / "losses.png").read_bytes().startswith(b"\x89PNG")
