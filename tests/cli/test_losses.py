"""`aspo losses`: the list, all about one, and pictures."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aspo_megatron import losses
from aspo_megatron.cli.app import app

OWN = '''
from aspo_megatron.losses import Loss, LossInput, LossOutput
from aspo_megatron.losses.aspo import Aspo


class Mine(Loss):
    """Weight 1\x1b[31m everywhere.

    Goes on
    here. Bad tokens: none.

        a drawing
          of it
    """

    formula = "w = 1"
    source = "my\\tthesis"
    token_wise = True

    def compute(self, inputs: LossInput) -> LossOutput:
        return LossOutput(-inputs.advantages * inputs.log_probs)


class Needy(Mine):
    scale: float


class Derived(Aspo):
    """Does other things."""
'''


def shown(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["losses", *words])
    assert (0 if done.exit_code == 0 else 1) == code, done.output
    return done


@pytest.fixture
def own_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses_of_mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()


def test_the_list_has_a_line_for_each_and_says_how_to_see_one() -> None:
    lines = shown().stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if not line.startswith((" ", "`"))] == list(losses.names())
    assert "    loss.dual_clip = null  Negative tokens with r above this get no gradient; null: all do." in lines
    assert lines[-1] == "`aspo losses NAME` shows the formula, the source and a picture of one"


def test_all_about_one() -> None:
    text = shown("dppo-kl").stdout
    loss = losses.get("dppo-kl")
    for line in loss.formula.splitlines():
        assert f"\n    {line}\n" in text
    assert f"\nSource: {loss.source}\n" in text
    for label in ("Settings of its source: ", "Sources disagree: ", "Denominator: ", "Bad tokens: "):
        assert f"\n\n{label}" in text
    assert "\n    loss.delta = 0.05  Outward tokens with a KL above it get none.\n" in text


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("aspo", {"A > 0": "3 2 1.11 1 0.909 0 0", "A < 0": "0 0 0.9 1 1.1 2 3"}),
        ("grpo-without-is", {"A > 0": "1 1 1 1 1 1 1", "A < 0": "1 1 1 1 1 1 1"}),
        ("dppo-tv", {"A > 0": "0.1 0.5 0.9 1 1.1 2 0", "A < 0": "0.1 0.5 0.9 1 1.1 2 5"}),  # |pi - pi_old| = 0.4 at 5
    ],
)
def test_the_picture_has_a_line_and_numbers_for_each_sign(name: str, numbers: dict[str, str]) -> None:
    lines = shown(name).stdout.splitlines()
    for sign, expected in numbers.items():
        curve, weights = (line.removeprefix(f"  {sign} ") for line in lines if line.startswith(f"  {sign} "))
        assert len(curve) == 72
        assert set(curve) <= set("▁▂▃▄▅▆▇█")
        assert weights.split() == expected.split()


def test_the_axis_stands_below_its_ratios() -> None:
    """The weight of `grpo` for A > 0 is 0 above 1.2: the curve falls right of the middle of "1", left of "2"."""
    lines = shown("grpo").stdout.splitlines()
    curve = next(line for line in lines if line.startswith("  A > 0 ▁"))
    axis = lines[lines.index(curve) + 2]
    end = len(curve.rstrip("▁"))
    assert axis.index(" 1 ") + 1 <= end < axis.index(" 2 ") + 1


@pytest.mark.usefixtures("own_losses")
def test_one_of_your_own() -> None:
    text = shown("losses_of_mine:Mine").stdout
    assert text.startswith("losses_of_mine:Mine: Weight 1\N{SYMBOL FOR ESCAPE}[31m everywhere.\n")
    assert "\n    w = 1\n" in text
    assert "\nSource: my\N{SYMBOL FOR HORIZONTAL TABULATION}thesis\n" in text
    assert "\n\nGoes on here.\n\nBad tokens: none.\n\n    a drawing\n      of it\n" in text
    assert text.count("\n  A > 0 ") == 2


@pytest.mark.usefixtures("own_losses")
def test_a_derived_loss_has_not_the_formula_of_the_other() -> None:
    text = shown("losses_of_mine:Derived").stdout
    assert "formula" not in text
    assert "Source:" not in text
    assert text.count("\n  A > 0 ") == 2


@pytest.mark.usefixtures("own_losses")
def test_a_loss_that_needs_a_value_has_no_picture() -> None:
    text = shown("losses_of_mine:Needy").stdout
    assert "\n    loss.scale = (required)\n" in text
    assert text.endswith("no picture: loss.scale has no default\n")


def test_a_picture_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "up.png"
    text = shown("up", "--picture", str(file)).stdout
    assert text.endswith(f"picture: {file}\n")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    done = shown("up", "--picture", str(tmp_path / "up.doc"), code=1)
    assert "up.doc: " in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_there_is_refused() -> None:
    assert "nearest is 'cispo'" in str(shown("cisp", code=1).exception)
