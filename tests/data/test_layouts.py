"""Problems as people have them: chats, fields within fields, every format, several files; and bad rows among them."""

from __future__ import annotations

import gzip
import json
import logging
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow.parquet import write_table

from aspo_megatron.config.data import SourceConfig
from aspo_megatron.data.records import ProblemRecord
from aspo_megatron.data.sources import files
from aspo_megatron.data.sources.fields import ABSENT, lookup
from aspo_megatron.data.sources.read import read_source
from aspo_megatron.errors import ConfigError

KEY = "data.train"
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "1 + 1?"}
ASSISTANT = {"role": "assistant", "content": "2"}
NEXT = {"role": "user", "content": "And 2 + 2?"}


def verl(chat: Any = (USER,), answer: Any = "2", **more: Any) -> dict[str, Any]:
    """A row as verl has it."""
    row = {"data_source": "math_dapo", "prompt": chat if isinstance(chat, str) else list(chat), "ability": "MATH"}
    return row | {"reward_model": {"ground_truth": answer, "style": "rule"}, "extra_info": {"index": "a-1"}} | more


def to_parquet(path: Path, rows: list[Any]) -> Path:
    write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def to_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(
    path: Path | str | list[str], kind: str = "files", on_bad: Any = "refuse", **options: Any
) -> list[ProblemRecord]:
    paths = path if isinstance(path, list) else str(path)
    source = SourceConfig.model_validate({"kind": kind, "path": paths, **options})
    return list(read_source(source, KEY, on_bad=on_bad))


def refusal(path: Path | str | list[str], **options: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        read(path, **options)
    said = str(refused.value)
    assert said.isprintable(), said
    return said


@pytest.mark.parametrize("kind", ["files", "jsonl", "huggingface"])
def test_verl_s_layout(tmp_path: Path, kind: str) -> None:
    path = to_parquet(tmp_path / "verl.parquet", [verl(), verl((SYSTEM, USER, ASSISTANT, NEXT), "4")])
    one, chat = read(path, kind, answer_field="reward_model.ground_truth")
    assert (one.question, one.answer, one.messages) == ("1 + 1?", "2", ())
    assert (chat.question, chat.answer, chat.messages) == ("And 2 + 2?", "4", (SYSTEM, USER, ASSISTANT))
    assert one.metadata["reward_model"]["style"] == "rule"
    assert set(one.metadata) == {"data_source", "ability", "reward_model", "extra_info"}
    assert one.id == ("verl-train-0" if kind == "huggingface" else "verl-0")
    said = refusal(path, kind=kind)
    assert said.endswith("extra_info. Set data.train.answer_field=reward_model.ground_truth")


ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[Any, ...]]] = {
    "a name with a dot comes first": (
        {"a.b": "1", "a": {"b": "2"}, "prompt": "p"}, {"answer_field": "a.b"}, ("p", "1", ())
    ),
    "a place in a list": (
        {"messages": [USER, ASSISTANT]},
        {"prompt_field": "messages.0.content", "answer_field": "messages.1.content"},
        ("1 + 1?", "2", ()),
    ),
    "JSON in texts": (
        verl(json.dumps([SYSTEM, USER])) | {"reward_model": '{"ground_truth": 2}'},
        {"answer_field": "reward_model.ground_truth"},
        ("1 + 1?", "2", (SYSTEM,)),
    ),
    "null around an answer": (
        verl() | {"reward_model": None}, {"answer_field": "reward_model.x"}, ("1 + 1?", None, ())
    ),
    "parts of a message": (
        verl([{"role": "user", "content": [{"type": "text", "text": "1 "}, {"type": "text", "text": "+ 1?"}]}]),
        {"answer_field": None}, ("1 + 1?", None, ()),
    ),
    "roles of ShareGPT": (
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "1 + 1?"}]},
        {"prompt_field": "conversations", "answer_field": None}, ("1 + 1?", None, (SYSTEM,)),
    ),
    "fields of a message that are null": (
        verl([USER | {"name": None, "tool_calls": None}]), {"answer_field": None}, ("1 + 1?", None, ())
    ),
    "a question in brackets": ({"prompt": "[1] + [2]?"}, {"answer_field": None}, ("[1] + [2]?", None, ())),
    "a list that is no chat": ({"prompt": '[{"a": 1}]'}, {"answer_field": None}, ('[{"a": 1}]', None, ())),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows(tmp_path: Path, name: str) -> None:
    row, options, expected = ROWS[name]
    (record,) = read(to_jsonl(tmp_path / "d.jsonl", [row]), **options)
    assert (record.question, record.answer, record.messages) == expected


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        (
            [SYSTEM, USER, ASSISTANT],
            "row 0: field 'prompt' ends with a message by assistant; the last one must be what the user asks: take out "
            "all behind message 1, or name its text as the field: prompt.1.content",
        ),
        (
            [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
            "name its text as the field: prompt.0.value",
        ),
        ([SYSTEM], "ends with a message by system; the last one must be what the user asks. Or leave"),
        ([USER | {"role": "narrator"}], "has the role 'narrator' in message 0; roles are system, user, assistant"),
        ([{"role": 1, "content": "a"}], "has the role 1 in message 0"),
        ([USER, {"content": "a"}], "has the role None in message 1"),
        ([{"role": "user", "content": None}], "has no text in message 0 but None"),
        ([{"role": "user", "content": " "}], "must be a non-empty text, not [{"),
        ([{"role": "user", "content": [{"type": "image", "image": "x"}]}], "has a part that is no text in message 0"),
        ([ASSISTANT | {"tool_calls": [{"id": 1}]}, USER], "has calls of tools in message 0"),
        ([SYSTEM | {"content": "\ud800"}, USER], "holds half of a surrogate pair"),
        (str([USER]), "is a list of messages as Python prints it, in a text; write it as a list, or as JSON"),
    ],
)
def test_chats_that_cannot_be_asked(tmp_path: Path, chat: Any, said: str) -> None:
    (tmp_path / "d.json").write_text(json.dumps([verl(chat), verl()]))
    refused = refusal(tmp_path / "d.json", answer_field="reward_model.ground_truth")
    assert f"{KEY}: 1 of 2 problems cannot be used" in refused
    assert said in refused
    assert len(read(tmp_path / "d.json", answer_field="reward_model.ground_truth", on_bad="drop")) == 1


def test_earlier_turns_make_another_problem(tmp_path: Path) -> None:
    chats = [[USER], [SYSTEM, USER], [SYSTEM | {"content": "Be long."}, USER], [SYSTEM, USER]]
    path = to_jsonl(tmp_path / "d.jsonl", [*({"prompt": chat} for chat in chats), {"prompt": "1 + 1?"}])
    source = SourceConfig(kind="files", path=str(path), answer_field=None)
    identities = [tuple(row) for row in read_source(source, KEY).take_identities().tolist()]
    assert identities[0] == identities[4]
    assert identities[1] == identities[3]
    assert len(set(identities)) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a", "gold": "1"}, "Set data.train.prompt_field=question and data.train.answer_field=gold"),
        ({"Problem": "a", "answer": "1"}, "Set data.train.prompt_field=Problem"),
        ({"prompt": "a", "solution": "1"}, "Set data.train.answer_field=solution"),
        ({"prompt": "a", "level": 1}, "Set data.train.answer_field, which is null if there are no answers"),
        ({"text": "a"}, "Set data.train.prompt_field and data.train.answer_field, which is null if there are no"),
        ({"input": "a", "answer": 1}, "the fields there are: input, answer. Set data.train.prompt_field=input"),
    ],
)  # fmt: skip
def test_the_keys_to_set_are_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    refused = refusal(to_jsonl(tmp_path / "d.jsonl", [row, row]))
    assert refused.startswith(f"{tmp_path}/d.jsonl:1: no field ")  # the name is wrong, not two rows
    assert said in refused


def test_bad_rows_are_all_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = json.dumps({"prompt": "a", "answer": "1"})
    lines = [
        good,
        "{",
        '{"prompt": "", "answer": 1}',
        '{"prompt": "b"}',
        "[]",
        good.replace('"a"', '"c"'),
        '{"prompt": " "',
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(lines))
    said = refusal(path)
    assert said.startswith(
        "data.train: 5 of 7 problems cannot be used (not valid JSON: 2, no question: 1, no field 'answer': 1, not an "
        f"object: 1); the first: {path}:2: not valid JSON"
    )
    assert said.endswith("Or leave such problems out with data.on_bad=drop")
    with caplog.at_level(logging.WARNING):
        assert [record.question for record in read(path, on_bad="drop")] == ["a", "c"]
    assert "5 of 7 problems cannot be used" in caplog.text
    assert [record.question for record in read(path, limit=1)] == ["a"]
    path.write_text("{\n[]\n")
    assert "2 of 2 problems cannot be used" in refusal(path, on_bad="drop")


ROWS_OF_FILES = [{"prompt": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]

WRITERS: dict[str, Callable[[Path], object]] = {
    "d.jsonl": lambda path: to_jsonl(path, ROWS_OF_FILES),
    "d.json": lambda path: path.write_text(json.dumps(ROWS_OF_FILES, indent=2)),
    "d.parquet": lambda path: to_parquet(path, ROWS_OF_FILES),
    "d.jsonl.gz": lambda path: path.write_bytes(gzip.compress(to_jsonl(path, ROWS_OF_FILES).read_bytes())),
    "d.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps({"rows": ROWS_OF_FILES}).encode())),
    "behind.json": lambda path: path.write_text(
        json.dumps({"about": {"by": ["x"]}, "marks": [], "by": [{"name": "x"}], "data": ROWS_OF_FILES}, indent=1)
    ),
    "spread.json": lambda path: path.write_text("\n".join(json.dumps(row, indent=1) for row in ROWS_OF_FILES)),
    "spread.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress(("\ufeff" + "".join(json.dumps(row, indent=1) for row in ROWS_OF_FILES)).encode())
    ),
    "lines.json": lambda path: to_jsonl(path, ROWS_OF_FILES),
    "list.jsonl": lambda path: path.write_text(json.dumps(ROWS_OF_FILES)),
    "d.txt": lambda path: to_jsonl(path, ROWS_OF_FILES),
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    records = read(tmp_path / name)
    assert [(record.question, record.answer) for record in records] == [
        (row["prompt"], row["answer"]) for row in ROWS_OF_FILES
    ]
    assert records[2].id == f"{name.partition('.')[0]}-2"


def test_one_problem_on_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps(verl(), indent=2) + "\n")
    (record,) = read(path, answer_field="reward_model.ground_truth")
    assert (record.id, record.question, record.answer) == ("d-0", "1 + 1?", "2")
    path.write_text('{\n"prompt": "a",\n"answer": 1\n}\n{\n"prompt": "b",\n')
    assert refusal(path).startswith(f"{path} row 1: not valid JSON (")
    path.write_text('{\n"prompt": "a",\n"answer": 1\n}\n[]\n')
    assert "1 of 2 problems cannot be used (not an object: 1); the first: " in refusal(path)


def test_an_arrow_file_is_for_the_library(tmp_path: Path) -> None:
    (tmp_path / "d.arrow").write_bytes(b"ARROW1")
    cure = "d.arrow: give a JSONL, JSON, CSV or Parquet file, or set data.train.kind=huggingface"
    assert refusal(tmp_path / "d.arrow").endswith(cure)


def test_folders_as_the_hub_has_them(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "README.md").write_text("---")
    (tmp_path / "set" / "dataset_infos.json").write_text('{"default": {}}')
    said = refusal(tmp_path / "set")
    assert said.endswith(
        "set is a folder without .jsonl, .json, .csv or .parquet files; give a JSONL, JSON, CSV or Parquet file"
    )
    to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", ROWS_OF_FILES)
    said = refusal(tmp_path / "set")
    assert said.endswith(f"set is a folder without files of problems; give {tmp_path}/set/data, which has some")
    (tmp_path / "set" / "data" / "dataset_infos.json").write_text('{"default": {}}')
    assert len(read(tmp_path / "set" / "data")) == 3


def test_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        to_jsonl(folder / f"part-{2 - number}.jsonl", [{"prompt": f"{2 - number}", "answer": 1}])
    (folder / "README.md").write_text("of another kind")
    (folder / ".hidden.jsonl").write_text("{")

    def questions(path: Any) -> list[str]:
        return [record.question for record in read(path)]

    assert questions("data") == questions("~/data") == questions("data/*.jsonl") == ["0", "1", "2"]
    assert questions(["data/part-2.jsonl", "data/part-0.jsonl"]) == ["2", "0"]
    assert questions(["data/part-2.jsonl", "data/part-[01].*"]) == ["2", "0", "1"]
    assert [record.id for record in read("data")] == ["data-0", "data-1", "data-2"]
    assert "data.train.path: no file matches data/*.json" in refusal("data/*.json")
    assert "none.jsonl does not exist" in refusal(["data/part-0.jsonl", "none.jsonl"])
    to_jsonl(folder / "test.jsonl", [{"prompt": "9", "answer": 1}])
    to_jsonl(folder / "train.jsonl", [{"prompt": "9", "answer": 1}])
    assert "files of several splits (part-0" in refusal("data")
    to_parquet(folder / "more.parquet", ROWS_OF_FILES)
    (folder / "test.jsonl").unlink()
    assert "files of several formats" in refusal("data")
    (folder / "dataset_info.json").touch()
    assert "is a dataset that `datasets` has saved; set kind: huggingface" in refusal("data")
    with pytest.raises(ValueError, match="kind files needs `path`"):
        SourceConfig.model_validate({"kind": "files", "path": []})
    with pytest.raises(ValueError, match="takes one path"):
        SourceConfig.model_validate({"kind": "huggingface", "path": ["a", "b"]})


def test_a_file_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_UNPACKED", 2**20)
    path = tmp_path / "d.jsonl.gz"
    good = b'{"prompt": "a", "answer": "b"}\n'
    path.write_bytes(gzip.compress(good + b"\n" * 2**22))
    assert "d.jsonl.gz: unpacks to more than 1 MiB, 250 times its size or more" in refusal(path)
    path.write_bytes(gzip.compress(gzip.compress(good)))
    assert "holds a compressed file; gunzip it" in refusal(path)
    path.write_bytes(gzip.compress(good * 100_000)[:-20])
    assert "d.jsonl.gz: damaged: the gzip data cannot be unpacked" in refusal(path)


def test_parquet_that_is_damaged(tmp_path: Path) -> None:
    path = to_parquet(tmp_path / "d.parquet", ROWS_OF_FILES)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    assert "d.parquet row 0: cannot be read: " in refusal(path)
    path.write_bytes(content[:-6])
    assert "d.parquet: not a whole Parquet file: " in refusal(path)


def test_parquet_needs_a_library_that_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = to_parquet(tmp_path / "d.parquet", ROWS_OF_FILES)
    monkeypatch.setattr(pyarrow, "__version__", "14.0.0")
    assert "pyarrow 14.0.0 may run code of a file; install 15 or newer" in refusal(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "is a Parquet file, which needs the package `pyarrow`" in refusal(path)


def test_lookup() -> None:
    fields: dict[str, Any] = {
        "a": {"b.c": 1, "b": {"d": 2}}, "l": [{"x": 3}], "n": None, "t": '{"y": [4, 5]}', "m": np.array([6, 7]),
        "s": "text", "broken": "{",
    }  # fmt: skip
    values = {"a.b.c": 1, "a.b.d": 2, "l.0.x": 3, "n.x.y": None, "t.y.1": 5, "m.1": 7, "l.0": {"x": 3}}
    assert {name: lookup(fields, name) for name in values} == values
    for name in ("a.c", "l.1", "l.x", "l.-1", "l.\u00b2", "s.x", "broken.x", "", "a.", "m.1.2"):
        assert lookup(fields, name) is ABSENT


def test_answers_of_other_types(tmp_path: Path) -> None:
    path = to_parquet(tmp_path / "d.parquet", [{"prompt": "a", "answer": Decimal("1.50"), "x": 1.5, "n": [1, 2]}])
    assert read(path)[0].answer == "1.50"
    assert read(path, answer_field="x")[0].answer == "1.5"
    assert "field 'n' must be a text or a number, not [1, 2]" in refusal(path, answer_field="n")
