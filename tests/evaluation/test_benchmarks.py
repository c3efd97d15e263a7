"""Benchmarks by name: files of the datasets' shapes become problems, their settings are the paper's, docs agree."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config import SourceConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.sources.read import read_source
from aspo_megatron.errors import ConfigError
from aspo_megatron.evaluation import benchmarks
from aspo_megatron.evaluation.benchmarks import BENCHMARKS, Wanted
from aspo_megatron.rewards.choice.reward import score as choice_score
from aspo_megatron.rewards.mathematics.reward import score
from aspo_megatron.rewards.programs.tests import read_tests

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"

ROWS: dict[str, dict[str, Any]] = {
    "aime24": {"id": 60, "problem": "2 + 2?", "solution": "...", "answer": "4", "url": "u", "year": "2024"},
    "aime25": {"problem": "2 + 2?", "answer": "4", "id": "0"},
    "amc23": {"id": 0, "question": "2 + 2?", "answer": "4.0", "url": "u"},
    "math500": {"problem": "2 + 2?", "solution": "...", "answer": "4", "subject": "Algebra", "level": 1},
    "minerva": {"question": "2 + 2?", "answer": "4"},
    "olympiad": {"id": 1606, "question": "2 + 2?", "final_answer": ["$4$"], "unit": None, "is_multiple_answer": False},
    "gsm8k": {"question": "2 + 2?", "answer": "Two and two are <<2+2=4>>4.\n#### 4"},
}
"""A row of each dataset of mathematics, with the fields that it has."""

CHOICES: dict[str, dict[str, Any]] = {
    "arc-c": {
        "id": "X_1", "question": "2 + 2?", "choices": {"text": ["3", "5", "4", "6"], "label": ["1", "2", "3", "4"]},
        "answerKey": "3",
    },
    "gpqa-diamond": {
        "Question": "2 + 2? \n", "Correct Answer": "4", "Incorrect Answer 1": "3 [mod 9]", "Incorrect Answer 2": "5\n",
        "Incorrect Answer 3": "6", "Explanation": "It is 4.", "Record ID": "rec1",
    },
    "mmlu-pro": {
        "question_id": 7, "question": "2 + 2?", "options": ["3", "5", " 4", "6", "N/A", "N/A"], "answer": "C",
        "answer_index": 2, "cot_content": "", "category": "math", "src": "made",
    },
}  # fmt: skip
"""The same of multiple choice, made up: 1 to 4 for letters, no letters, a leading space and filling."""


def program(date: str, starter: str = "") -> dict[str, Any]:
    """A row of LiveCodeBench."""
    return {
        "question_title": "Sum",
        "question_content": "Add two numbers.",
        "platform": "leetcode" if starter else "atcoder",
        "question_id": date,
        "contest_date": f"{date}T00:00:00",
        "starter_code": starter,
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1\n2", "output": "3", "testtype": "functional"}])
        if starter
        else json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
        "private_test_cases": "[]",
        "metadata": json.dumps({"func_name": "add"} if starter else {}),
    }


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(tmp_path: Path, name: str, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """The problems that a benchmark makes of a file."""
    target = tmp_path / "problems.jsonl"
    count = benchmarks.write_problems(Wanted(name, jsonl(tmp_path / "file.jsonl", *rows)), target)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(lines) == count
    return lines


@pytest.mark.parametrize("name", [name for name, one in BENCHMARKS.items() if one.kind == "math"])
def test_mathematics_in_the_dataset_s_own_fields(tmp_path: Path, name: str) -> None:
    (problem,) = written(tmp_path, name, ROWS[name])
    assert problem["prompt"] == "2 + 2?"
    graded = Problem("p", problem["prompt"], (1,), problem["answer"])
    assert score(graded, "So it is \\boxed{4}.") == 1.0
    assert score(graded, "So it is \\boxed{5}.") == 0.0


@pytest.mark.parametrize("name", list(ROWS))
def test_mathematics_in_plain_fields(tmp_path: Path, name: str) -> None:
    (problem,) = written(tmp_path, name, {"id": "a-1", "prompt": "2 + 2?", "answer": "4"})
    assert (problem["id"], problem["prompt"], problem["answer"]) == ("a-1", "2 + 2?", "4")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(rows), path)


FORMATS: dict[str, Callable[[Path, list[dict[str, Any]]], object]] = {
    "file.parquet": parquet,
    "file.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "wrapped.json": lambda path, rows: path.write_text(json.dumps({"version": "1", "data": rows})),
    "lines.json": lambda path, rows: jsonl(path, *rows),
    "file.jsonl": lambda path, rows: jsonl(path, *rows),
    "file.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(jsonl(path, *rows).read_bytes())),
    "file.json.gz": lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    "no-suffix": lambda path, rows: jsonl(path, *rows),
}


@pytest.mark.parametrize("fields", ["own", "prompt", "problem", "question"])
@pytest.mark.parametrize("file", FORMATS)
def test_every_format_has_the_same_fields(tmp_path: Path, file: str, fields: str) -> None:
    rows = [ROWS["olympiad"] if fields == "own" else {fields: "2 + 2?", "answer": "$4$"}]
    FORMATS[file](tmp_path / file, rows)
    (wanted,) = benchmarks.parse(f"olympiad={tmp_path / file}")
    assert benchmarks.write_problems(wanted, tmp_path / "out.jsonl") == 1
    problem = json.loads((tmp_path / "out.jsonl").read_text())
    assert (problem["prompt"], problem["answer"]) == ("2 + 2?", "$4$")


def test_chats_keep_their_turns(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    (problem,) = written(tmp_path, "aime24", {"prompt": chat, "reward_model": {"ground_truth": "4"}})
    assert (problem["prompt"], problem["answer"]) == (chat, "4")
    (record,) = read_source(SourceConfig(kind="files", path=str(tmp_path / "problems.jsonl")), "data.train")
    assert (record.question, record.messages) == ("2 + 2?", (chat[0],))


def test_bad_rows_are_counted_or_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": "2 + 2?", "answer": "4"}, {"prompt": "", "answer": "4"}, {"prompt": "1?"}]
    with pytest.raises(ConfigError, match=r"--benchmark aime24: 2 of 3 problems cannot be used .*data\.on_bad=drop"):
        written(tmp_path, "aime24", *rows)
    wanted = Wanted("aime24", tmp_path / "file.jsonl")
    assert benchmarks.write_problems(wanted, tmp_path / "out.jsonl", "drop") == 1


def test_several_parts_of_an_answer(tmp_path: Path) -> None:
    (problem,) = written(tmp_path, "olympiad", ROWS["olympiad"] | {"final_answer": ["$2$", "$5$"]})
    graded = Problem("p", "", (1,), problem["answer"])
    assert problem["answer"] == "$2$, $5$"
    assert [score(graded, text) for text in ("\\boxed{2, 5}", "\\boxed{5,2}", "\\boxed{2}")] == [1.0, 1.0, 0.0]


def test_programs(tmp_path: Path) -> None:
    """Only those of the benchmark's days; with tests; function or standard input said in the prompt."""
    starter = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        "
    dates = ("2024-07-31", "2024-08-01", "2025-01-31", "2025-02-01", "2025-04-30", "2025-05-01")
    rows = [program(date) for date in dates] + [program("2024-09-09", starter)]
    problems = written(tmp_path, "livecodebench-v5", *rows)
    assert [problem["question_id"] for problem in problems] == ["2024-08-01", "2025-01-31", "2024-09-09"]
    assert "standard input" in problems[0]["prompt"]
    assert "class Solution:\n    def add(self, a: int, b: int) -> int:\n```" in problems[2]["prompt"]
    tests = [read_tests(Problem("p", "", (1,), None, problem)) for problem in problems]
    assert [(test.function, test.given) for (test,) in tests] == [(None, "1 2\n"), (None, "1 2\n"), ("add", "[1, 2]")]
    later = written(tmp_path, "livecodebench-v6", *rows)
    assert [problem["question_id"] for problem in later] == ["2025-02-01", "2025-04-30"]
    with pytest.raises(ConfigError, match="no problem is from 2025-02-01 to 2025-05-01"):
        written(tmp_path, "livecodebench-v6", program("2024-08-01"))


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_the_settings_are_the_paper_s(tmp_path: Path, name: str) -> None:
    row = (ROWS | CHOICES).get(name) or program("2024-09-09" if name.endswith("v5") else "2025-03-03")
    problems = tmp_path / "it's, {odd}: name.jsonl"
    benchmarks.write_problems(Wanted(name, jsonl(tmp_path / "file.jsonl", row)), problems)
    paper = {
        "aime24": 64, "aime25": 64, "amc23": 64, "minerva": 8, "math500": 4, "olympiad": 4,
        "livecodebench-v5": 8, "livecodebench-v6": 16, "gsm8k": 4, "arc-c": 1, "gpqa-diamond": 8, "mmlu-pro": 1,
    }  # fmt: skip
    config = load_config(None, ["output_dir=x", "model.path=x", *benchmarks.settings(BENCHMARKS[name], problems, None)])
    sampling = config.eval.sampling
    assert sampling is not None
    assert (config.eval.samples, config.eval.pass_k) == (paper[name], (paper[name],))
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.8, 1.0, 0)
    assert sampling.max_response_tokens == 32768
    assert config.data.format == "chat"
    assert ("\\boxed{}" in config.data.template) == (config.reward.kind != "code")
    assert len(read_source(config.data.train, "data.train")) == 1
    own = ["output_dir=x", "model.path=x", *benchmarks.settings(BENCHMARKS[name], problems, None)]
    thinking = load_config(None, [*own, "data.chat_template_kwargs={enable_thinking: false}"])
    assert thinking.data.chat_template_kwargs == {"enable_thinking": False}
    run = tmp_path / "run.yaml"
    run.write_text("data: {system: Be brief., train: {kind: jsonl, path: p, prompt_field: question, limit: 3}}\n")
    beside = load_config(run, own).data
    assert (beside.system, beside.train.prompt_field, beside.train.limit) == (None, "prompt", None)
    fewer = load_config(None, ["output_dir=x", "model.path=x", *benchmarks.settings(BENCHMARKS[name], problems, 3)])
    assert (fewer.eval.samples, fewer.eval.pass_k) == (3, (3,))


@pytest.mark.parametrize("name", list(CHOICES))
def test_multiple_choice_in_the_dataset_s_own_fields(tmp_path: Path, name: str) -> None:
    (one,) = written(tmp_path, name, CHOICES[name])
    assert one.keys() == {"id", "prompt", "answer", "options"}
    assert one["options"]["ABCD".index(one["answer"])] == "4"
    assert sorted(one["options"]) == sorted(["3 [mod 9]" if name == "gpqa-diamond" else "3", "4", "5", "6"])
    lines = [f"{letter}) {text}" for letter, text in zip("ABCD", one["options"], strict=True)]
    assert one["prompt"] == "2 + 2?\n\n" + "\n".join(lines)
    asked = Problem("p", one["prompt"], (1,), one["answer"], one)
    right = [choice_score(asked, f"So it is \\boxed{{{letter}}}.") for letter in "ABCD"]
    assert right == [float(letter == one["answer"]) for letter in "ABCD"]
    assert choice_score(asked, "The answer is 4.") == 1.0


def test_multiple_choice_as_written_is_read_again(tmp_path: Path) -> None:
    """Also with `answer`, `prompt` and `options`, and as a table, as GPQA's is."""
    rows = [{"prompt": "2 + 2?", "options": ["3", "4"], "answer": "B"}]
    assert written(tmp_path, "gpqa-diamond", *rows)[0]["options"] == ["3", "4"]
    table = tmp_path / "gpqa.csv"
    row = CHOICES["gpqa-diamond"]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    assert benchmarks.write_problems(Wanted("gpqa-diamond", table), tmp_path / "out.jsonl") == 1
    assert (
        json.loads((tmp_path / "out.jsonl").read_text())["options"]
        == (written(tmp_path, "gpqa-diamond", row)[0]["options"])
    )


def test_multiple_choice_from_parquet(tmp_path: Path) -> None:
    for name, row in CHOICES.items():
        parquet(tmp_path / "file.parquet", [row])
        assert benchmarks.write_problems(Wanted(name, tmp_path / "file.parquet"), tmp_path / "out.jsonl") == 1
        (line,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert {**line, "id": ""} == {**written(tmp_path, name, row)[0], "id": ""}


def test_options_that_cannot_be_used_are_counted_or_left_out(tmp_path: Path) -> None:
    rows = [CHOICES["arc-c"], CHOICES["arc-c"] | {"id": "X_2", "question": "3?", "answerKey": "E"}]
    with pytest.raises(ConfigError) as error:
        written(tmp_path, "arc-c", *rows)
    assert str(error.value) == (
        "--benchmark arc-c: 1 of 2 problems cannot be used (options that cannot be used: 1); the first: problem X_2: "
        "its answer is 'E', which is not one of 1, 2, 3, 4. Or leave such problems out with data.on_bad=drop"
    )
    assert benchmarks.write_problems(Wanted("arc-c", tmp_path / "file.jsonl"), tmp_path / "out.jsonl", "drop") == 1


def test_what_the_hub_does_not_give_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def gated(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("it is gated")

    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(ConfigError) as error:
        benchmarks.write_problems(Wanted("gpqa-diamond", None), tmp_path / "out.jsonl")
    assert str(error.value) == (
        "--benchmark gpqa-diamond: cannot load dataset 'Idavidrein/gpqa' (subset gpqa_diamond, split 'train'): it is "
        "gated; it needs its terms accepted at https://huggingface.co/datasets/Idavidrein/gpqa, and HF_TOKEN; or give "
        "the problems as a file: --benchmark gpqa-diamond=FILE.jsonl"
    )


def test_names_and_files() -> None:
    assert benchmarks.parse("aime24, amc23=my/amc.jsonl") == [
        Wanted("aime24", None), Wanted("amc23", Path("my/amc.jsonl"))
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"--benchmark aime: no such benchmark; the nearest is 'aime2"):
        benchmarks.parse("aime")
    with pytest.raises(ConfigError, match="gsm8k is named twice"):
        benchmarks.parse("gsm8k,gsm8k=x.jsonl")
    for text in ("arc-c=", "arc-c= ", "gsm8k,arc-c="):  # a variable of the shell that is not set
        with pytest.raises(ConfigError, match="after arc-c= there is no file"):
            benchmarks.parse(text)


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the Hub cannot\nbe reached")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ConfigError) as error:
        benchmarks.write_problems(Wanted("aime24", None), tmp_path / "out.jsonl")
    assert str(error.value) == (
        "--benchmark aime24: cannot load dataset 'HuggingFaceH4/aime_2024' (subset None, split 'train'): the Hub "
        "cannot be reached; or give the problems as a file: --benchmark aime24=FILE.jsonl"
    )
    with pytest.raises(ConfigError, match=r"missing\.jsonl does not exist"):
        benchmarks.write_problems(Wanted("aime24", tmp_path / "missing.jsonl"), tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match=r"--benchmark aime24: .*missing\.jsonl does not exist"):
        benchmarks.write_problems(Wanted("aime24", tmp_path / "missing.jsonl"), tmp_path / "out.jsonl")
    with pytest.raises(ConfigError) as error:
        written(tmp_path, "aime24", {"text": "2 + 2?"})
    assert str(error.value) == (
        f"{tmp_path}/file.jsonl:1: no field 'problem'; the fields there are: text. "
        "The file must have `prompt` (or `problem`, `question`) and `answer`"
    )


def test_without_the_datasets_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install datasets; or give the problems as a file: --benchmark amc23="):
        benchmarks.write_problems(Wanted("amc23", None), tmp_path / "out.jsonl")


def test_the_documentation_has_the_table() -> None:
    marked = re.search(r"<!-- benchmarks -->\n(.*)\n<!-- end -->", DOCS.read_text(), re.DOTALL)
    assert marked
    assert marked[1] == benchmarks.markdown()


def test_a_folder_of_files_or_of_splits(tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "out.jsonl"
    folder.mkdir()
    for number in range(2):
        jsonl(folder / f"train-0000{number}-of-00002.jsonl", {"problem": f"{number} + 2?", "answer": "4"})
    assert benchmarks.write_problems(Wanted("aime25", folder), out) == 2
    jsonl(folder / "test.jsonl", {"problem": "5 + 2?", "answer": "7"})  # the library knows which split is meant
    assert benchmarks.write_problems(Wanted("aime25", folder), out) == 1
    assert json.loads(out.read_text())["prompt"] == "5 + 2?"
