"""Whole files: complete under their name, or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from file_size import limited

from aspo_megatron.errors import UserError
from aspo_megatron.files import whole_file, write_whole


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("content", ["", "a\n", "é\n" * 9, b"\x00\xff", "x" * 9_999])
def test_content_is_what_was_given(tmp_path: Path, content: str | bytes, durable: bool) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, "before")
    write_whole(path, content, durable=durable)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert os.listdir(path.parent) == ["file"]


def test_half_of_a_surrogate_pair_is_written_as_json_has_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", '"\ud800"')
    assert (tmp_path / "file").read_text() == r'"\ud800"'


@pytest.mark.parametrize("size", [10_001, 20_000, 1_000_000])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, before: bytes | None, size: int) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(UserError, match=r"file: cannot be written: File too large$"), limited(10_000):
        write_whole(path, b"x" * size)
    assert os.listdir(tmp_path) == ([] if before is None else ["file"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_at_the_end_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match=f"file: cannot be written: {os.strerror(code)}"):
        write_whole(path, "new", durable=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_folder_that_is_a_file_and_the_file_that_is_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/below: cannot be written: File exists"):
        write_whole(tmp_path / "file" / "below", "text")
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        write_whole(tmp_path, "text")


def test_whatever_ends_the_block_removes_what_it_wrote(tmp_path: Path) -> None:
    def fail(error: BaseException) -> None:
        with whole_file(tmp_path / "file") as partial:
            partial.write_text("half")
            raise error

    for error in (ValueError("no"), KeyboardInterrupt(), UserError("no")):
        with pytest.raises(type(error)):
            fail(error)
        assert os.listdir(tmp_path) == []


def test_a_device_is_written_itself_and_a_link_leads_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/dev/full: cannot be written: No space left on device"):
        write_whole(Path("/dev/full"), "text")
    write_whole(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()
    (tmp_path / "link").symlink_to("there")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "text"
