"""What is written as text is read back the same, whatever is in it and whatever the machine's locale is."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aspo_megatron
from aspo_megatron.evaluation.evaluator import summarize
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile
from aspo_megatron.files import json_line, write_whole
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.plots.sample_file import read_samples
from aspo_megatron.reading import parse_json
from text.hostile import KINDS

ROOT = Path(aspo_megatron.__file__).parent

TEXTS = {
    **KINDS,
    "first half": "\ud83d",
    "second half": "\udcff and more",
    "halves in the wrong order": "\ude00\ud83d",
    "a half at the end": "text \ud83d",
    "all of both halves": "\ud800\udbff a \udc00",
    "beyond the basic plane": "😀 \U0001d538 \U0010ffff",
    "what looks like an escape": "\\ud83d \\\\ \\n \\u0000",
    "quotes and ends of lines": "\"'\n\r\n\r\u2028\u0085",
    "another alphabet": "naïve Straße 中文 العربية",
    "no characters": "\ufffe\uffff\ufdd0",
    "byte order mark": "\ufeffa",
}


def record(text: str, index: int = 0) -> dict[str, object]:
    return {
        "index": index, "problem": f"id {text}", "question": text, "answer": text, "response": text, "reward": 1.0,
        "tokens": 3, "finish_reason": "stop",
    }  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_read_back_the_same(kind: str, tmp_path: Path) -> None:
    text = TEXTS[kind]
    line = json_line({text: [text, {"a": text}]})
    assert line.count(b"\n") == 1
    line.decode("utf-8")
    assert json.loads(line) == {text: [text, {"a": text}]}
    records = [record(text, index) for index in range(2)]
    summarize(records, 1, (1,)).write(tmp_path / "step-000001.jsonl")
    description = EvaluationDescription(text, text, 2, 1, (1,), {"model": text})
    for part in (records[:1], records[1:]):  # the second time it is resumed
        with ResultFile(tmp_path / "results.jsonl", description) as results:
            results.append(part)
            read = list(results.records())
    with Recorder(tmp_path, tensorboard=False) as recorder:
        recorder.log_samples(1, records)
    assert read == records
    assert [json.loads(line) for line in (tmp_path / "step-000001.jsonl").read_bytes().splitlines()] == records
    samples = read_samples(tmp_path).samples + read_samples(tmp_path / "results.jsonl").samples
    assert {(s.problem, s.question, s.answer, s.response) for s in samples} == {(f"id {text}", text, text, text)}


WRITES = r"""
import sys
from pathlib import Path
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile, read_scores
from aspo_megatron.evaluation.job import EvaluationJob, ProblemSet
from aspo_megatron.evaluation.evaluator import summarize
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.plots.page import html_page, write_page
from aspo_megatron.streams import show
from text.test_encoding import TEXTS, record

folder, name = Path(sys.argv[1]), "na\xefve \u4e2d\u6587 \U0001f600"
text = "|".join(TEXTS.values())
description = EvaluationDescription(text, text, 1, 1, (1,), {"model": text})
for _ in range(2):
    with ResultFile(folder / "results.jsonl", description) as results:
        if not results.complete:
            results.append([record(text)])
assert read_scores(folder / "results.scores.json")["model"] == text
summarize([record(text)], 1, (1,)).write(folder / "evaluation.jsonl")
with Recorder(folder, tensorboard=False) as recorder:
    recorder.log_samples(1, [record(text)])
words = ["model.path=m", "data.train={kind: jsonl, path: x}", f"data.template={name}"]
config = load_config(None, [f"output_dir={folder}/{name}", *words])
save_config(config, folder / "config.yaml")
assert load_config(folder / "config.yaml") == config
job = EvaluationJob(name, False, (ProblemSet(name, folder / name, "train", folder / name),))
job.write(folder / "job.json")
assert EvaluationJob.read(folder / "job.json") == job
write_page(folder / "page.html", html_page(text, "", ""))
show(text)
"""


def test_the_locale_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "written"
    script.write_text(WRITES, encoding="utf-8")

    def written() -> list[bytes]:
        found = sorted(path.read_bytes() for path in folder.iterdir())
        folder.rename(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        return found

    folder.mkdir()
    monkeypatch.setattr(sys, "argv", ["script", str(folder)])
    runpy.run_path(str(script))
    first = written()
    folder.mkdir()
    language = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": f"{ROOT.parent}{os.pathsep}{Path(__file__).parents[1]}", **language},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.isascii()
    assert written() == first
    assert len(first) >= 7


def test_a_file_of_text_that_utf_8_lacks(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "a \ud83d é")
    assert (tmp_path / "a").read_bytes() == b"a \\ud83d \xc3\xa9"
    assert parse_json(json_line({"a": float("nan")}), "a")["a"] != 0
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_line({"a": float("nan")}, strict=True)


def without_encoding(source: str) -> Iterator[tuple[int, str]]:
    """Calls that read or write text in the encoding of the machine's locale; `ruff` finds those whose type it knows."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        binary = any("b" in mode for mode in modes if set(mode) <= set("rwabxt+"))
        text_methods = name in ("read_text", "write_text") and bool(owner)
        # `timeout`: that opens an address.
        of_the_web = any(keyword.arg == "timeout" for keyword in node.keywords)
        opened = name == "open" and owner not in ("os", "gzip", "tokenize") and not binary and not of_the_web
        of_a_program = any(keyword.arg in ("text", "universal_newlines") for keyword in node.keywords)
        if text_methods or (opened and (owner or node.args)) or (name == "fdopen" and not binary) or of_a_program:
            yield node.lineno, ast.unparse(node)


def test_every_text_file_has_its_encoding() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {call}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, call in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "path.read_text()", "(a / b).write_text(x)", "a.write_text(x, errors='replace')", "open(path)", "path.open()",
        "path.open('a')", "path.open(mode='r+')", "os.fdopen(1, 'w')", "self.path.read_text()", "open(path, mode='x')",
        "open(path, 'w')", "subprocess.run(command, text=True)", "Popen(command, universal_newlines=True)",
    ],
)  # fmt: skip
def test_a_missing_encoding_is_found(line: str) -> None:
    assert list(without_encoding(line))


@pytest.mark.parametrize(
    "line",
    [
        "path.read_text(encoding='utf-8')", "open(path, 'rb')", "path.open('ab', buffering=0)", "os.open(path, 0)",
        "read_text(path)", "path.open(encoding='utf-8')", "os.fdopen(1, 'wb')",
    ],
)  # fmt: skip
def test_what_has_an_encoding_or_needs_none(line: str) -> None:
    assert not list(without_encoding(line))
