"""Foreign files of every kind, spoiled at random: each is read or refused. A part of `python -m benchmarks.fuzz`."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from thorough import one_in

from benchmarks.fuzz.good import make_good
from benchmarks.fuzz.mutations import crafted_pickle
from benchmarks.fuzz.play import Reader, child, play, spoiled
from benchmarks.fuzz.subjects import SUBJECTS

MODEL = Path(__file__).parents[2] / "examples" / "tiny" / "model"
SECONDS = 2.0

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    make_good(folder, MODEL)
    return folder


@pytest.fixture(scope="module")
def reader(good: Path) -> Iterator[Reader]:
    with Reader(child(*SUBJECTS), good, good.parent / "marker") as started:
        yield started


@pytest.mark.parametrize("subject", one_in(4, SUBJECTS, first=1))
def test_each_case_is_read_or_refused(reader: Reader, tmp_path: Path, subject: str) -> None:
    SUBJECTS[subject].copy(reader.good, tmp_path / "good")
    assert reader.read(subject, tmp_path / "good") == {"refused": None, "wrong": []}
    tally = play(reader, subject, tmp_path, seed=1, seconds=SECONDS)
    assert tally.findings == []
    assert tally.cases > 0


def test_a_seed_gives_the_same_files(good: Path, tmp_path: Path) -> None:
    for subject in SUBJECTS:
        for case in range(5):
            folders = [tmp_path / f"{copy}-{subject}-{case}" for copy in range(2)]
            changed = [spoiled(good, folder, subject, 3, case) for folder in folders]
            assert changed[0] == changed[1]
            for name in changed[0]:
                one, other = (folder / name for folder in folders)
                if one.is_file() and not one.is_symlink():
                    assert one.read_bytes() == other.read_bytes()


WRONG = {
    "divide": "ZeroDivisionError: ",
    "unpickle": "code that is in a file has run",
    "name_a_class": "pickle.find_class ",
    "allocate": "MiB of memory",
    "allocate_in_a_fork": "MiB of memory in another process",
    "write_elsewhere": "open ",
    "write_beside_by_name": "open ",
    "read_what_a_file_names": "open ",
    "remove_elsewhere": "os.remove ",
    "make_a_link_elsewhere": "os.symlink ",
    "start_program": "subprocess.Popen ",
    "start_program_apart": "os.system ",
    "fork": "os.fork ",
    "leave_a_process": "a process is left",
    "connect": "socket.connect ",
    "run_module": "code that is in a file has run",
    "run_harmless_module": "exec ",
    "end": "the process has ended by 3",
    "write_lines": "a message that is more than a line of text",
    "write_to_the_terminal": "a message that is more than a line of text",
}


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "file").write_text("good")
    return [sys.executable, str(Path(__file__).with_name("wrong_readers.py"))]


def case(tmp_path: Path, deed: str) -> Path:
    folder = tmp_path / deed / "case"
    folder.mkdir(parents=True)
    (folder.parent / "here").touch()
    (folder / "file").write_text(deed)
    (folder / "pickle").write_bytes(crafted_pickle(random.Random(2)))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    (folder / "harmless.py").write_text("x = 1")
    return folder


def test_what_no_reader_may_do_is_noticed(tmp_path: Path, script: list[str]) -> None:
    with Reader(script, tmp_path / "good", tmp_path / "marker") as reader:
        for deed, said in WRONG.items():
            told = reader.read("wrong", case(tmp_path, deed))
            assert any(said in wrong for wrong in told["wrong"]), (deed, told)
            assert reader.read("wrong", tmp_path / "good") == {"refused": None, "wrong": []}


def test_a_reader_without_end_is_noticed(tmp_path: Path, script: list[str]) -> None:
    with Reader(script, tmp_path / "good", tmp_path / "marker", patience=2.0) as reader:
        told = reader.read("wrong", case(tmp_path, "sleep"))
    assert told == {"refused": None, "wrong": ["no end within 2 seconds"]}
