"""What a machine without a network lacks is gathered, and runs there beside what it has."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tools import gather_wheels, with_wheels
from tools.gather_wheels import GatherError, Target, gather, project_needs, read_have

ROOT = Path(__file__).parents[2]


def make_wheel(
    folder: Path, name: str, version: str, needs: Sequence[str] = (), tag: str = "py3-none-any", size: int = 0
) -> Path:
    """A wheel with one module, which says its version."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    about = f"{name}-{version}.dist-info"
    metadata = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n{'#' * size}")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
        archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def gathered(
    needs: Sequence[str], tmp_path: Path, have: dict[str, Version | None] | None = None
) -> tuple[list[str], list[str]]:
    folder = tmp_path / "found"
    folder.mkdir()
    wheels, warnings = gather(map(Requirement, needs), Target("3.12", 28, have or {}), folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(wheel.path.name for wheel in wheels)
    return [f"{wheel.name} {wheel.version}" for wheel in wheels], warnings


def test_the_newest_that_fits_all_who_need_it(tmp_path: Path, index: Path) -> None:
    make_wheel(index, "first", "1.0", ["second!=1.5", "third", 'old; python_version < "3.12"', 'more; extra == "all"'])
    for version in ("1.0", "1.2", "1.5", "2.0"):
        make_wheel(index, "second", version)
    make_wheel(index, "third", "3.0", ["second<2"])
    assert gathered(["first"], tmp_path) == (["first 1.0", "second 1.2", "third 3.0"], [])


def test_what_is_there_is_taken_as_given(tmp_path: Path, index: Path) -> None:
    make_wheel(index, "first", "1.0", ["Torch>=2.11", "numpy"])
    make_wheel(index, "torch", "9.0", ["huge"])
    have = {"torch": Version("2.10+cu130"), "numpy": None}
    assert gathered(["first"], tmp_path, have) == (["first 1.0"], ["torch 2.10+cu130 is there, first asks for >=2.11"])


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("cp312-cp312-manylinux_2_24_x86_64.manylinux_2_28_x86_64", True),
        ("cp39-abi3-manylinux_2_17_x86_64", True),
        ("cp311-cp311-manylinux_2_17_x86_64", False),
        ("cp312-cp312-manylinux_2_34_x86_64", False),
        ("cp312-cp312-manylinux_2_17_aarch64", False),
    ],
)
def test_wheels_for_that_machine_alone(tmp_path: Path, index: Path, tag: str, fits: bool) -> None:
    make_wheel(index, "first", "1.0", tag=tag)
    if fits:
        assert gathered(["first"], tmp_path)[0] == ["first 1.0"]
    else:
        with pytest.raises(GatherError, match=r"no wheel of first for Python 3.12 .*glibc 2.28 .*aspo-megatron.*first"):
            gathered(["first"], tmp_path)


def test_a_wheel_without_metadata_is_named(tmp_path: Path, index: Path) -> None:
    path = tmp_path / "first-1.0-py3-none-any.whl"
    path.write_bytes(b"cut short")
    with pytest.raises(GatherError, match=f"{path.name}: its metadata cannot be read"):
        gather_wheels._needs_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("first.py", "")
    with pytest.raises(GatherError, match=f"{path.name}: its metadata cannot be read"):
        gather_wheels._needs_of(path)


def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    have = tmp_path / "packages.txt"
    if not have.exists():
        have.write_text("torch==2.9.0\n")
    code = gather_wheels.main(["--have", str(have), "--python", "3.12", "--out", str(tmp_path / "out"), *options])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_the_command(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_wheel(index, "first", "1.0", ["second", "torch>=2.11"])
    make_wheel(index, "second", "2.0", size=3 << 20)
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["first", "reasoning-gym"]\n')
    monkeypatch.setattr(gather_wheels, "ROOT", tmp_path)
    monkeypatch.setattr(gather_wheels, "_CHECK_NEEDS", ())
    (tmp_path / "out").mkdir()
    make_wheel(tmp_path / "out", "second", "1.0")  # of an earlier time
    code, shown = command(tmp_path, capsys)
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "first-1.0-py3-none-any.whl",
        "second-2.0-py3-none-any.whl",
    }
    for row in (
        "2 wheels, 3.0 MiB",
        "warning: torch 2.9.0 is there, first asks for >=2.11",
        "left out: reasoning-gym",
        "make gpu-check PYTHON=python3 WHEELS=",
    ):
        assert row in shown
    code, shown = command(tmp_path, capsys, "--most-mib", "2")
    assert code == 2
    assert "3.0 MiB in all, more than --most-mib 2; the largest: second (3.0 MiB)" in shown
    (tmp_path / "out" / "notes.txt").touch()
    assert "holds other things than wheels, such as notes.txt" in command(tmp_path, capsys)[1]


def test_what_pip_lists_is_read(tmp_path: Path) -> None:
    path = tmp_path / "packages.txt"
    path.write_text("# all\nTorch==2.11.0+cu130\nhuggingface_hub\nmine @ file:///mine.whl\n-e git+https://x#egg=y\n")
    assert read_have(path) == {"torch": Version("2.11.0+cu130"), "huggingface-hub": None, "mine": None}
    path.write_bytes(
        b"\xef\xbb\xbfTorch==2.11.0\r\n--editable /src/x\r\nmine @ file:///a/b c.whl#sha256=1\r\ngpg===1.10-old\r\n"
    )
    assert read_have(path) == {"torch": Version("2.11.0"), "mine": None, "gpg": None}
    path.write_text("numpy==2.5\nPackage    Version\n")
    with pytest.raises(GatherError, match=r"packages.txt: line 2, 'Package    Version', is not NAME or NAME==VERSION"):
        read_have(path)
    with pytest.raises(GatherError, match="cannot be read"):
        read_have(tmp_path / "none")


@pytest.mark.parametrize("options", [["--python", "py3"], ["--glibc", "new"]])
def test_a_bad_version_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(tmp_path, capsys, *options)
    assert ended.value.code == 2
    assert f"{options[0]} {options[1]}: not a version" in capsys.readouterr().err


@pytest.mark.thorough
def test_the_check_imports_nothing_that_is_left_out() -> None:
    names = {need.name for need in project_needs(ROOT / "pyproject.toml")}
    assert {"megatron-core", "omegaconf", "pydantic", "pytest"} <= names
    assert not names & set(gather_wheels.LEFT_OUT)
    code = (
        "import importlib, sys\n"
        "for name in ('reasoning_gym', 'math_verify', 'datasets', 'wandb'): sys.modules[name] = None\n"
        "import aspo_megatron.train.main\n"
        "from benchmarks.gpu_check.sections import SECTIONS\n"
        "for section in SECTIONS: importlib.import_module(section.module)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "with_wheels.py", tmp_path / "tools")
    return tmp_path


def run_with(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/with_wheels.py", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_a_command_has_the_wheels(checkout: Path, index: Path) -> None:
    make_wheel(checkout / "wheels", "aspo_first", "1.0", ["aspo_missing"])
    make_wheel(checkout / "wheels", "packaging", "99.0")  # is there already, and stays what it is
    code = "import aspo_first, packaging, sys; print(aspo_first.version, packaging.__version__ < '99', sys.argv[1])"
    done = run_with(checkout, "wheels", "-c", code, "an option")
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (checkout / "runs" / "wheels").iterdir()
    assert done.stdout == f"1 packages from wheels are in {folder.relative_to(checkout)}\n1.0 True an option\n"
    assert run_with(checkout, "wheels", "-c", code, "again").stdout == "1.0 True again\n"
    make_wheel(checkout / "wheels", "aspo_second", "1.0")
    assert run_with(checkout, "wheels", "-c", "import aspo_second; raise SystemExit(7)").returncode == 7


def test_several_processes_may_install_at_once(checkout: Path, index: Path) -> None:
    make_wheel(checkout / "wheels", "aspo_first", "1.0")
    command = [sys.executable, "tools/with_wheels.py", "wheels", "-c", "import aspo_first"]
    started = [subprocess.Popen(command, cwd=checkout, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [("", 0)] * 3
    assert len(list((checkout / "runs" / "wheels").iterdir())) == 1


def test_what_cannot_be_installed_is_named(checkout: Path, index: Path) -> None:
    (checkout / "wheels").mkdir()
    assert "holds no wheels" in run_with(checkout, "wheels", "-c", "").stderr
    make_wheel(checkout / "wheels", "aspo_first", "1.0", tag="cp27-cp27m-manylinux_2_17_x86_64")
    done = run_with(checkout, "wheels", "-c", "")
    assert done.returncode == 2
    assert "aspo_first-1.0-cp27-cp27m-manylinux_2_17_x86_64.whl is not a supported wheel" in done.stderr
    assert not list((checkout / "runs" / "wheels").glob("*"))
    assert run_with(checkout, "wheels").returncode == 2


def test_make_runs_the_plain_command() -> None:
    def planned(*settings: str) -> str:
        command = ["make", "--no-print-directory", "-n", "gpu-check", *settings]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    plain = "python3 tools/with_wheels.py wheels -m benchmarks.gpu_check --cpu\n"
    assert shlex.split(planned("PYTHON=python3", "WHEELS=wheels", "ARGS=--cpu")) == shlex.split(plain)
    assert "my wheels" in shlex.split(planned("PYTHON=python3", "WHEELS=my wheels"))
    assert planned().endswith(".venv/bin/python -m benchmarks.gpu_check \n")
    assert plain.partition(" --cpu")[0] in gather_wheels.__doc__
    assert "-m benchmarks.gpu_check" in with_wheels.__doc__
