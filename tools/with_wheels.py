"""Run this checkout with a Python that lacks packages, on a machine without a network.

    python3 tools/with_wheels.py wheels -m benchmarks.gpu_check [OPTIONS]

Installs the wheels of a folder (tools/gather_wheels.py fills it) into runs/wheels, not into that Python, and runs it
with them. Nothing is fetched or compiled. A package that is there already is left out, so none is hidden by another.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_USAGE = "usage: python3 tools/with_wheels.py WHEELS -m MODULE [OPTIONS], such as -m benchmarks.gpu_check"


class WheelsError(Exception):
    """What is asked for is not possible; says what to do."""


def installed(wheels: Path, place: Path) -> Path:
    """The folder that holds what the wheels contain; made if it is not there.

    Raises:
        WheelsError: they cannot be installed.
    """
    files = sorted(wheels.glob("*.whl"))
    if not files:
        raise WheelsError(f"{wheels}: holds no wheels; tools/gather_wheels.py fills it where there is a network")
    lacking = [path for path in files if not _is_there(path)]
    about = [sys.version, *(f"{path.name} {path.stat().st_size}" for path in lacking)]
    folder = place / hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
    if folder.exists() or not lacking:
        return folder
    partial = folder.with_suffix(f".partial-{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-warn-conflicts"]
    command += ["--disable-pip-version-check", "--target", str(partial), *map(str, lacking)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["pip says nothing"]
            raise WheelsError(f"{wheels}: pip cannot install the wheels into {folder}: {said[-1]}")
        partial.rename(folder)
    except OSError as error:
        if folder.exists():  # another process has made it in the meantime
            return folder
        raise WheelsError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{len(lacking)} packages from {wheels} are in {folder.relative_to(_ROOT)}", flush=True)
    return folder


def _is_there(wheel: Path) -> bool:
    """Whether this Python has the package."""
    name = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0])
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Become the command that is asked for; the exit code if that cannot be."""
    if len(argv) < 2 or argv[0].startswith("-"):
        print(__doc__ if argv[:1] in (["-h"], ["--help"]) else _USAGE)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    try:
        folder = installed(Path(argv[0]), _ROOT / "runs" / "wheels")
    except WheelsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = [str(folder), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    os.execv(sys.executable, [sys.executable, *argv[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
