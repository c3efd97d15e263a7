"""The examples of docs/extending.md, taken from the page and run; and the numbers in docs/concepts.md."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from e2e.command import SETTINGS, RunFolder, aspo
from parallel import layouts
from typer.testing import CliRunner

from aspo_megatron import losses
from aspo_megatron.cli.app import app
from aspo_megatron.config import LossConfig, RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.losses import base
from aspo_megatron.losses.gradient_weight import gradient_weights
from aspo_megatron.models.families import qwen2
from aspo_megatron.plots import loss_gallery
from aspo_megatron.rewards import scorers

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


def block(language: str, words: str) -> str:
    """The one fenced block with these words in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (found,) = (text for text in blocks if words in text)
    return found


@pytest.fixture
def ratio_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's loss as a module, registered until the test ends."""
    monkeypatch.setattr(base, "_LOSSES", dict(base.registered()))
    path = tmp_path / "ratio_power.py"
    path.write_text(block("python", "class RatioPower"))
    spec = importlib.util.spec_from_file_location("aspo_megatron.losses.ratio_power", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("power", "cap"), [(0.5, 3.0), (1.0, 1.5), (0.1, 1.05)])
def test_the_loss_against_its_formula(ratio_power: ModuleType, power: float, cap: float) -> None:
    generator = torch.Generator().manual_seed(3)
    old, noise, advantages = (torch.randn(200, generator=generator, dtype=torch.float64) for _ in range(3))
    log_probs = (old - 2 + noise).requires_grad_()
    old = old - 2
    mask = torch.rand(200, generator=generator) < 0.9
    loss = losses.build("ratio-power", {"power": power, "cap": cap})
    output = loss(
        log_probs, old, advantages, mask, entropy=torch.ones_like(old), cu_seqlens=torch.tensor([0, 50, 50, 200])
    )
    (gradient,) = torch.autograd.grad(output.per_token.sum(), log_probs)
    weight = torch.minimum((log_probs.detach().exp() / old.exp()) ** power, torch.tensor(cap, dtype=torch.float64))
    expected = torch.where(mask, -advantages * weight, 0.0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.per_token.detach(), expected, rtol=1e-12, atol=1e-12)
    assert 0 < output.stats["clip/dual"].values.mean() < 1
    assert set(output.stats) == set(
        losses.build("aspo", {})(
            log_probs, old, advantages, mask, entropy=torch.ones_like(old), cu_seqlens=torch.tensor([0, 200])
        ).stats
    )


def test_the_loss_keeps_what_every_loss_must(ratio_power: ModuleType) -> None:
    loss = losses.get("ratio-power")
    assert loss is ratio_power.RatioPower
    assert "Denominator" in str(loss.__doc__)
    assert "Bad tokens" in str(loss.__doc__)
    assert all(field.description for field in loss.model_fields.values())
    log_ratios = torch.tensor([0.0, 0.0, torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    settings = LossConfig.model_validate({"name": "ratio-power", "power": 0.5})
    for advantage in (1.0, -2.0):
        weights = gradient_weights(
            losses.build(settings.name, settings.hyperparameters),
            log_ratios,
            torch.zeros(5, dtype=torch.float64),
            torch.full((5,), advantage, dtype=torch.float64),
            torch.tensor([True] * 4 + [False]),
            torch.zeros(5, dtype=torch.float64),
            torch.tensor([0, 2, 5]),
        )
        assert weights[:3].tolist() == [1.0, 1.0, 3.0]
        assert weights[4] == 0.0
    with pytest.raises(ConfigError, match=r"loss\.pwer: unknown key; the nearest is 'power'"):
        losses.build("ratio-power", {"pwer": 1.0})


def test_the_loss_is_gone_after_its_tests() -> None:
    assert "ratio-power" not in losses.names()


@pytest.fixture
def losses_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that holds the page's own loss, as the current one."""
    (tmp_path / "my_losses.py").write_text(block("python", "my_losses.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("my_losses", None)


OWN_LOSS = yaml.safe_load(block("yaml", "my_losses"))["loss"]


@pytest.mark.usefixtures("losses_folder")
def test_the_loss_of_ones_own_against_its_words() -> None:
    settings = LossConfig.model_validate_json(json.dumps(OWN_LOSS), strict=True)
    assert settings.hyperparameters == {"cap": 2.0}
    log_ratios = torch.tensor([0.0, -1.0, 1.0, 0.0, -1.0, 1.0], dtype=torch.float64)
    weights = gradient_weights(
        losses.build(settings.name, settings.hyperparameters),
        log_ratios,
        torch.zeros(6, dtype=torch.float64),
        torch.tensor([1.5] * 3 + [-1.5] * 3, dtype=torch.float64),
        torch.ones(6, dtype=torch.bool),
        torch.zeros(6, dtype=torch.float64),
        torch.tensor([0, 3, 6]),
    )
    assert weights.tolist() == pytest.approx([1, 1, 1, 1, math.exp(-1), 2.0])
    with pytest.raises(ConfigError, match=r"loss\.cpa: unknown key; the nearest is 'cap'"):
        losses.build(settings.name, {"cpa": 1.0})


@pytest.mark.usefixtures("losses_folder")
def test_the_loss_of_ones_own_is_drawn(tmp_path: Path) -> None:
    loss_gallery.draw_gallery(tmp_path / "mine.png", [OWN_LOSS["name"]])
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.e2e
@pytest.mark.distributed
def test_the_loss_of_ones_own_trains_on_two_ranks(losses_folder: Path) -> None:
    (losses_folder / "small.yaml").write_text(SETTINGS)
    overrides = ["train.steps=1", "eval={every: 0, max_problems: 2}", "parallel.tp=2"]
    loss = [f"loss.{key}={value}" for key, value in OWN_LOSS.items()]
    done = aspo("train", "small.yaml", "output_dir=run", *overrides, *loss, folder=losses_folder)
    assert (done.code, done.stderr) == (0, "")
    metrics = RunFolder(losses_folder / "run").step(1)
    assert 0 < metrics["tapered/weight"] <= 2.0
    assert math.isfinite(metrics["loss/policy"])


@pytest.mark.usefixtures("losses_folder")
def test_the_loss_of_ones_own_is_shown() -> None:
    shown = CliRunner().invoke(app, ["losses", OWN_LOSS["name"]])
    lines = shown.stdout.splitlines()
    assert lines[:2] == [
        "my_losses:TaperedReinforce: A positive token weighs 1, a negative one its ratio, at most `cap`.",
        "    loss.cap = 1.0  A negative token weighs at most this.",
    ]
    numbers = [line.split()[3:] for line in lines[-4:]]  # of r, of A > 0, of A < 0
    assert numbers[1:3] == [["1"] * 7, ["0.1", "0.5", "0.9", "1", "1", "1", "1"]]


@pytest.fixture
def rewards_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_rewards.py").write_text(block("python", "my_rewards.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("my_rewards", None)


@pytest.mark.usefixtures("rewards_module")
def test_the_reward_scores_texts() -> None:
    settings = yaml.safe_load(block("yaml", "my_rewards"))["reward"]
    config = RewardConfig.model_validate_json(json.dumps(settings), strict=True)
    scorers.check(config, [Problem("p-0", "3 + 4?", (1,), "7")])
    score = scorers.build(config)
    texts = ["<answer> 7\n</answer>", "<answer>8</answer> no, <answer>7</answer>", "<answer>8</answer>", "7", ""]
    assert [score(Problem("p-0", "3 + 4?", (1,), "7"), text).value for text in texts] == [1.0, 1.0, 0.2, 0.0, 0.0]
    assert score(Problem("p-1", "?", (1,)), "<answer>7</answer>").value == 0.2
    with pytest.raises(ConfigError, match="is called with"):
        scorers.check(config.model_copy(update={"options": {"tags": "a"}}))


def test_the_family_is_the_one_in_the_package() -> None:
    assert block("python", "Architecture(") == Path(str(qwen2.__file__)).read_text(encoding="utf-8")


def test_the_benchmark_row_is_one() -> None:
    from aspo_megatron.evaluation.benchmarks import Benchmark

    rows = eval("{" + block("python", "Benchmark(") + "}", {"Benchmark": Benchmark})
    assert rows["aime26"].samples == 64
    assert rows["aime26"].kind == "math"


def test_the_layout_is_a_row_of_its_own() -> None:
    rows = eval("{" + block("python", "overlap_grad_reduce") + "}", {"layout": layouts.layout})
    (row,) = rows.values()
    assert row.parallel.world_size == 4
    assert row not in layouts.LAYOUTS.values()
    assert row.single in layouts.LAYOUTS


def test_the_names_it_refers_to_are_there() -> None:
    root = Path(__file__).parents[2]
    for place in re.findall(r"`((?:tests|losses|models|parallel|plan|rewards)/[\w/]+\.py)", PAGE):
        there = any((folder / place).is_file() for folder in (root, root / "aspo_megatron"))
        assert there or place == "models/families/NAME.py", place
    for place, name in re.findall(r"`([\w/]+\.py): (\w+)`", PAGE):
        assert name in (root / "aspo_megatron" / place.removeprefix("aspo_megatron/")).read_text(encoding="utf-8"), name


def test_the_weights_in_concepts_are_those_of_the_losses() -> None:
    page = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (?:r \||A [<>]).*$", page, flags=re.MULTILINE)
    ratios, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    numbers = torch.tensor([float(ratio) for ratio in ratios[1:]], dtype=torch.float64)
    assert [row[0] for row in rows] == ["A > 0, GRPO", "A > 0, ASPO", "A < 0, GRPO", "A < 0, ASPO"]
    for name, *weights in rows:
        found = loss_gallery.gradient_weights(name.partition(", ")[2].lower(), numbers, 1.0 if ">" in name else -1.0)
        assert found.tolist() == pytest.approx([float(weight) for weight in weights], abs=0.006)
