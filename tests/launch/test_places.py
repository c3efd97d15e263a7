"""Where a thread stands, and whether it waits there, is read off one line of source; nothing of the file is kept."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import FrameType

import pytest

from aspo_megatron.launch.rank_status import place_of

LINES = {
    "work.wait()": True,
    "work.wait(timeout)": True,
    "x = wait_tensor(y)": False,
    "x = funcol.wait_tensor(y)": True,
    "torch.cuda.synchronize()": True,
    "number = loss.item()": True,
    "numbers = losses.tolist()": True,
    "host = tensor.cpu()": True,
    "array = tensor.detach().numpy()": True,
    "x = y @ z": False,
    "items = list(y.items())": False,
    "waiting = True": False,
    "name = 'größer'; host = tensor.cpu()": True,
}


class _Stop(Exception):
    pass


def frame_at(path: str, source: str, line: int) -> FrameType:
    """A frame that stands at a line of a file; the code of that line is another, which ends there."""
    code = "\n" * (line - 1) + "raise stop"
    try:
        exec(compile(code, path, "exec"), {"stop": _Stop()})
    except _Stop as stop:
        trace = stop.__traceback__
        assert trace is not None
        assert trace.tb_next is not None
        if source:
            Path(path).write_text(source, encoding="utf-8")
        return trace.tb_next.tb_frame
    raise AssertionError(path)


@pytest.mark.parametrize("text", LINES)
@pytest.mark.parametrize("line", [1, 7, 400])
def test_a_line_that_waits(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "code.py"
    frame = frame_at(str(path), "# nothing\n" * (line - 1) + text + "\nlast = None\n", line)
    place, waits = place_of(frame)
    assert place == f"{tmp_path.name}/code.py:{line} <module>"
    assert waits is LINES[text]
    assert str(path) not in linecache.cache


@pytest.mark.parametrize("path", ["/no/such/file.py", "<string>", "<frozen importlib._bootstrap>", "/", ""])
def test_a_file_that_is_not_there_waits_for_nobody(path: str) -> None:
    assert not place_of(frame_at(path, "", 3))[1]


@pytest.mark.parametrize(
    "content", [b"", b"x = 1\n", b"\xff\xfe\x00", b"# coding: no-such\n\nx.cpu()\n", b"\n\n\x80.cpu()"]
)
def test_a_file_that_has_changed_waits_for_nobody(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "code.py"
    path.write_bytes(content)
    assert not place_of(frame_at(str(path), "", 3))[1]


def test_where_this_test_stands() -> None:
    assert place_of(sys._getframe())[0].startswith("launch/test_places.py:")
