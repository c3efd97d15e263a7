"""The window of versions: one statement of it, the same in the documentation, and one line for what is outside."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from aspo_megatron import versions
from aspo_megatron.errors import UserError
from aspo_megatron.parallel.device.platform import choose_platform

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGE = (ROOT / "docs" / "getting_started.md").read_text(encoding="utf-8")
SECTION = re.search(r"^## Versions\n(.*?)^## ", PAGE, flags=re.MULTILINE | re.DOTALL)


def tried() -> list[dict[str, Version]]:
    """Rows of the documentation's table."""
    assert SECTION
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in SECTION[1].splitlines()
        if line.startswith("| 3.")
    ]
    return [dict(zip(versions.NAMES, map(Version, row[:4]), strict=True)) for row in rows]


def lowest(wanted: SpecifierSet) -> Version:
    (bound,) = [Version(each.version) for each in wanted if each.operator == ">="]
    return bound


def short(version: Version, bound: Version) -> str:
    """As many numbers of `version` as `bound` has."""
    return ".".join(map(str, version.release[: len(bound.release)]))


@pytest.mark.parametrize("name", versions.NAMES)
def test_what_is_promised_was_tried(name: str) -> None:
    """The oldest that the table has is the lower bound, and no row is outside of the window."""
    wanted = versions.window()[name]
    found = [row[name] for row in tried()]
    assert all(versions.is_inside(version, wanted) for version in found)
    assert short(min(found), lowest(wanted)) == str(lowest(wanted))


def test_the_readme_has_the_ends_of_the_table() -> None:
    ends = []
    for name in versions.NAMES:
        found = [row[name] for row in tried()]
        ends.append(f"{name} {min(found).major}.{min(found).minor} to {max(found).major}.{max(found).minor}")
    assert f"| Versions | {', '.join(ends).capitalize()} (" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_pythons_that_are_named_were_tried() -> None:
    words = [text.rsplit(" ", 1)[-1] for text in PROJECT["classifiers"] if "Python ::" in text]
    assert words == sorted({f"3.{row['python'].minor}" for row in tried()})


def test_the_pinned_versions_are_in_the_table() -> None:
    pins = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE))
    names = [name for name in versions.NAMES if name != "python"]
    assert {name: Version(pins[name]) for name in names} in [{name: row[name] for name in names} for row in tried()]


def test_this_environment_is_inside() -> None:
    assert versions.outside() == []
    assert versions.installed("torch") == Version(importlib.metadata.version("torch"))
    assert versions.installed("no-such-package") is None


@pytest.mark.parametrize(
    ("version", "inside"),
    [("2.10.1", False), ("2.11.0a0+nv26.03", True), ("2.11.0+cu130", True), ("2.10.0a0+nv25.12", False)],
)
def test_builds_around_a_release_count_as_it(version: str, inside: bool) -> None:
    assert versions.is_inside(Version(version), SpecifierSet(">=2.11")) is inside


@pytest.mark.parametrize("metadata", [None, "Name: torch\n", "Name: torch\nVersion: 2.13-custom build\n"])
def test_an_installation_that_is_not_whole_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, metadata: str | None
) -> None:
    folder = tmp_path / "torch-2.13.0.dist-info"
    folder.mkdir()
    if metadata is not None:
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert versions.installed("torch") is None
    with pytest.raises(UserError, match=r"^torch is not installed, >=2\.11 is needed"):
        versions.refuse_outside()


def test_a_python_from_between_two_releases_counts_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.12.1+")
    assert versions.installed("python") == Version("3.12.1")


def test_a_copy_without_metadata_is_told_to_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(versions, "_CHECKOUT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(versions, "_PROJECT", "aspo-no-such-project")
    versions.window.cache_clear()
    try:
        with pytest.raises(UserError, match=r"is neither installed nor run from its checkout .*run pip install -e"):
            versions.refuse_outside()
    finally:
        versions.window.cache_clear()


def test_an_installed_package_has_the_same_window(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a checkout around it the window comes from what pip has noted."""
    noted = tmp_path / "aspo_megatron-0.1.0.dist-info" / "METADATA"
    noted.parent.mkdir()
    lines = ["Metadata-Version: 2.4", "Name: aspo-megatron", "Version: 0.1.0", "Requires-Python: >=3.11"]
    lines += [f"Requires-Dist: {text}" for text in PROJECT["dependencies"]]
    lines += ['Requires-Dist: torch<2; extra == "odd"']
    noted.write_text("\n".join(lines) + "\n")
    wanted = versions.window()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(versions, "_CHECKOUT", tmp_path / "pyproject.toml")
    versions.window.cache_clear()
    try:
        assert versions.window() == wanted
    finally:
        versions.window.cache_clear()


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A folder for the path of Python where megatron-core and transformers are too old."""
    for name, version in (("megatron_core", "0.15.3"), ("transformers", "4.57.6")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return tmp_path


def test_an_unsupported_version_is_named(monkeypatch: pytest.MonkeyPatch, older: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(older), *sys.path])
    with pytest.raises(UserError) as refused:
        choose_platform("cpu", local_rank=0, threads=1)
    assert str(refused.value) == (
        "megatron-core 0.15.3 is installed, >=0.16.1 is needed: pip install 'megatron-core>=0.16.1'; "
        "transformers 4.57.6 is installed, >=5.0 is needed: pip install 'transformers>=5.0'"
    )


def test_the_command_ends_with_one_line(older: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(older), str(ROOT)])
    run = ["train", "examples/tiny/run.yaml", f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "aspo_megatron.cli", *run],
        env=os.environ | {"PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: megatron-core 0.15.3 is installed, >=0.16.1 is needed")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [[], ["newest"], ["odd", "venv", "/no/python"]])
def test_other_ages_are_not_tried(words: list[str]) -> None:
    command = ["bash", str(ROOT / "tools" / "try_versions.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: tools/try_versions.sh newest|oldest FOLDER [PYTHON]\n"
