"""Losses by name, and what a wrong name or hyperparameter says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aspo_megatron import losses
from aspo_megatron.errors import ConfigError


def test_names() -> None:
    assert {"aspo", "aspo-released", "grpo"} <= set(losses.names())
    assert list(losses.names()) == sorted(losses.names())
    for name in losses.names():
        assert losses.get(name).name == name


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_is_documented_and_has_defaults(name: str) -> None:
    loss = losses.get(name)
    assert loss.__doc__
    assert "Denominator" in loss.__doc__
    assert "Bad tokens" in loss.__doc__
    assert vars(loss)["formula"], "its own, not that of the loss it derives from"
    assert vars(loss)["source"]
    assert (loss.old_policy == "engine") == ("train.old_log_probs=rollout" in loss.__doc__)
    assert all(field.description for field in loss.model_fields.values())
    assert losses.build(name, {}).model_dump() == loss().model_dump()


def test_every_loss_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "loss.md").read_text(encoding="utf-8")
    of_their_own = re.findall(r"^## .*`loss\.name=([\w-]+)`", page, flags=re.MULTILINE)
    table = page.partition("| `loss.name` |")[2].partition("\n\n")[0]
    described = sorted([*of_their_own, *re.findall(r"^\| `([\w-]+)`", table, flags=re.MULTILINE)])
    assert described == list(losses.names()), "every registered loss has a row in the table of docs/loss.md"


def test_build_takes_hyperparameters() -> None:
    built = losses.build("aspo", {"eps_low": 0.1, "dual_clip": None})
    assert built.model_dump() == {"eps_low": 0.1, "eps_high": 0.2, "dual_clip": None}
    with pytest.raises(ValidationError):
        built.eps_low = 0.3  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "nearest"), [("asop", "aspo"), ("GRPO", "grpo"), ("aspo_released", "aspo-released")])
def test_unknown_loss(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        losses.get(name)
    message = str(caught.value)
    assert message.startswith(f"loss.name={name!r}")
    assert f"nearest is {nearest!r}" in message
    assert ", ".join(losses.names()) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("hyperparameters", "parts"),
    [
        ({"eps_hi": 0.2}, ["loss.eps_hi:", "nearest is 'eps_high'", "eps_low, eps_high, dual_clip"]),
        ({"dual_clp": 3}, ["loss.dual_clp:", "nearest is 'dual_clip'"]),
        ({"kl_coeff": 0.1}, ["loss.kl_coeff:", "nearest is 'kl_coef'"]),
        ({"dual_clip": 0.5}, ["loss.dual_clip: must be greater than 1, not 0.5"]),
        ({"dual_clip": 1.0}, ["loss.dual_clip: must be greater than 1, not 1.0"]),
        ({"dual_clip": float("nan")}, ["loss.dual_clip: must be a finite number, not NaN"]),
        ({"eps_low": "wide"}, ['loss.eps_low: must be a number, not "wide"']),
        ({"eps_low": -0.2}, ["loss.eps_low: must be greater than or equal to 0, not -0.2"]),
        ({"eps_low": 1.5}, ["loss.eps_low: must be less than or equal to 1, not 1.5"]),
        ({"eps_low": None}, ["loss.eps_low: must be a number, not null"]),
        ({"eps_low": True}, ["loss.eps_low: must be a number, not true"]),
        ({"eps_low": "0.3"}, ['loss.eps_low: must be a number, not "0.3"']),
        ({"dual_clip": "null"}, ['loss.dual_clip: must be a number, not "null"']),
        (
            {"eps_low": 2, "eps_hihg": 1},
            ["loss.eps_low: must be less than or equal to 1, not 2", "loss.eps_hihg:", "nearest is 'eps_high'"],
        ),
    ],
)
def test_wrong_hyperparameters(hyperparameters: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        losses.build("aspo", hyperparameters)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_a_whole_number_is_a_number() -> None:
    assert losses.build("aspo", {"eps_low": 1, "dual_clip": 4}).model_dump() == {
        "eps_low": 1.0,
        "eps_high": 0.2,
        "dual_clip": 4.0,
    }


def test_two_losses_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two losses are called 'aspo'"):
        losses.register(losses.get("aspo"))
