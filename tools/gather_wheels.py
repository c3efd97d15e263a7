"""Gather the wheels that a machine without a network lacks for this project: run it beforehand on one that has one.

On the machine without a network, `pip list --format=freeze > packages.txt`. Here, in a checkout:

    python tools/gather_wheels.py --have packages.txt --python 3.12 --out wheels

Then take the checkout and the folder wheels/ there:

    make gpu-check PYTHON=python3 WHEELS=wheels
    python3 tools/with_wheels.py wheels -m benchmarks.gpu_check     # the same without make

What is installed there stays as it is, and is taken as given. Wheels are for Linux on x86-64. Left out is what only
real tasks need (`LEFT_OUT`).
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
LEFT_OUT = {
    "reasoning-gym": "makes and scores tasks; the check brings its own",
    "math-verify": "scores mathematics",
}
"""Dependencies of the project that the check runs without, and what they are for."""
_CHECK_NEEDS = ("pytest", "pytest-timeout")

_Have = Mapping[str, Version | None]


class GatherError(Exception):
    """What is asked for is not possible; says what to do."""


@dataclass(frozen=True)
class Target:
    """The machine without a network. `python`: such as 3.12. `glibc`: its C library, such as 2.28. `have`: packages."""

    python: str
    glibc: int
    have: _Have

    @property
    def markers(self) -> dict[str, str]:
        """What a requirement's marker may ask about it."""
        return {
            "python_version": ".".join(self.python.split(".")[:2]),
            "python_full_version": self.python if self.python.count(".") > 1 else f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "os_name": "posix",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "x86_64",
            "extra": "",
        }

    @property
    def pip_options(self) -> list[str]:
        """How pip is told of it."""
        tags = [f"manylinux_2_{minor}_x86_64" for minor in range(self.glibc, 4, -1)]
        tags += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
        digits = "".join(self.python.split(".")[:2])
        options = ["--python-version", self.python, "--implementation", "cp"]
        options += [word for abi in (f"cp{digits}", "abi3", "none") for word in ("--abi", abi)]
        return options + [word for tag in tags for word in ("--platform", tag)]


@dataclass(frozen=True)
class Wheel:
    """A file that was fetched. `needed_by`: the packages that ask for it."""

    path: Path
    name: str
    version: Version
    needs: tuple[Requirement, ...]
    needed_by: tuple[str, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size


def read_have(path: Path) -> dict[str, Version | None]:
    """What `pip list --format=freeze` has written, or names alone.

    Raises:
        GatherError: it cannot be read.
    """
    try:
        rows = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GatherError(f"--have {path}: cannot be read ({error}); pip list --format=freeze writes it") from error
    have: dict[str, Version | None] = {}
    for number, row in enumerate(rows, 1):
        text = row.partition("#")[0].strip()
        if not text or text.startswith("-"):  # -e and other options
            continue
        # `===` is of a version by rules of its own, `@` of a package from a file or an address.
        found = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:==([^=\s]\S*)|===\S+|\s*@.*)?", text)
        try:
            if found is None:
                raise InvalidVersion(text)
            have[canonicalize_name(found[1])] = Version(found[2]) if found[2] else None
        except InvalidVersion as error:
            raise GatherError(
                f"--have {path}: line {number}, {row!r}, is not NAME or NAME==VERSION; "
                "pip list --format=freeze writes such lines"
            ) from error
    return have


def project_needs(path: Path) -> list[Requirement]:
    """What the check needs: the project's dependencies without those left out, and pytest."""
    declared = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]
    needs = [Requirement(text) for text in declared]
    return [need for need in needs if canonicalize_name(need.name) not in LEFT_OUT] + list(
        map(Requirement, _CHECK_NEEDS)
    )


def gather(needs: Iterable[Requirement], target: Target, folder: Path) -> tuple[list[Wheel], list[str]]:
    """Fetch into `folder` what the target lacks, and what that needs; also what to warn of.

    Raises:
        GatherError: there is no wheel that fits.
    """
    wanted: dict[str, SpecifierSet] = {}
    askers: dict[str, list[str]] = {}
    wheels: dict[str, Wheel] = {}
    warnings: list[str] = []
    waiting = deque((need, "aspo-megatron") for need in needs)
    while waiting:
        need, asker = waiting.popleft()
        name = canonicalize_name(need.name)
        if need.marker is not None and not need.marker.evaluate(target.markers):
            continue
        if name in target.have:
            installed = target.have[name]
            if installed is not None and not need.specifier.contains(installed, prereleases=True):
                warnings.append(f"{name} {installed} is there, {asker} asks for {need.specifier}")
            continue
        wanted[name] = wanted.get(name, SpecifierSet()) & need.specifier
        askers.setdefault(name, []).append(asker)
        if name in wheels and wanted[name].contains(wheels[name].version, prereleases=True):
            continue
        if name in wheels:
            wheels.pop(name).path.unlink()
        wheel = _fetch(name, wanted[name], target, folder, askers[name])
        wheels[name] = wheel
        waiting.extend((each, name) for each in wheel.needs)
    return [wheels[name] for name in sorted(wheels)], list(dict.fromkeys(warnings))


def _fetch(name: str, wanted: SpecifierSet, target: Target, folder: Path, needed_by: Sequence[str]) -> Wheel:
    """The newest wheel that fits."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--dest", own, *target.pip_options, f"{name}{wanted}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(Path(own).glob("*.whl"))
        if done.returncode or not found:
            said = [row for row in done.stderr.splitlines() if row.startswith("ERROR")] or done.stderr.splitlines()
            raise GatherError(
                f"no wheel of {name}{wanted} for Python {target.python} on x86-64 Linux, glibc 2.{target.glibc} "
                f"(needed by {', '.join(needed_by)}): {said[-1] if said else 'pip says nothing'}"
            )
        path = Path(shutil.move(found[0], folder / found[0].name))
    _, version, _, _ = parse_wheel_filename(path.name)
    return Wheel(path, name, version, tuple(_needs_of(path)), tuple(needed_by))


def _needs_of(path: Path) -> list[Requirement]:
    try:
        with zipfile.ZipFile(path) as archive:
            (inside,) = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            rows = HeaderParser().parsestr(archive.read(inside).decode("utf-8")).get_all("Requires-Dist") or []
        return [Requirement(row) for row in rows]
    except (zipfile.BadZipFile, ValueError) as error:  # those of requirements and of text among them
        raise GatherError(f"{path.name}: its metadata cannot be read ({error})") from error


def deliver(wheels: Sequence[Wheel], out: Path, most_mib: float) -> None:
    """Put the wheels into `out`, in place of those that are there.

    Raises:
        GatherError: they are too large in all, or `out` has something else in it.
    """
    total = sum(wheel.size for wheel in wheels)
    if total > most_mib * 2**20:
        largest = sorted(wheels, key=lambda wheel: -wheel.size)[:3]
        names = ", ".join(f"{wheel.name} ({_mib(wheel.size)})" for wheel in largest)
        raise GatherError(f"{_mib(total)} in all, more than --most-mib {most_mib:g}; the largest: {names}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in out.iterdir() if path.suffix != ".whl"]
        if others:
            raise GatherError(f"--out {out}: holds other things than wheels, such as {others[0]}")
        for path in out.iterdir():
            path.unlink()
        for wheel in wheels:
            shutil.move(wheel.path, out / wheel.path.name)
    except OSError as error:
        raise GatherError(f"--out {out}: cannot be written: {error.strerror}") from error


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _table(wheels: Sequence[Wheel]) -> str:
    rows = [
        f"{wheel.name:<24} {wheel.version!s:<14} {_mib(wheel.size):>9}  {', '.join(wheel.needed_by)}"
        for wheel in wheels
    ]
    return "\n".join([*rows, f"{len(wheels)} wheels, {_mib(sum(wheel.size for wheel in wheels))}"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--have", type=Path, required=True, metavar="FILE", help="what pip list --format=freeze says there"
    )
    parser.add_argument("--python", required=True, metavar="3.X", help="the Python there")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="takes the wheels")
    parser.add_argument(
        "--glibc", default="2.28", metavar="2.N", help="the C library there, or an older one (%(default)s)"
    )
    parser.add_argument("--most-mib", type=float, default=60.0, metavar="N", help="refuse more than this (%(default)g)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Gather, and say what; the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not re.fullmatch(r"3\.\d+(\.\d+)?", options.python):
        parser.error(f"--python {options.python}: not a version such as 3.12")
    if not re.fullmatch(r"2\.\d+", options.glibc):
        parser.error(f"--glibc {options.glibc}: not a version such as 2.28")
    try:
        target = Target(options.python, int(options.glibc.partition(".")[2]), read_have(options.have))
        with tempfile.TemporaryDirectory() as folder:
            wheels, warnings = gather(project_needs(ROOT / "pyproject.toml"), target, Path(folder))
            print("\n".join([_table(wheels), *(f"warning: {warning}" for warning in warnings)]))
            deliver(wheels, options.out, options.most_mib)
    except GatherError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, why in LEFT_OUT.items():
        print(f"left out: {name} ({why})")
    print(f"wrote {options.out}; there: make gpu-check PYTHON=python3 WHEELS={shlex.quote(str(options.out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
