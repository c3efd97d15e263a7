"""A loss of the user's own, by import path: what it is refused for, in one line, before a run depends on it."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch

from aspo_megatron import losses
from aspo_megatron.errors import ConfigError
from aspo_megatron.losses import Loss, LossInput, LossOutput, Stat

MODULE = """
import torch
from typing import Literal
from aspo_megatron.losses import Loss, LossInput, LossOutput, Stat
from aspo_megatron.losses.responses import response_mean

number = 3

def function(inputs):
    return LossOutput(-inputs.advantages * inputs.log_probs)

class NoLoss:
    pass

class Reinforce(Loss):
    power: float = 1.0
    kind: Literal["a", "b"] = "a"
    parts: tuple[int, ...] = ()
    def compute(self, inputs):
        return LossOutput(-self.power * inputs.advantages * inputs.log_probs)

class Unfinished(Loss):
    pass

class InTheOldWay(Loss):
    def __call__(self, log_probs, old_log_probs, advantages, mask, *, entropy, cu_seqlens): ...

class NoDefault(Reinforce):
    width: float

class OfEveryLoss(Reinforce):
    kl_coef: float = 0.1

class NotDefined(Reinforce):
    width: "Nowhere" = 1

class Raises(Loss):
    def compute(self, inputs):
        raise KeyError("two\\nlines")

class Selects(Reinforce):
    selects = True
    token_wise = True
    def compute(self, inputs):
        return LossOutput((-inputs.advantages * inputs.log_probs).masked_fill(inputs.selected, 0.0))
    def select(self, tokens):
        return tokens.advantages > 0

class SelectsInVain(Reinforce):
    def select(self, tokens):
        return tokens.advantages > 0

class SelectsNumbers(Selects):
    def select(self, tokens):
        return tokens.advantages

class SelectsOne(Selects):
    def select(self, tokens):
        return tokens.advantages[:1] > 0

class SelectsATensor(Selects):
    def select(self, tokens):
        return torch.tensor([True])

class GivesATensor(Loss):
    def compute(self, inputs):
        return inputs.log_probs

class GivesAMean(Loss):
    def compute(self, inputs):
        return LossOutput(inputs.log_probs.mean())

class GivesARow(Loss):
    def compute(self, inputs):
        return LossOutput(inputs.log_probs[None])

class GivesWords(Loss):
    def compute(self, inputs):
        return LossOutput("0.5")

class GivesHalves(Loss):
    def compute(self, inputs):
        return LossOutput(inputs.log_probs.bfloat16())

class GivesElsewhere(Loss):
    def compute(self, inputs):
        return LossOutput(inputs.log_probs.to("meta"))

class GivesAMeanOfMany(Loss):
    def compute(self, inputs):
        many = len(inputs.log_probs) > 5
        return LossOutput(inputs.log_probs.mean() if many else inputs.log_probs * 1.0)

class GivesAListOfStats(Loss):
    def compute(self, inputs: LossInput) -> LossOutput:
        return LossOutput(inputs.log_probs * 1.0, [1])


class GivesAnOddStat(Loss):
    def compute(self, inputs):
        return LossOutput(inputs.log_probs, {"mine": Stat(inputs.log_probs.mean(), inputs.mask)})

class Detached(Loss):
    def compute(self, inputs):
        return LossOutput(inputs.log_probs.detach())

class Changes(Loss):
    token_wise = True
    def compute(self, inputs):
        return LossOutput(-inputs.advantages.mul_(2) * inputs.log_probs)

class OfOthers(Loss):
    def compute(self, inputs):
        return LossOutput(-inputs.old_log_probs.clone().requires_grad_())

class NotFinite(Loss):
    def compute(self, inputs):
        return LossOutput(inputs.log_probs.log())

class InWords(Reinforce):
    token_wise = "no"

class NotTokenWise(Loss):
    token_wise = True
    def compute(self, inputs):
        mean = response_mean(inputs.log_probs, inputs.mask, inputs.cu_seqlens)
        return LossOutput(-inputs.advantages * mean)

class OfAResponse(NotTokenWise):
    token_wise = False
"""
BROKEN = {
    "missing": "import no_such_module_anywhere",
    "syntax": "def (:",
    "raises": "raise RuntimeError('two\\nlines')",
    "exits": "import sys; sys.exit(1)",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "losses_of_mine.py").write_text(MODULE)
    (tmp_path / "losses_that_move.py").write_text("import os; os.chdir('/')\n" + MODULE)
    for name, code in BROKEN.items():
        (tmp_path / f"losses_broken_{name}.py").write_text(code)
    (tmp_path / "losses_in_a_folder").mkdir()
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def test_it_is_found_in_the_current_folder() -> None:
    loss = losses.build("losses_of_mine:Reinforce", {"power": 2, "kind": "b", "parts": [1, 2]})
    assert isinstance(loss, Loss)
    assert not loss.token_wise
    assert loss.model_dump() == {"power": 2.0, "kind": "b", "parts": (1, 2)}
    given = torch.tensor([-1.0, -2.0])
    output = loss(given, given, torch.tensor([1.0, -1.0]), given < 0, entropy=given, cu_seqlens=torch.tensor([0, 1, 2]))
    assert output.per_token.tolist() == [2.0, -4.0]
    assert "losses_of_mine:Reinforce" not in losses.names()
    losses.build("losses_of_mine:OfAResponse", {})


def test_a_module_that_goes_elsewhere_takes_nothing_with_it(folder: Path) -> None:
    losses.build("losses_that_move:Reinforce", {})
    assert Path(os.getcwd()) == folder


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module_c:Mine", "cannot import 'no_such_module_c' (ModuleNotFoundError: No module named"),
        ("losses_broken_missing:Mine", "cannot import 'losses_broken_missing' (ModuleNotFoundError: No module named"),
        ("losses_broken_syntax:Mine", "cannot import 'losses_broken_syntax' (SyntaxError"),
        ("losses_broken_raises:Mine", "cannot import 'losses_broken_raises' (RuntimeError: two lines)"),
        ("losses_broken_exits:Mine", "cannot import 'losses_broken_exits' (SystemExit: 1)"),
        ("losses_of_mine:", "a loss of your own is package.module:Class"),
        (":Mine", "a loss of your own is package.module:Class"),
        ("losses_of_mine.Reinforce", "one of your own is package.module:Class"),
        ("losses_of_mine:Reinforced", "losses_of_mine.py has no 'Reinforced'; did you mean 'Reinforce'?"),
        ("sys:Reinforced", "the module sys has no 'Reinforced'"),
        ("losses_in_a_folder:Reinforced", "the module losses_in_a_folder has no 'Reinforced'"),
        ("losses_of_mine:InWords", "token_wise is 'no'; set it to True or False"),
        ("losses_of_mine:OfOthers", "its loss has no gradient"),
        ("losses_of_mine:NotFinite", "a trial of it gives [nan, nan, nan, nan, nan], which is not finite"),
        ("losses_of_mine:number", "is not a class that derives from aspo_megatron.losses.Loss"),
        ("losses_of_mine:function", "is not a class that derives from aspo_megatron.losses.Loss"),
        ("losses_of_mine:NoLoss", "is not a class that derives from aspo_megatron.losses.Loss"),
        ("losses_of_mine:Unfinished", "is abstract: it has no method compute"),
        ("losses_of_mine:InTheOldWay", "is abstract: it has no method compute"),
        ("losses_of_mine:NoDefault", "loss.width: give it a value, loss 'losses_of_mine:NoDefault' has no default"),
        ("losses_of_mine:OfEveryLoss", "loss.kl_coef is a key that every loss has; rename its field"),
        ("losses_of_mine:NotDefined", "cannot be made: PydanticUserError: `NotDefined` is not fully defined"),
        ("losses_of_mine:Raises", "a trial of it fails: KeyError: 'two\\nlines'"),
        (
            "losses_of_mine:GivesATensor",
            "compute gives a Tensor; it must give a LossOutput: return LossOutput(per_token), the loss at each token",
        ),
        (
            "losses_of_mine:GivesAMean",
            "per_token must have the shape of log_probs, [tokens]; of 5 tokens it is []: return the loss of each "
            "token; loss.aggregation makes the mean",
        ),
        ("losses_of_mine:GivesARow", "of 5 tokens it is [1, 5]: return the loss of each token"),
        ("losses_of_mine:GivesWords", "of 5 tokens it is str: return the loss of each token"),
        ("losses_of_mine:GivesHalves", "per_token is bfloat16, log_probs are float32; return per_token in the dtype"),
        ("losses_of_mine:GivesElsewhere", "per_token is on meta, log_probs are on cpu; compute there"),
        ("losses_of_mine:GivesAnOddStat", "mine, values must have the shape of log_probs"),
        ("losses_of_mine:GivesAListOfStats", "a trial of it fails: TypeError"),
        ("losses_of_mine:SelectsInVain", "it has a method select, which is asked with selects = True alone"),
        ("losses_of_mine:SelectsNumbers", "select gives float64 [5]; it must give a numpy array of bool, one for each"),
        (
            "losses_of_mine:SelectsOne",
            "select gives bool [1]; it must give a numpy array of bool, one for",
        ),
        ("losses_of_mine:SelectsATensor", "select gives Tensor; it must give a numpy array of bool"),
        ("losses_of_mine:Detached", "its loss has no gradient"),
        ("losses_of_mine:Changes", "it changes advantages in place; compute with a copy"),
        ("losses_of_mine:NotTokenWise", "sets token_wise = True, but the loss of a token depends on the other tokens"),
    ],
)
def test_what_cannot_work(path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        losses.build(path, {})
    message = str(caught.value)
    assert message.startswith(("loss.name", "loss.width"))
    assert words in message
    assert message.isprintable()


def test_one_that_looks_at_the_whole_update() -> None:
    assert losses.build("losses_of_mine:Selects", {}).selects


def test_each_call_is_looked_at() -> None:
    """A run's micro-batches are no trial: what fails there is the same line, on the rank that computes it."""
    loss = losses.build("losses_of_mine:GivesAMeanOfMany", {})
    given = torch.zeros(8)
    with pytest.raises(ConfigError) as caught:
        loss(given, given, given, given == 0, entropy=given, cu_seqlens=torch.tensor([0, 8]))
    assert str(caught.value) == (
        "loss.name: 'losses_of_mine:GivesAMeanOfMany': per_token must have the shape of log_probs, [tokens]; of 8 "
        "tokens it is []: return the loss of each token; loss.aggregation makes the mean"
    )


def test_a_loss_of_the_package_is_looked_at_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that somebody has just added, whose trial is its tests."""
    loss, given = losses.build("grpo", {}), torch.zeros(3)
    monkeypatch.setattr(type(loss), "compute", lambda self, inputs: LossOutput(inputs.log_probs.mean()))
    with pytest.raises(ConfigError, match=r"loss\.name: 'grpo': per_token must have the shape of log_probs"):
        loss(given, given, given, given == 0, entropy=given, cu_seqlens=torch.tensor([0, 3]))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("powr", 1.0, "loss.powr: unknown key; the nearest is 'power'. The hyperparameters of loss 'losses_of_mine:"),
        ("power", True, "loss.power: must be a number, not true"),
        ("power", "0.3", 'loss.power: must be a number, not "0.3"'),
        ("kind", "c", "loss.kind: must be 'a' or 'b', not \"c\""),
    ],
)
def test_its_hyperparameters_are_checked(key: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        losses.build("losses_of_mine:Reinforce", {key: value})
    assert str(caught.value).startswith(words)


def test_what_the_field_calls_a_loss_is_all_that_a_user_needs() -> None:
    assert {Loss, LossInput, LossOutput, Stat} <= {getattr(losses, name) for name in losses.__all__}
