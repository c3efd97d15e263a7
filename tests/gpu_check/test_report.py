"""What is written down: numbers for programs, a page that is one file, a table for the documentation."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aspo_megatron.errors import UserError
from benchmarks.gpu_check.lines import Line, Sheet, Status, read_lines
from benchmarks.gpu_check.machine import Machine, ask_machine, find_machine
from benchmarks.gpu_check.report import Report, closing_row, figure_text, markdown, page, terminal_row, write_report
from benchmarks.gpu_check.sections import SECTIONS, Section

ONE = Section("one", "The first <section>", "nowhere", 10.0)
TWO = Section("two", "The second", "nowhere", 10.0)
THREE = Section("three", "The third", "nowhere", 10.0)
LINES = [
    Line("one", "error | of q", Status.PASSED, 0.00312, "", "fp64 & more", "<= 0.02", "", 1.5),
    Line("one", "not a number", Status.FAILED, math.nan, "", "fp64", "<= 0.02", "first\n<script>", 0.5),
    Line("one", "speed", Status.MEASURED, 2345.6, "GB/s", "", "", "half of it", 2.0),
    Line("two", "many GPUs", Status.NOT_DONE, None, "", "", "", "needs 2 GPUs, 1 here", 0.0),
]


def report(lines: list[Line] = LINES, *, small: bool = False) -> Report:
    machine = Machine({"torch": "2.11.0", "triton": None, "driver": "580.1"}, ["NVIDIA H100 (79 GiB)"])
    return Report(machine, "2026-01-02T03:04:05+00:00", small, (ONE, TWO), lines, 61.4)


def test_json(tmp_path: Path) -> None:
    paths = write_report(report(), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["gpu_check.json", "gpu_check.html", "gpu_check.md"]
    found = json.loads(paths[0].read_text(), parse_constant=pytest.fail)
    assert found["totals"] == {"passed": 1, "failed": 1, "held on cpu": 0, "measured": 1, "not done": 1}
    assert found["cards"] == ["NVIDIA H100 (79 GiB)"]
    assert found["versions"] == {"torch": "2.11.0", "triton": None, "driver": "580.1"}
    assert (found["date"], found["seconds"], found["small"]) == ("2026-01-02T03:04:05+00:00", 61.4, False)
    assert [line["figure"] for line in found["lines"]] == [0.00312, None, 2345.6, None]
    assert found["lines"][1]["note"].startswith("figure: nan.")


class Tags(HTMLParser):
    """Checks that tags nest; keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_one_file_and_escapes_what_it_is_given() -> None:
    text = page(report())
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert not tags.seen & {"script", "link", "img", "iframe"}
    assert "http" not in text.replace("http-equiv", "")
    for words in ("<script>", "error | of q", "fp64 & more", "The first <section>", "0.00312", "2346 GB/s", "<= 0.02"):
        assert words in tags.text
    assert tags.text.index("Failed") < tags.text.index("The first <section>")
    assert "1 passed, 1 failed, 1 measured, 1 not done; 61 s" in tags.text
    assert "NVIDIA H100" in tags.text


def test_page_counts_the_lines_of_each_section_and_leads_to_them() -> None:
    text = page(Report(report().machine, "today", False, (ONE, TWO, THREE), LINES, 61.4))
    overview = text[text.index("<h2>Sections</h2>") : text.index('<h2 id="one">')]
    rows = [re.findall(r">([^<>]*)</t[dh]>", row) for row in overview.split("<tr>")[1:]]
    assert rows[0] == ["section", "about", "failed", "passed", "measured", "not done", "s"]
    assert [row[-5:] for row in rows[1:]] == [
        ["1", "1", "1", "", "4"],
        ["", "", "", "1", "0"],
        ["", "", "", "", "not begun"],
    ]
    assert [overview.count(f'href="#{name}"') for name in ("one", "two", "three")] == [1, 1, 0]
    assert text.count('<h2 id="') == 2


def test_page_of_the_small_form_says_that_it_shows_nothing() -> None:
    held = [Line("one", "error", Status.ON_CPU, 0.1, "", "", "<= 1", "", 0.0)]
    assert "Nothing here was shown on a GPU" in page(report(held, small=True))
    assert "Nothing here was shown on a GPU" not in page(report())
    assert "0 passed" in closing_row(report(held, small=True))
    assert "1 held on cpu, which says nothing of a GPU" in closing_row(report(held, small=True))


def test_markdown_is_a_table() -> None:
    rows = markdown(report()).splitlines()
    table = [row for row in rows if row.startswith("|")]
    assert len(table) == 2 + len(LINES)
    assert {row.replace("\\|", "").count("|") for row in table} == {7}
    assert table[2] == "| one | error \\| of q | passed | 0.00312 | &lt;= 0.02 | fp64 & more |"
    assert "failed: first" in table[3]
    assert "not done: needs 2 GPUs" in table[5]


def test_terminal() -> None:
    assert terminal_row(LINES[0]) == "passed       one: error | of q  0.00312  (<= 0.02, fp64 & more)"
    assert terminal_row(LINES[2]) == "measured     one: speed  2346 GB/s  half of it"
    assert "\x1b" not in terminal_row(Line("s", "n", Status.FAILED, None, "", "", "", "\x1b[31m", 0.0))


@pytest.mark.parametrize(
    ("figure", "text"), [(1177, "1177 s"), (0.0, "0 s"), (1e9, "1e+09 s"), (0.123456, "0.1235 s"), (math.inf, "inf s")]
)
def test_figures(figure: float, text: str) -> None:
    assert figure_text(Line("s", "n", Status.MEASURED, figure, "s", "", "", "", 0.0)) == text


def test_bytes_are_written_out(tmp_path: Path) -> None:
    sheet = Sheet("one", tmp_path / "lines", on_gpu=True)
    sheet.at_most("memory", 123456789.0, 2.0**27, reference="r", unit="B")
    (line,) = read_lines(tmp_path / "lines")
    assert (figure_text(line), line.bound) == ("123,456,789 B", "<= 134,217,728")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(report(), tmp_path / "file")


def test_lines_are_read_back_and_half_a_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    sheet = Sheet("one", path, on_gpu=True)
    assert sheet.at_most("small", 1.0, 2.0, reference="r", unit="s", note="n")
    assert not sheet.at_least("nothing", math.nan, 2.0, reference="r")
    with path.open("a") as file:
        file.write('{"section": "one", ')
    small, nothing = read_lines(path)
    assert (small.status, small.figure, small.bound, small.unit, small.note) == (Status.PASSED, 1.0, "<= 2", "s", "n")
    assert nothing.status is Status.FAILED


def test_machine_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    assert ask_machine(env).versions["torch"] == find_machine().versions["torch"]
    with pytest.raises(RuntimeError, match="cannot say what machine this is"):
        ask_machine({**env, "PYTHONPATH": "", "PYTHONHOME": "/nowhere"})


def test_every_section_is_there() -> None:
    import importlib.util

    missing = [section.name for section in SECTIONS if importlib.util.find_spec(section.module) is None]
    assert not missing
