"""Files of other people: what cannot be read is one line that names the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aspo_megatron.errors import CheckpointError, UserError
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
