"""The page of losses is what their classes say, and whole."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from aspo_megatron import losses
from aspo_megatron.config.corrections import CORRECTION_BOUNDS
from aspo_megatron.config.words import RolloutCorrection
from aspo_megatron.losses.rollout_correction import OF_RESPONSES
from tools import losses_page

TEXT = losses_page.PAGE.read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    """`make docs` makes it anew."""
    assert losses_page.page() == TEXT


def test_every_loss_is_a_section() -> None:
    assert re.findall(r"^## (.+)$", TEXT, flags=re.MULTILINE) == list(losses.names())


@pytest.mark.parametrize("name", losses.names())
def test_a_section_has_all_there_is_to_say(name: str) -> None:
    section = TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    loss = losses.get(name)
    for line in loss.formula.splitlines():
        assert f"\n    {line}\n" in section
    assert re.search(r"^Source: .*\[arXiv \d{4}\.\d{5}(v\d)?\]\(https://arxiv\.org/abs/", section, flags=re.MULTILINE)
    for label in ("Denominator: ", "Bad tokens: "):
        assert len(re.findall(rf"^{label}", section, flags=re.MULTILINE)) == 1
    rows = re.findall(r"^\| `loss\.(\w+)` \| (\S+) \| (?:[^|]|\\\|)+ \|$", section, flags=re.MULTILINE)
    defaults = {
        key: "null" if field.default is None else str(field.default) for key, field in loss.model_fields.items()
    }
    assert dict(rows) == defaults


def test_every_loss_answers_a_question() -> None:
    text = (losses_page.PAGE.parent / "which_loss.md").read_text(encoding="utf-8")
    table = text.partition("| question |")[2].partition("\n\n")[0]
    rows = [line.split(" | ")[1] for line in table.splitlines() if line.count(" | ") > 2]
    named = {name for row in rows for name in re.findall(r"`(?:loss\.name: )?([\w-]+)`", row)}
    assert named <= set(losses.names()) | set(get_args(RolloutCorrection))
    ablations_and_bases = {"aspo-released", "aspo-without-dual-clip", "grpo", "ppo-dual-clip"}
    assert set(losses.names()) - named == ablations_and_bases
    whole = {
        name
        for row in table.splitlines()
        if "hole responses" in row
        for name in re.findall(r"`[\w.: ]*?([\w-]+)`", row)
    }
    for name in named & set(losses.names()):
        assert losses.get(name).token_wise or name in whole, "say in the last column that it needs whole responses"


def test_losses_that_are_stated_for_the_engines_policy_are_listed() -> None:
    text = (losses_page.PAGE.parent / "which_loss.md").read_text(encoding="utf-8")
    listed = text.partition("- **Engine's log-probs as the old ones**:")[2].partition(" are stated for")[0]
    of_engine = {name for name in losses.names() if losses.get(name).old_policy == "engine"}
    assert set(re.findall(r"`([\w-]+)`", listed)) == of_engine


def test_the_table_of_corrections_has_their_bounds() -> None:
    text = (losses_page.PAGE.parent / "loss.md").read_text(encoding="utf-8")
    table = text.partition("| `loss.rollout_correction` |")[2].partition("\n\n")[0]
    found = {}
    for line in table.splitlines()[2:]:
        kind, _, bounds, whole = (cell.strip() for cell in line.strip("|").split(" |"))
        ends = [float(end) for end in bounds.split(" to ") if end]
        found[kind.strip("`")] = ((None, None, *ends)[-2:], whole == "yes")
    assert found == {kind: (CORRECTION_BOUNDS[kind], kind in OF_RESPONSES) for kind in get_args(RolloutCorrection)}
