"""Each mutant fits its source, and the tests of each change look for it; what a run of tests tells of one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.mutants.mutant import Mutant
from benchmarks.mutants.rooms import ROOMS
from benchmarks.mutants.trial import FAST, Copy

ROOT = Path(__file__).parents[2]
MUTANTS = [mutant for mutants in ROOMS.values() for mutant in mutants]


def test_each_fits_its_source() -> None:
    for mutant in MUTANTS:
        mutant.applied((ROOT / "aspo_megatron" / mutant.file).read_text(encoding="utf-8"))
    assert len({(mutant.file, mutant.function, mutant.old) for mutant in MUTANTS}) == len(MUTANTS)


def test_each_is_looked_for_by_the_fast_tests() -> None:
    fast = (ROOT / FAST).read_text(encoding="utf-8").split()
    for name in fast:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), name
        assert not test or f"def {test.partition('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8"), name
    assert all(mutant.tests for mutant in MUTANTS)
    wanted = {f"tests/{test}" for mutant in MUTANTS for test in mutant.tests}
    assert {test for test in wanted if not any(test.startswith(name) for name in fast)} == set()


@pytest.mark.parametrize(
    ("new", "noticed"),
    [("return a - b", "tests/test_second.py::test_sum"), ("return b + a", None)],
)
def test_who_notices(tmp_path: Path, new: str, noticed: str | None) -> None:
    """The test that a mutant names may miss it; the others of the fast subset are run then."""
    files = {
        "aspo_megatron/__init__.py": "",
        "aspo_megatron/sums.py": "def add(a, b):\n    return a + b\n",
        "tests/fast.txt": "tests/test_first.py\ntests/test_second.py\n",
        "tests/test_first.py": "def test_nothing():\n    pass\n",
        "tests/test_second.py": "from aspo_megatron.sums import add\n\ndef test_sum():\n    assert add(1, 2) == 3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    copy = Copy(tmp_path)
    try:
        by = copy.try_out(Mutant("sums.py", "add", "return a + b", new, ("test_first.py",)), timeout=200.0).by
    finally:
        copy.close()
    assert by == noticed
