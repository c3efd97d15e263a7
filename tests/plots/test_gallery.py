"""The picture of the losses: its numbers, and that it is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aspo_megatron import losses
from aspo_megatron.plots import loss_gallery
from aspo_megatron.plots.loss_gallery import draw_gallery, gallery_figure, gradient_weights

RATIOS = torch.tensor([0.1, 0.5, 1.0, 2.0, 10.0], dtype=torch.float64)


def test_weights_of_known_losses() -> None:
    assert gradient_weights("aspo", RATIOS, 1.0).tolist() == pytest.approx([3, 2, 1, 0, 0])
    assert gradient_weights("aspo", RATIOS, -1.0).tolist() == pytest.approx([0, 0, 1, 2, 3])
    assert gradient_weights("grpo", RATIOS, 2.5).tolist() == pytest.approx([0.1, 0.5, 1, 0, 0])


def test_weights_of_losses_that_look_at_probabilities() -> None:
    """pi_old is 0.1: |pi - pi_old| = 0.1 at r = 2, and at r = 5 it is 0.4, above any delta. No pi is above 1."""
    assert gradient_weights("dppo-tv", torch.tensor([2.9, 3.1], dtype=torch.float64), 1.0).tolist() == [
        pytest.approx(2.9),
        0.0,
    ]
    assert gradient_weights("cppo", torch.tensor([2.4, 2.6], dtype=torch.float64), 1.0).tolist() == [
        pytest.approx(2.4),
        0.0,
    ]
    assert gradient_weights("drpo", RATIOS, 1.0).tolist() == pytest.approx(
        [ratio * (1 - (ratio - 1) * 0.1 / 12.5) for ratio in RATIOS.tolist()]
    )
    far = torch.tensor([10.0, 1000.0], dtype=torch.float64)
    assert gradient_weights("grpo", far, -1.0).tolist() == pytest.approx([10, 10])


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_has_finite_weights(name: str) -> None:
    for advantage in (-1.0, 1.0):
        assert gradient_weights(name, RATIOS, advantage).isfinite().all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_weight_below_zero_is_in_the_picture(monkeypatch: pytest.MonkeyPatch, sign: float) -> None:
    """A loss of the wrong sign must not look like one without weights."""
    monkeypatch.setattr(loss_gallery, "gradient_weights", lambda name, ratios, advantage: sign * ratios)
    (panel,) = gallery_figure(["grpo"]).axes
    low, high = panel.get_ylim()
    assert (low, high) == ((-0.2, 6.0) if sign > 0 else (-6.0, 6.0))


def test_every_panel_has_the_lines_of_both_signs() -> None:
    panels = gallery_figure(losses.names()).axes
    titles = [panel.get_title() for panel in panels]
    assert titles[: len(losses.names())] == list(losses.names())
    for panel, name in zip(panels, losses.names(), strict=False):
        lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in panel.lines}
        for advantage, label in ((1.0, "A > 0"), (-1.0, "A < 0")):
            expected = gradient_weights(name, loss_gallery.picture_ratios(), advantage)
            assert lines[label].tolist() == expected.tolist()


def test_the_picture_is_written(tmp_path: Path) -> None:
    draw_gallery(tmp_path / "docs" / "losses.png")
    assert (tmp_path / "docs" / "losses.png").read_bytes().startswith(b"\x89PNG")
