"""`aspo table`: one's own results beside the published ones, which are as they were printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aspo_megatron.cli import table
from aspo_megatron.errors import ConfigError
from aspo_megatron.evaluation.benchmarks import BENCHMARKS
from aspo_megatron.evaluation.published import PUBLISHED, Published
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile

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
    identity = PAPER | {"samples": samples, "problems": f"{len(right)} of {name}"} | other
    with ResultFile(
        path, EvaluationDescription(name, model, problems or len(right), samples, (1,), identity)
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
    (line,) = [line for line in output.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_models_by_benchmarks_beside_the_paper(tmp_path: Path) -> None:
    result(tmp_path, "mine", "amc23", [64, 0, 32, 16] * 10, 64)
    result(tmp_path, "mine", "aime24", [16] * 30, 64)
    result(tmp_path, "other", "aime24", [0] * 30, 64)
    result(tmp_path, "other", "own-problems", [1, 0], 2)
    output = run_cli(tmp_path)
    assert output.splitlines()[0] == "| model | AIME 2024, avg@64 | AMC 2023, avg@64 | own-problems, avg@2 |"
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


def test_variables_of_the_chat_template_are_shown(tmp_path: Path) -> None:
    for thinking in (True, False):
        result(tmp_path, f"m-{thinking}", "own", [1], 1, **{"chat_template_kwargs.enable_thinking": thinking})
    result(tmp_path, "plain", "own", [1], 1)
    output = run_cli(tmp_path)
    assert [cells(output, f"m-{thinking}")[0][-3:] for thinking in (False, True)] == ["[1]", "[2]"]
    assert "[1] chat template with enable_thinking false" in output
    assert "[2] chat template with enable_thinking true" in output
    assert "[" not in cells(output, "plain")[0]


def test_differences_are_paired_by_problem(tmp_path: Path) -> None:
    result(tmp_path, "aspo", "amc23", [3, 2, 4, 1], 4)
    result(tmp_path, "grpo", "amc23", [2, 1, 3, 0], 4)
    result(tmp_path, "partly", "amc23", [2, 1], 4, problems=4)
    result(tmp_path, "others", "amc23", [2, 1, 3, 0], 4, problems_="other")
    output = run_cli(tmp_path, "--against", "grpo", "--published", "none")
    second = output[output.index("less grpo") - 2 :]
    assert cells(second, "aspo") == ["+25.0 (+25.0 to +25.0)"]
    assert cells(second, "partly") == [""]
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
    """Each is a share of the benchmark's problems, or responses, rounded to a tenth: few slips of the pen are one."""
    assert row.average.keys() == row.passed.keys()
    for name in row.average:
        if (row.model, name) in ODD:
            continue
        one = BENCHMARKS[name]
        sizes = (674, 675) if name == "olympiad" else (one.problems,)
        for value, units in ((row.passed[name], 1), (row.average[name], one.samples)):
            counts = [size * units for size in sizes]
            assert any(abs(round(value / 100 * n) * 100 / n - value) <= 0.053 for n in counts), (name, value)
        assert row.average[name] <= row.passed[name]


AVERAGES: dict[str, tuple[float | None, float | None]] = {
    "DeepSeek-R1-Distill-Qwen-1.5B": (46.8, 17.0),
    "GRPO-1.5B": (53.5, 26.8),
    "DeepScaleR-1.5B": (53.5, None),
    "DeepCoder-1.5B": (None, 23.0),
    "FastCuRL-1.5B-V3": (57.7, None),
    "Nemotron-1.5B": (58.7, 27.8),
    "Archer-Math-1.5B": (59.1, None),
    "Archer-Code-1.5B": (None, 29.8),
    "ASPO-Math-1.5B": (59.3, None),
    "ASPO-Code-1.5B": (None, 31.0),
    "Qwen3-4B": (48.3, 23.9),
    "GRPO-4B": (61.6, 38.7),
    "Archer-Math-4B": (67.2, None),  # printed as 67.1, which is not the mean of the row
    "Archer-Code-4B": (None, 39.8),
    "ASPO-Math-4B": (65.0, None),
    "ASPO-Code-4B": (None, 41.6),
    "Qwen3-8B": (49.7, None),
    "GRPO-8B": (63.3, None),
    "Archer-Math-8B": (67.9, None),
    "ASPO-Math-8B": (65.7, None),
    "Qwen3-30B-A3B": (53.3, None),
    "GRPO-30B": (68.8, None),
    "Archer-Math-30B": (74.6, None),
    "ASPO-Math-30B": (71.8, None),
}
"""The column "Avg." of the tables, for mathematics and for programs."""


def test_published_rows_have_the_printed_averages() -> None:
    assert {row.model for row in PUBLISHED} == AVERAGES.keys()
    for row in PUBLISHED:
        for printed, kind in zip(AVERAGES[row.model], ("math", "code"), strict=True):
            values = [value for name, value in row.average.items() if BENCHMARKS[name].kind == kind]
            assert bool(values) == (printed is not None)
            assert not values or sum(values) / len(values) == pytest.approx(printed, abs=0.1), row.model
