"""`aspo table`: one's own results beside the published ones, which are as they were printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aspo_megatron.cli import table
from aspo_megatron.errors import ConfigError
from aspo_megatron.evaluation.benchmarks import BENCHMARKS
from aspo_megatron.evaluation.published import CHOICE, CODE, MATH, ODD_GPQA, PUBLISHED, UNCERTAIN, Published
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile, scores_path

app = typer.Typer(rich_markup_mode=None)
app.command()(table.table)

PAPER = {
    "sampling.temperature": 0.8,
    "sampling.top_p": 1.0,
    "sampling.top_k": 0,
    "sampling.max_response_tokens": 32768,
}


def run_cli(*arguments: object) -> str:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False).output


def result(
    folder: Path, model: str, name: str, right: list[int], samples: int, problems: int | None = None, **other: Any
) -> Path:
    """An evaluation with so many right responses to each problem."""
    path = folder / model / f"{name}.jsonl"
    thinking = other.pop("thinking", "none")
    identity = PAPER | {"samples": samples, "problems": f"{len(right)} of {name}"} | other
    with ResultFile(
        path, EvaluationDescription(name, model, problems or len(right), samples, (1,), identity, thinking)
    ) as results:
        for index, count in enumerate(right):
            results.append(
                [
                    {"index": index, "reward": float(n < count), "tokens": 1, "finish_reason": "stop"}
                    for n in range(samples)
                ]
            )
    return path


def cells(output: str, row: str) -> list[str]:
    """Those of benchmarks."""
    return columns(output, row)[2:]


def columns(output: str, row: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_models_by_benchmarks_beside_the_paper(tmp_path: Path) -> None:
    result(tmp_path, "mine", "amc23", [64, 0, 32, 16] * 10, 64)
    result(tmp_path, "mine", "aime24", [16] * 30, 64)
    result(tmp_path, "other", "aime24", [0] * 30, 64)
    result(tmp_path, "other", "own-problems", [1, 0], 2)
    output = run_cli(tmp_path)
    assert output.splitlines()[0] == "| model | thinking | AIME 2024, avg@64 | AMC 2023, avg@64 | own-problems, avg@2 |"
    assert cells(output, "mine") == ["25.0 (25.0 to 25.0)", "43.8 (32.1 to 55.4)", ""]
    assert cells(output, "other") == ["0.0 (0.0 to 11.6)", "", "25.0 (0.0 to 74.0)"]
    assert cells(output, "ASPO-Math-1.5B")[:2] == ["49.0", "87.2"]
    assert "arXiv 2510.06062v2" in output
    assert "DeepCoder" not in output  # it has no figure for these benchmarks
    assert "not the paper's setting" not in output
    passed = run_cli(tmp_path, "--pass", "--published", "4B,30B")
    assert cells(passed, "mine")[1] == "75.0 (61.4 to 88.6)"
    assert cells(passed, "ASPO-Math-30B")[:2] == ["90.0", "97.5"]
    assert "1.5B" not in passed


def test_what_is_not_the_paper_s_setting_is_marked(tmp_path: Path) -> None:
    result(tmp_path, "mine", "aime24", [1] * 5, 4, problems=30, **{"sampling.max_response_tokens": 100})
    output = run_cli(tmp_path, "--published", "none")
    assert cells(output, "mine") == ["25.0 (25.0 to 25.0) [1] [2]"]
    assert "[1] 5 of 30 problems so far" in output
    assert "[2] not the paper's setting: max_response_tokens 100, not 32768; samples 4, not 64" in output
    result(
        tmp_path, "mine", "mmlu-pro", [1] * 5, 2, problems=12032
    )  # of which the paper does not say how often it asks
    assert "] not the usual setting: samples 2, not 1" in run_cli(tmp_path, "--published", "none")


def test_variables_of_the_chat_template_are_shown(tmp_path: Path) -> None:
    for thinking in (True, False):
        result(tmp_path, f"m-{thinking}", "own", [1], 1, **{"chat_template_kwargs.enable_thinking": thinking})
    result(tmp_path, "plain", "own", [1], 1)
    output = run_cli(tmp_path)
    assert [cells(output, f"m-{thinking}")[0][-3:] for thinking in (False, True)] == ["[1]", "[2]"]
    assert "[1] chat template with enable_thinking false" in output
    assert "[2] chat template with enable_thinking true" in output
    assert "[" not in cells(output, "plain")[0]


def test_thinking_is_a_column(tmp_path: Path) -> None:
    for name, thinking in (("with", "on"), ("neither", "none"), ("old", None)):
        result(tmp_path, name, "aime24", [1] * 30, 64, thinking=thinking)
    result(tmp_path, "with", "own", [1], 1, thinking="none")
    output = run_cli(tmp_path)
    assert columns(output, "with")[1] == "on, none"
    assert columns(output, "neither")[1] == "none"
    assert columns(output, "old")[1] == "unknown"
    assert columns(output, "ASPO-Math-1.5B")[1] == "on"
    assert "Thinking none: the chat template has no switch" in output
    assert "Thinking unknown: the result does not say" in output
    assert "Thinking unknown" not in run_cli(tmp_path / "neither")
    assert columns(run_cli(tmp_path / "old", "--published", "4B"), "Qwen3-4B")[1] == "off"


def test_results_of_an_older_version_say_nothing_of_thinking(tmp_path: Path) -> None:
    path = scores_path(result(tmp_path, "old", "aime24", [1] * 30, 64, thinking="on"))
    content = json.loads(path.read_text())
    del content["thinking"]
    path.write_text(json.dumps(content))
    result(tmp_path, "new", "aime24", [1] * 30, 64, thinking="off")
    assert columns(run_cli(tmp_path, "--published", "none"), "old")[1] == "unknown"
    path.write_text(json.dumps(content | {"thinking": "often"}))
    with pytest.raises(ConfigError, match="`thinking` is of another kind"):
        run_cli(tmp_path)


def test_on_and_off_are_not_mixed(tmp_path: Path) -> None:
    result(tmp_path, "loud", "aime24", [1] * 30, 64, thinking="on")
    result(tmp_path, "quiet", "aime24", [2] * 30, 64, thinking="off")
    result(tmp_path, "old", "aime24", [2] * 30, 64, thinking=None)
    with pytest.raises(ConfigError) as error:
        run_cli(tmp_path, "--published", "none")
    assert str(error.value) == (
        "results with thinking (loud on aime24) and without (quiet on aime24) are not to be compared; take one with "
        "--thinking on or --thinking off"
    )
    on, off = (run_cli(tmp_path, "--thinking", mode, "--published", "1.5B") for mode in ("on", "off"))
    assert ("| loud " in on, "| quiet " in on, "| old " in on, "GRPO-1.5B" in on) == (True, False, True, True)
    assert ("| loud " in off, "| quiet " in off, "| old " in off, "GRPO-1.5B" in off) == (False, True, True, False)
    assert "GRPO-4B" in run_cli(tmp_path, "--thinking", "off", "--published", "1.5B,4B")
    with pytest.raises(ConfigError, match=r"^--thinking off: all results are with thinking on$"):
        run_cli(tmp_path / "loud", "--thinking", "off")
    with pytest.raises(ConfigError, match=r"^--thinking maybe: must be on or off$"):
        run_cli(tmp_path, "--thinking", "maybe")
    with pytest.raises(ConfigError, match=r"--against loud: no such model; there are: old, quiet"):
        run_cli(tmp_path, "--thinking", "off", "--published", "none", "--against", "loud")


def test_published_rows_are_not_mixed_with_the_other_mode(tmp_path: Path) -> None:
    result(tmp_path, "quiet", "minerva", [2] * 272, 8, thinking="off")
    with pytest.raises(
        ConfigError, match=r"\(DeepSeek-R1-Distill-Qwen-1\.5B \(published\), .* and without \(quiet"
    ) as error:
        run_cli(tmp_path, "--published", "1.5B")
    assert str(error.value).endswith("; take --thinking off, with --published none or of 4B, 8B, 30B")
    for fitting in ("ASPO-Math-4B", "ASPO-Math-8B", "ASPO-Math-30B"):
        assert columns(run_cli(tmp_path), fitting)[1] == "off"


def test_a_table_restricted_to_a_mode_has_the_published_rows_of_it(tmp_path: Path) -> None:
    result(tmp_path, "plain", "minerva", [2] * 272, 8, thinking="none")
    assert "ASPO-Math-4B" in run_cli(tmp_path, "--thinking", "off")
    assert "ASPO-Math-1.5B" in run_cli(tmp_path, "--thinking", "on")
    assert "ASPO-Math-1.5B" in run_cli(tmp_path)
    assert cells(run_cli(tmp_path, "--published", "30B"), "ASPO-Math-30B") == ["54.3"]


def test_a_model_in_both_modes_is_refused_with_its_benchmarks(tmp_path: Path) -> None:
    result(tmp_path, "mine", "aime24", [1] * 30, 64, thinking="on")
    result(tmp_path, "mine", "amc23", [1] * 40, 64, thinking="off")
    with pytest.raises(ConfigError, match=r"\(mine on aime24\) and without \(mine on amc23\)"):
        run_cli(tmp_path, "--published", "none")
    assert "AMC" not in run_cli(tmp_path, "--published", "none", "--thinking", "on")


def test_table_3_comes_with_its_doubts(tmp_path: Path) -> None:
    for name in CHOICE:
        result(tmp_path, "mine", name, [1, 0], 2)
    output = run_cli(tmp_path, "--published", "8B")
    notes = [line.split(" ", 1) for line in output.splitlines() if line.startswith("[")]
    ((all_, _), (odd, _)) = [
        note for note in notes if note[1].startswith("of table 3, which does not say how it asked")
    ]
    assert {row: cells(output, row) for row in ("Qwen3-8B", "GRPO-8B", "ASPO-Math-8B")} == {
        "Qwen3-8B": [f"52.9 {all_}", f"8.6 {all_}", f"29.6 {all_}"],
        "GRPO-8B": [f"62.4 {all_}", f"33.0 {odd}", f"42.9 {all_}"],
        "ASPO-Math-8B": [f"88.6 {all_}", f"56.3 {odd}", f"57.4 {all_}"],
    }
    assert [odd, f"{UNCERTAIN}; the average printed for this row would need half of this figure"] in notes
    assert "Qwen3" not in run_cli(tmp_path, "--published", "8B", "--pass")  # which table 3 does not have


def test_differences_are_paired_by_problem(tmp_path: Path) -> None:
    result(tmp_path, "aspo", "amc23", [3, 2, 4, 1], 4)
    result(tmp_path, "grpo", "amc23", [2, 1, 3, 0], 4)
    result(tmp_path, "partly", "amc23", [2, 1], 4, problems=4)
    result(tmp_path, "others", "amc23", [2, 1, 3, 0], 4, problems_="other")
    output = run_cli(tmp_path, "--against", "grpo", "--published", "none")
    second = output[output.index("less grpo") - 2 :]
    assert columns(second, "aspo")[1:] == ["+25.0 (+25.0 to +25.0)"]
    assert columns(second, "partly")[1:] == [""]
    with pytest.raises(ConfigError, match="--against ppo: no such model; there are: aspo, grpo, others, partly"):
        run_cli(tmp_path, "--against", "ppo")


def test_names_and_bad_input(tmp_path: Path) -> None:
    path = result(tmp_path, "mine", "amc23", [1, 2], 4)
    assert cells(run_cli(f"seed 1={path}"), "seed 1") == cells(run_cli(path.with_suffix(".scores.json")), "mine")
    for arguments, said in (
        ([], "nothing to compare"),
        ([tmp_path / "nowhere"], "nowhere: cannot be read"),
        ([path, path.parent], "a second result of mine on amc23"),
        ([path, "--published", "7B"], "--published 7B: must be one of 1.5B, 4B, 8B, 30B, none"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_cli(*arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no result of `aspo eval`"):
        run_cli(tmp_path / "empty")


ODD = {("ASPO-Code-1.5B", "livecodebench-v6")}
"""pass@16 is printed as 46.0, in the paper and on the page of its code, which is no share of 131 problems."""


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.model)
def test_published_figures_are_possible(row: Published) -> None:
    """Each is a share of the benchmark's problems, or responses, rounded to a tenth: few slips of the pen are one.

    Of table 3 it is not known how often a problem was asked.
    """
    assert row.passed.keys() in (set(), row.average.keys() - set(CHOICE))
    for name in row.average.keys() - set(CHOICE):
        if (row.model, name) in ODD:
            continue
        one = BENCHMARKS[name]
        sizes = (674, 675) if name == "olympiad" else (one.problems,)
        assert is_share(row.average[name], [size * one.samples for size in sizes]), name
        if name in row.passed:
            assert is_share(row.passed[name], sizes), name
            assert row.average[name] <= row.passed[name]


def is_share(value: float, counts: Sequence[int]) -> bool:
    return any(abs(round(value / 100 * n) * 100 / n - value) <= 0.053 for n in counts)


AVERAGES: dict[str, tuple[float | None, float | None, float | None]] = {
    "DeepSeek-R1-Distill-Qwen-1.5B": (46.8, 17.0, None),
    "GRPO-1.5B": (53.5, 26.8, None),
    "DeepScaleR-1.5B": (53.5, None, None),
    "DeepCoder-1.5B": (None, 23.0, None),
    "FastCuRL-1.5B-V3": (57.7, None, None),
    "Nemotron-1.5B": (58.7, 27.8, None),
    "Archer-Math-1.5B": (59.1, None, None),
    "Archer-Code-1.5B": (None, 29.8, None),
    "ASPO-Math-1.5B": (59.3, None, None),
    "ASPO-Code-1.5B": (None, 31.0, None),
    "Qwen3-4B": (48.3, 23.9, 40.2),
    "GRPO-4B": (61.6, 38.7, 56.3),
    "GRPO-4B without importance sampling": (63.5, None, None),
    "GRPO-4B with positive responses' mean ratio": (64.0, None, None),
    "Archer-Math-4B": (67.2, None, None),  # printed as 67.1, which is not the mean of the row
    "Archer-Code-4B": (None, 39.8, None),
    "ASPO-Math-4B": (65.0, None, 59.5),
    "ASPO-Code-4B": (None, 41.6, None),
    "Qwen3-8B": (49.7, None, 30.4),
    "GRPO-8B": (63.3, None, 40.6),
    "Archer-Math-8B": (67.9, None, None),
    "ASPO-Math-8B": (65.7, None, 59.8),
    "Qwen3-30B-A3B": (53.3, None, None),
    "GRPO-30B": (68.8, None, None),
    "Archer-Math-30B": (74.6, None, None),
    "ASPO-Math-30B": (71.8, None, None),
}
"""The column "Avg." of the tables, for mathematics (tables 1 and 4), programs (2) and multiple choice (3)."""
DO_NOT_FOLLOW = {("GRPO-8B", CHOICE): 46.1, ("ASPO-Math-8B", CHOICE): 67.4}
"""The printed averages that are not those of their cells, and what these give."""


def test_published_rows_have_the_printed_averages() -> None:
    assert {row.model for row in PUBLISHED} == AVERAGES.keys()
    others = {}
    for row in PUBLISHED:
        for printed, names in zip(AVERAGES[row.model], (MATH, CODE, CHOICE), strict=True):
            values = [value for name, value in row.average.items() if name in names]
            assert len(values) == (0 if printed is None else len(names))
            if printed is not None and sum(values) / len(values) != pytest.approx(printed, abs=0.1):
                others[row.model, names] = round(sum(values) / len(values), 1)
    assert others == DO_NOT_FOLLOW
    odd = {(row.model, CHOICE) for row in PUBLISHED if row.doubts.get("gpqa-diamond") == ODD_GPQA}
    assert odd == DO_NOT_FOLLOW.keys()


def test_only_base_models_are_below_guessing() -> None:
    """What UNCERTAIN says of table 3: of four options a quarter is right by chance."""
    below = {row.model for row in PUBLISHED if row.average.get("gpqa-diamond", 25) < 25}
    assert below == {"Qwen3-4B", "Qwen3-8B"}
    assert all(set(row.doubts) == set(CHOICE) & row.average.keys() for row in PUBLISHED)
