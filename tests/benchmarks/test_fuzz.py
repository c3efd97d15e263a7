"""Foreign files of every kind, spoiled at random: each is read or refused. A part of `python -m benchmarks.fuzz`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from benchmarks.fuzz.mutations import crafted_pickle
from benchmarks.fuzz.play import Reader, make_good, play, spoiled
from benchmarks.fuzz.subjects import SUBJECTS

MODEL = Path(__file__).parents[2] / "examples" / "tiny" / "model"
SECONDS = 6.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    make_good(folder, MODEL)
    return folder


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_case_is_read_or_refused(good: Path, tmp_path: Path, subject: str) -> None:
    tally = play(subject, good, tmp_path, seed=1, seconds=SECONDS)
    assert tally.findings == []
    assert tally.refused > 0
    assert tally.cases > tally.refused


def test_a_seed_gives_the_same_files(good: Path, tmp_path: Path) -> None:
    for case in range(20):
        folders = [tmp_path / f"{copy}-{case}" for copy in range(2)]
        changed = [spoiled(good, folder, "tokenizer", 3, case) for folder in folders]
        assert changed[0] == changed[1]
        for name in changed[0]:
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


WRONG = {
    "divide": "ZeroDivisionError: ",
    "unpickle": "code that is in a file has run",
    "allocate": "MiB of memory",
    "write_elsewhere": "open ",
    "remove_elsewhere": "os.remove ",
    "start_program": "subprocess.Popen ",
    "connect": "socket.connect ",
    "run_module": "code that is in a file has run",
    "end": "the process has ended by 3",
    "write_a_novel": "a message of 10000 characters",
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
    return folder


def test_what_no_reader_may_do_is_noticed(tmp_path: Path, script: list[str]) -> None:
    with Reader(script, tmp_path / "good", tmp_path / "marker") as reader:
        for deed, said in WRONG.items():
            told = reader.read(case(tmp_path, deed))
            assert any(said in wrong for wrong in told["wrong"]), (deed, told)
            assert reader.read(tmp_path / "good") == {"refused": None, "wrong": []}


def test_a_reader_without_end_is_noticed(tmp_path: Path, script: list[str]) -> None:
    with Reader(script, tmp_path / "good", tmp_path / "marker", patience=2.0) as reader:
        told = reader.read(case(tmp_path, "sleep"))
    assert told == {"refused": None, "wrong": ["no end within 2 seconds"]}
