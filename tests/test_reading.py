"""Files of other people: what cannot be read is one line that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from thorough import one_in

from aspo_megatron import reading
from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.errors import CheckpointError, UserError
from aspo_megatron.evaluation.results import read_scores
from aspo_megatron.folders import MANIFEST
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import parse_json, read_json, read_text

BAD = {
    "empty": (b"", "not JSON"),
    "cut": (b'{"a": [1, 2', "not JSON"),
    "no UTF-8": (b'{"a": "\xff"}', "not UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "zeros": (b"\0" * 100, "not JSON"),
    "nested lists": (b"[" * 200_000, "JSON that is nested too deeply"),
    "nested mappings": (b'{"a":' * 200_000, "JSON that is nested too deeply"),
    "a number of many digits": (b'{"a": 1' + b"0" * 10_000 + b"}", "not JSON"),
    "two values": (b"{} {}", "not JSON"),
    "an escape sequence": (b'{"a": \x1b[31m}', "not JSON"),
    "large": (b'"' + b"x" * 2000 + b'"', "larger than"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_json_is_one_line(tmp_path: Path, kind: str) -> None:
    content, reason = BAD[kind]
    path = tmp_path / "a\x1bb.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_json(path, CheckpointError, most_bytes=1024 if kind == "large" else 2**21)
    assert str(error.value).startswith(f"{tmp_path}/a␛b.json: {reason}")
    assert one_line(error.value) == str(error.value)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("x" * 300, "cannot be read: File name too long"),
        ("a\0b", "cannot be read: embedded null byte"),
        ("file/within", "cannot be read: Not a directory"),
    ],
)
def test_what_is_no_file_is_one_line(tmp_path: Path, kind: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        read_text(tmp_path / kind)
    assert str(error.value) == f"{one_line(tmp_path / kind)}: {reason}"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bom.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    assert read_json(path) == {"a": "é"}
    link = tmp_path / "link.json"
    link.symlink_to(path)
    assert read_json(link) == {"a": "é"}


def test_lines_of_json_name_their_place() -> None:
    assert parse_json(b'{"a": "\\ud83d"}', "x.jsonl, line 3") == {"a": "\ud83d"}
    with pytest.raises(UserError, match=r"^x\.jsonl, line 3: not JSON: "):
        parse_json("{", "x.jsonl, line 3")


MANY = "[" + "{}," * 3_000_000 + "{}]"
"""A file of 9 MB, which would take 200 MB as values."""


def test_files_of_many_values_are_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))
    (tmp_path / "a.scores.json").write_text(MANY)
    (tmp_path / MANIFEST).write_text(MANY)
    for name, read in {
        "a.scores.json": lambda: read_scores(tmp_path / "a.scores.json"),
        MANIFEST: lambda: read_manifest(tmp_path),
    }.items():
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == f"{tmp_path / name}: JSON of more than 4,194,304 values, which is not read"


@pytest.mark.parametrize(
    ("text", "many"),
    [
        ("[1,2,3,4]", False),
        ("[1,2,3,4,5]", True),
        ("[[[[[1]]]]]", True),
        ('{"a":{},"b":{}}', False),
        ('{"a":{},"b":{},"c":{}}', True),
        ('["a,,,,,","[[[[{{{{"]', False),
        (r'["\\",",,,,,"]', False),
        (r'["\",,,,,\\\"",1]', False),
        (r'["\\",1,2,3,4]', True),
        (r'["\n,,,,,,,\\",1]', False),
        ('{"a":"b","c":"d","e":"f","g":"h"}', False),
        ("[1,2,3,4" + " " * 100 + "]", False),
    ],
)
@pytest.mark.parametrize("code", [None, "utf-8", "utf-16"])
def test_values_are_counted(text: str, many: bool, code: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_VALUES", 4)
    content = text if code is None else text.encode(code)
    if not many:
        assert parse_json(content, "a") == json.loads(text)
        return
    with pytest.raises(UserError, match=r"^a: JSON of more than 4 values"):
        parse_json(content, "a")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text", one_in(3, ['""' * 3_000_000 + MANY, '"' + "\\," * 9_000_000, '["a,b",' * 4_000_000 + "["])
)
def test_what_is_no_json_is_not_gone_through_for_ever(text: str) -> None:
    with pytest.raises(UserError, match=r"not JSON|more than"):
        parse_json(text, "a")


def test_long_texts_are_no_values() -> None:
    """Such as tests of several MiB: numbers in a text, with commas."""
    text = "1,2,3\n" * 3_000_000
    assert parse_json(json.dumps([{"input": text, "output": "1"}]), "a")[0]["input"] == text
