"""What streams do to text: of this process, of another one, of the bars of libraries, of this program's displays."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from aspo_megatron.streams import ShownStream, hand_over, say, show, unfailing
from text.hostile import KINDS, faults


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


PLACES = pytest.mark.parametrize("place", [io.StringIO, Terminal], ids=["file", "terminal"])


@PLACES
@pytest.mark.parametrize("kind", KINDS)
def test_whoever_prints_prints_text(kind: str, place: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = shown_on(place(), monkeypatch)
    text = f"before{KINDS[kind]}after"
    show(text)
    say(text)
    with unfailing():
        print(text)
        print(text, file=sys.stderr)
        sys.stdout.writelines([text, "\n"])
        show(text, end="")
    ShownStream(stream).show(text.encode(errors="replace"))
    assert faults(stream.getvalue().replace("\0", ""), own=False) == []  # a zero of another process stays in a file
    assert stream.getvalue().count("before") == stream.getvalue().count("after") == 7
    stream.getvalue().encode()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pieces_of_another_process_s_output_are_whole_text(size: int) -> None:
    stream = io.StringIO()
    shown, data = ShownStream(stream), "naïve 中文 👩 \x1b[2J\u202e\n".encode()
    for start in range(0, len(data), size):
        shown.show(data[start : start + size])
    assert stream.getvalue() == "naïve 中文 👩 ␛[2J\\u202e\n"
    shown.show(b"\r 1%\r 2%\n\xff\xfe\n")
    assert stream.getvalue().endswith("\n\n 1%\n 2%\n��\n")


def test_what_is_no_text_is_passed_on_into_a_file_alone(tmp_path: Path) -> None:
    data = b"\xff\x00\xfe a \x1b[2J \xe2\x80\xae\n"
    with (tmp_path / "file").open("w", encoding="utf-8") as file:
        ShownStream(file).show(data)
    assert (tmp_path / "file").read_bytes() == b"\xff\x00\xfe a \xe2\x90\x9b[2J \\u202e\n"
    terminal = Terminal()
    ShownStream(terminal).show(data)
    assert terminal.getvalue() == "�␀� a ␛[2J \\u202e\n"


def test_bars_of_libraries_are_drawn_in_place_in_a_terminal_alone() -> None:
    for stream, begin, up in ((Terminal(), "\r", "\x1b[A"), (io.StringIO(), "\n", "␛[A")):
        shown = ShownStream(stream)
        shown.write("\r 10% file\x1b[2J")
        shown.write("\x1b[A")
        shown.write("\x1b[A\x1b[31mEVIL")
        assert stream.getvalue() == f"{begin} 10% file␛[2J{up}␛[A␛[31mEVIL"


@PLACES
def test_displays_draw(place: type[io.StringIO]) -> None:
    stream = place()
    ShownStream(stream).draw("\x1b[31mred\x1b[0m\ud800")
    assert stream.getvalue() == "\x1b[31mred\x1b[0m\\ud800"


@PLACES
def test_what_a_program_is_to_read_is_as_it_is(place: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = shown_on(place(), monkeypatch)
    hand_over("#!/bin/sh\necho '\u00ad\x1b[2J'\n")
    shown = "\\u00ad␛[2J" if stream.isatty() else "\u00ad\x1b[2J"
    assert stream.getvalue() == f"#!/bin/sh\necho '{shown}'\n"
