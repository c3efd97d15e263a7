"""What is skipped is listed, with tests that hold the feature all the same; and all else is run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from skips import SKIPS, listed

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for path in (ROOT / "tests").rglob("*.py") if path.name not in ("skips.py", "test_skips.py"))
LEAVE_OUT = re.compile(r"(pytest|unittest|mark)\.(.+\.)?(\w*skip\w*|Skip\w*|xfail|exit)|collect_ignore(_glob)?")
"""Names by which a test is left out."""


def uses(tree: ast.AST) -> Iterator[tuple[ast.AST, str, ast.Call | None]]:
    """Each place that leaves a test out: what it calls, and the call."""
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        if LEAVE_OUT.fullmatch(name):
            yield node, name, called.get(id(node))


def reason_of(call: ast.Call | None) -> str | None:
    """The reason that is given, with a word for what is put in; None without one that can be read."""
    if call is None:
        return None
    given = [word.value for word in call.keywords if word.arg == "reason"] or call.args[:1]
    match given:
        case [ast.Constant(value=str(text))]:
            return text
        case [ast.JoinedStr(values=parts)]:
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "something" for part in parts)
    return None


def test_every_skip_is_listed_and_every_entry_is_used() -> None:
    wrong: list[str] = []
    used = set()
    for path in SOURCES:
        for node, name, call in uses(ast.parse(path.read_text(encoding="utf-8"))):
            reason = reason_of(call)
            entry = listed(reason) if reason is not None else None
            used.add(entry)
            if entry is None:
                wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {name}: {reason}")
    assert wrong == []
    assert [skip.reason for skip in SKIPS if skip not in used] == []


@pytest.mark.parametrize("test", sorted({test for skip in SKIPS for test in skip.held_by}))
def test_what_holds_a_feature_is_there_and_is_never_skipped(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (function,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    assert list(uses(function)) == []
    # Nor by a mark of the whole file, or a mark for which tests are skipped by a fixture.
    marks = [
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    text = " ".join(map(ast.unparse, [*marks, *function.decorator_list]))
    assert not re.search(r"skip|mark\.(sglang|slurm|gpu|slow)\b", text)
    skipping = {
        node.name
        for path in (ROOT / file, *(folder / "conftest.py" for folder in (ROOT / file).parents))
        if path.is_file() and ROOT in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and any(True for _ in uses(node))
    }
    assert not skipping & {argument.arg for argument in function.args.args}


def test_make_test_runs_every_test_and_ci_runs_it() -> None:
    """In two calls: what one leaves out the other runs; .ci/thorough runs in two what is thorough."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    marks = {
        "test": ["not ($(ALONE) or thorough)", "($(ALONE)) and not thorough"],
        "test-thorough": ["thorough and not ($(ALONE))", "sglang or (slurm and thorough)"],
    }
    for target, expected in marks.items():
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
        assert recipe is not None
        calls = re.findall(r"-m pytest ([^;&\\]*)", recipe[1])
        assert [mark for call in calls for mark in re.findall(r'-m "([^"]*)"', call)] == expected
        for call in calls:
            assert not re.search(r"\s-k|--ignore|--deselect|tests/|::", call)
    for name, target in (("run", "test"), ("thorough", "test-thorough")):
        said = (ROOT / ".ci" / name).read_text(encoding="utf-8")
        assert re.search(rf"^make {target}$", said, re.MULTILINE)
    with (ROOT / "pyproject.toml").open("rb") as file:
        options = tomllib.load(file)["tool"]["pytest"]["ini_options"]
    assert options["testpaths"] == ["tests"]
    assert "addopts" not in options
    assert not re.search(r"skip|-k ", os.environ.get("PYTEST_ADDOPTS", ""))


def test_what_extras_install_is_there_for_the_tests() -> None:
    """At a version that users are given: so no test need be skipped for want of a package."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    pins = map(Requirement, (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    for asked in (Requirement(text) for texts in extras.values() for text in texts):
        assert asked.specifier.contains(versions[canonicalize_name(asked.name)]), asked


INNER = """
import pytest

@pytest.mark.skipif(True, reason="SGLang is not installed: make sglang-cpu")
def test_listed(): pass

@pytest.mark.parametrize("n", [1, 2])
def test_unlisted(n): pytest.skip("not today")

@pytest.fixture
def missing(): pytest.skip("nor tomorrow")

def test_by_a_fixture(missing): pass

@pytest.mark.xfail(reason="some day")
def test_expected(): assert False

def test_passes(): pass
"""


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "two processes"])
def test_a_run_fails_by_a_skip_that_is_not_listed(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "test_inner.py").write_text(INNER)
    (tmp_path / "test_file.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    plain = ["-q", "-p", "skips", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    argv = [sys.executable, "-m", "pytest", *plain, *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert {line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR "))} == {
        "ERROR test_file.py",
        "ERROR test_inner.py::test_by_a_fixture",
        "FAILED test_inner.py::test_expected",
        "FAILED test_inner.py::test_unlisted[1]",
        "FAILED test_inner.py::test_unlisted[2]",
    }
    assert "tests/skips.py has no reason for which this may be skipped: not today" in done.stdout
    assert any(line.startswith("1 x SGLang is not installed") for line in lines)
