"""Weights by probability: the sums by hand, what is left out, and what old files lack."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison.made_groups import make_run, settings

from aspo_megatron.comparison.picture import draw_token_weights
from aspo_megatron.comparison.runs import Comparison, read_comparison
from aspo_megatron.comparison.token_weights import BINS, EDGES, over_runs, token_weights
from aspo_megatron.errors import UserError
from aspo_megatron.plots.sample_file import parse_sample


def sample(weights: list[float], probs: list[float], advantage: float = 1.0, **changes: Any) -> dict[str, Any]:
    log_probs = [math.log(one) for one in probs]
    tokens = [f"t{number}" for number in range(len(weights))]
    one = {"problem": "p", "response": "r", "reward": 1.0, "finish_reason": "stop", "advantage": advantage}
    return one | {"tokens": tokens, "log_probs": log_probs, "weights": weights} | changes


def compared(folder: Path, runs: dict[tuple[str, int], list[dict[str, Any]]], **changes: Any) -> Comparison:
    for (loss, seed), samples in runs.items():
        make_run(folder / f"{loss}-{seed}", settings(loss, seed, **changes), samples=samples)
    return read_comparison([folder])


def runs_of(first: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The given samples in one run, and some in the others."""
    other = [sample([1.0], [0.5])]
    return {("aspo", 1): first, ("aspo", 2): other, ("grpo", 1): other, ("grpo", 2): other}


def test_bins_by_hand(tmp_path: Path) -> None:
    first = [
        sample([2.0, 3.0, 0.0, 0.5], [0.005, 0.009, 0.02, 0.95]),
        sample([4.0, 0.0], [0.001, 1.0]),
        sample([0.25], [0.02], advantage=-2.0),
        sample([9.0], [0.02], advantage=0.0),  # nothing pushes it
    ]
    found = token_weights(compared(tmp_path, runs_of(first)))
    assert found.notes == ()
    aspo = found.groups["aspo"]
    nan = math.nan
    np.testing.assert_array_equal(aspo.tokens[0], [[3, 1, 0, 0, 0, 0, 2], [0, 1, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(aspo.weight[0], [[3, 0, nan, nan, nan, nan, 0.25], [nan, 0.25, *[nan] * 5]])
    np.testing.assert_allclose(aspo.dropped[0], [[0, 1, nan, nan, nan, nan, 0.5], [nan, 0, *[nan] * 5]])
    np.testing.assert_array_equal(aspo.tokens[1], [[0, 0, 0, 0, 1, 0, 0], [0] * 7])


def test_an_edge_belongs_to_the_bin_above_it_and_one_to_the_last(tmp_path: Path) -> None:
    first = [sample([1.0] * (len(EDGES) - 1), [1.0, *(edge * (1 + 1e-9) for edge in EDGES[1:-1])])]
    tokens = token_weights(compared(tmp_path, runs_of(first))).groups["aspo"].tokens[0, 0]
    assert list(tokens) == [0, 1, 1, 1, 1, 1, 2]
    assert len(BINS) == 7


def test_means_and_spread_over_runs() -> None:
    nan = math.nan
    found = over_runs(np.array([[1.0, nan, nan], [3.0, 2.0, nan]]))
    np.testing.assert_array_equal(found, [[2.0, 2.0, nan], [1.0, 2.0, nan], [3.0, 2.0, nan]])


def test_what_has_no_number_is_counted_and_left_out(tmp_path: Path) -> None:
    odd = sample([1.0] * 3, [0.5] * 3) | {"log_probs": [-0.7, "NaN", "-Infinity"], "weights": ["NaN", 1.0, 3.0]}
    found = token_weights(compared(tmp_path, runs_of([odd])))
    assert found.notes == ("2 tokens without a finite weight or log-prob left out.",)
    assert list(found.groups["aspo"].tokens[0, 0]) == [1, 0, 0, 0, 0, 0, 0]  # the probability is 0


def test_cut_responses_are_left_out_where_they_are_no_part_of_the_loss(tmp_path: Path) -> None:
    first = [sample([0.0], [0.5], finish_reason="length"), sample([1.0], [0.5])]
    for mask, tokens in ((True, 1), (False, 2)):
        found = token_weights(compared(tmp_path / str(mask), runs_of(first), shaping={"mask_truncated": mask}))
        assert found.groups["aspo"].tokens[0].sum() == tokens


def test_whether_cut_responses_are_left_out_is_each_runs_own_setting(tmp_path: Path) -> None:
    samples = [sample([0.0], [0.5], finish_reason="length"), sample([1.0], [0.5])]
    for mask in (True, False):
        for seed in (1, 2):
            run = settings("aspo", seed, shaping={"mask_truncated": mask})
            make_run(tmp_path / f"{mask}-{seed}", run, samples=samples)
    found = token_weights(read_comparison([tmp_path], by="shaping.mask_truncated")).groups
    assert {name: group.tokens[0].sum() for name, group in found.items()} == {
        "mask_truncated=false": 2,
        "mask_truncated=true": 1,
    }


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "aspo-1/samples.jsonl"),
        ([sample([1.0], [0.5], advantage=0.0)], "aspo-1: no sample with an advantage; log.samples_per_step keeps some"),
        (
            [{k: v for k, v in sample([1.0], [0.5]).items() if k != "log_probs"}],
            "aspo-1: its samples have no log_probs",
        ),
    ],
)
def test_why_there_are_none(tmp_path: Path, samples: list[dict[str, Any]], reason: str) -> None:
    found = token_weights(compared(tmp_path, runs_of(samples)))
    assert found.groups == {}
    (note,) = found.notes
    assert note.startswith("No weights of tokens: ")
    assert reason in note


def test_old_lines_are_read_without_log_probs_and_wrong_ones_refused() -> None:
    line = sample([1.0, 0.5], [0.5, 0.25])
    assert parse_sample(json.dumps(line).encode(), "x").log_probs == pytest.approx([math.log(0.5), math.log(0.25)])
    del line["log_probs"]
    old = parse_sample(json.dumps(line).encode(), "x")
    assert (old.log_probs, old.weights) == ((), (1.0, 0.5))
    with pytest.raises(UserError, match="x: 2 `tokens` but 1 `log_probs`"):
        parse_sample(json.dumps(line | {"log_probs": [-1.0]}).encode(), "x")


def test_the_picture_has_a_panel_for_each_sign_and_a_line_for_each_group(tmp_path: Path) -> None:
    first = [sample([20.0, 0.0], [0.005, 0.95]), sample([0.25], [0.02], advantage=-2.0)]
    found = token_weights(compared(tmp_path, runs_of(first)))
    figure = draw_token_weights(found, ["aspo", "grpo"])
    up, down, dropped, _ = figure.axes
    assert [axes.get_title() for axes in (up, down)] == ["Tokens with A > 0", "Tokens with A < 0"]
    assert [np.asarray(line.get_ydata())[0] for line in up.lines[:1]] == [20.0]
    assert up.get_yscale() == "symlog"  # one large mean does not flatten all others
    assert np.asarray(dropped.lines[0].get_ydata())[-1] == 1.0
    assert np.asarray(down.lines[0].get_ydata())[1] == 0.25
    assert np.isnan(np.asarray(down.lines[1].get_ydata())).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["aspo", "grpo"]
