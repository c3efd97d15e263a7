"""CSV and TSV: what spreadsheets and pandas write is read; what would be a mistake is one line that names the row."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config.data import SourceConfig
from aspo_megatron.data.sources import tables
from aspo_megatron.data.sources.read import read_source
from aspo_megatron.errors import ConfigError

KEY = "data.train"


def read(path: Path, **options: Any) -> list[tuple[str, str | None]]:
    source = SourceConfig.model_validate({"kind": "files", "path": str(path), **options})
    return [(record.question, record.answer) for record in read_source(source, KEY)]


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        read(path, **options)
    said = str(refused.value)
    assert said.isprintable(), said
    assert len(said) < 1000, said
    return said


GOOD: dict[str, tuple[str, bytes, list[tuple[str, str | None]]]] = {
    "plain": ("d.csv", b"prompt,answer\na,1\nb,2\n", [("a", "1"), ("b", "2")]),
    "Windows, with a byte order mark": ("d.csv", b"\xef\xbb\xbfprompt,answer\r\na,1\r\n", [("a", "1")]),
    "no newline at the end": ("d.csv", b"prompt,answer\na,1", [("a", "1")]),
    "quotes": ("d.csv", b'prompt,answer\n"a ""b"", c\nd",1\n', [('a "b", c\nd', "1")]),
    "numbers as they are written": ("d.csv", b"prompt,answer\na,007\nb,1.50\n", [("a", "007"), ("b", "1.50")]),
    "an empty answer": ("d.csv", b"prompt,answer\na,\n", [("a", None)]),
    "an index, spaces in the names": ("d.csv", b", prompt , answer\n0,a,1\n1,b,2\n", [("a", "1"), ("b", "2")]),
    "empty rows": ("d.csv", b"\nprompt,answer\n\na,1\n,\n , \nb,2\n\n", [("a", "1"), ("b", "2")]),
    "tabs": ("d.tsv", b"prompt\tanswer\na, b\t1\n", [("a, b", "1")]),
    "compressed": ("d.csv.gz", gzip.compress(b"prompt,answer\na,1\n"), [("a", "1")]),
    "messages": (
        "d.csv", b'prompt,answer\n"[{""role"": ""user"", ""content"": ""a""}]",1\n', [("a", "1")]
    ),
    "a long field": ("d.csv", b"prompt,answer\n" + b"x" * 300_000 + b",1\n", [("x" * 300_000, "1")]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["files", "huggingface"])
@pytest.mark.parametrize("name", GOOD)
def test_tables_that_are_read(tmp_path: Path, name: str, kind: str) -> None:
    file, content, expected = GOOD[name]
    (tmp_path / file).write_bytes(content)
    before = csv.field_size_limit()
    assert read(tmp_path / file, kind=kind) == expected
    assert csv.field_size_limit() == before


BAD: dict[str, tuple[str, bytes, str]] = {
    "another column": (
        "d.csv", b"question,solution,level\na,1,3\n",
        "d.csv:2: no field 'prompt'; the fields there are: question, solution, level. Set "
        "data.train.prompt_field=question and data.train.answer_field=solution",
    ),
    "names alone": ("d.csv", b"prompt,answer\n", "d.csv holds no problem"),
    "nothing": ("d.csv", b"", "d.csv holds no problem"),
    "more fields": (
        "d.csv", b"prompt,answer\na,1\nb, c,2\n",
        "1 of 2 problems cannot be used (more fields than columns: 1); the first: {}:3: 3 fields, but the first line "
        "names 2 columns; put texts with a separator or a quote in them in quotes",
    ),
    "fewer fields": ("d.csv", b"prompt,answer\na\n", "d.csv:2: 1 field, but the first line names 2 columns"),
    "the line that a row begins on": ("d.csv", b'prompt,answer\n"a\nb",1\n"c\nd"\n', "d.csv:4: 1 field, but"),
    "two columns of one name": ("d.csv", b"prompt,answer,prompt\na,1,b\n", "d.csv:1: two columns are named 'prompt'"),
    "semicolons": (
        "d.csv", b"prompt;answer\na;1\n",
        "d.csv:1: the names of the columns are separated by semicolons, not commas; save it with commas",
    ),
    "tabs": ("d.csv", b"prompt\tanswer\na\t1\n", "separated by tabs, not commas; name the file .tsv"),
    "commas": ("d.tsv", b"prompt,answer\na,1\n", "separated by commas, not tabs; save it with tabs"),
    "a quote that is not closed": ("d.csv", b'prompt,answer\n"a,1\nb,2\n', "d.csv:2: the file ends within quotes"),
    "a quote alone": ("d.csv", b'prompt,answer\n"a"b,1\n', "d.csv:2: not valid CSV"),
    "CR alone": ("d.csv", b"prompt,answer\ra,1\r", "d.csv:1: a line ends with CR alone"),
    "zero bytes": (
        "d.csv", b"prompt,answer\na,1\n\0\0\n", "1 of 2 problems cannot be used (zero bytes: 1); the first: {}:3: holds"
    ),
    "latin-1": ("d.csv", b"prompt,answer\na,1\ncaf\xe9,2\n", "(not UTF-8 text: 1); the first: {}:3: not UTF-8 text"),
    "names in latin-1": ("d.csv", b"prompt,caf\xe9\na,1\n", "d.csv:1: not UTF-8 text"),
    "utf-16": ("d.csv", "prompt,answer\na,1\n".encode("utf-16"), "d.csv: not UTF-8 text: the file is UTF-16"),
    "many fields": ("d.csv", b"prompt,answer\n" + b"," * 5_000_000, "d.csv:2: a row of more than 256 MiB or 4,194,304"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_tables_that_are_refused(tmp_path: Path, name: str) -> None:
    file, content, said = BAD[name]
    (tmp_path / file).write_bytes(content)
    assert said.replace("{}", str(tmp_path / file)) in refusal(tmp_path / file)


def test_a_field_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_FIELD_CHARACTERS", 1000)
    (tmp_path / "d.csv").write_text('prompt,answer\na,1\n"b,2\n' + "c,3\n" * 1000)
    assert "d.csv:3: a field of more than 1,000 characters; is a quote not closed?" in refusal(tmp_path / "d.csv")
    monkeypatch.setattr(tables, "MOST_LINE_BYTES", 500)
    assert "d.csv:3: a row of more than" in refusal(tmp_path / "d.csv")


def test_a_folder_of_tables(tmp_path: Path) -> None:
    for number in (1, 0):
        (tmp_path / f"part-{number}.csv").write_text(f"prompt,answer\nq{number},{number}\n")
    assert read(tmp_path) == read(tmp_path / "*.csv") == [("q0", "0"), ("q1", "1")]
    (tmp_path / "part-2.tsv").write_text("prompt\tanswer\nq2\t2\n")
    assert "has files of several formats" in refusal(tmp_path)
