"""Runs tests over a copy of the repository that has one fault."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutants.mutant import Mutant

FAST = "tests/fast.txt"
"""The tests of `make test-fast`: a file, a folder or a test in each line."""

_FAILED = 1
"""pytest's code for tests that failed; any other says that it could not test."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        by: the test that noticed it first; None where it lives.
        seconds: how long that took.
    """

    by: str | None
    seconds: float


class Copy:
    """A copy of the repository's tracked files, in which mutants are tried one after the other."""

    def __init__(self, root: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="aspo-mutants-"))
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root, check=True, capture_output=True,
        ).stdout.decode()  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (source := root / name).exists():
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, self._folder / name, follow_symlinks=False)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def broken_by_itself(self, timeout: float) -> str | None:
        """The first of the fast tests that fails without any mutant, which would seem to notice them all."""
        return self._first_failure([f"@{FAST}"], timeout)

    def try_out(self, mutant: Mutant, timeout: float) -> Verdict:
        """Which test notices the mutant: its own first, then all of the fast subset.

        Args:
            mutant: the fault.
            timeout: seconds for each of the two runs. A run that takes longer has noticed it, too.

        Raises:
            ValueError: the mutant does not fit its source.
            RuntimeError: pytest could not run the tests.
        """
        path = self._folder / "aspo_megatron" / mutant.file
        source = path.read_text(encoding="utf-8")
        started = time.monotonic()
        try:
            path.write_text(mutant.applied(source), encoding="utf-8")
            by = self._first_failure([f"tests/{name}" for name in mutant.tests], timeout)
            by = by or self._first_failure([f"@{FAST}"], timeout)
        finally:
            path.write_text(source, encoding="utf-8")
        return Verdict(by, time.monotonic() - started)

    def _first_failure(self, tests: Sequence[str], timeout: float) -> str | None:
        """The first test that fails, None if all pass."""
        options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=no"]
        command = [sys.executable, "-m", "pytest", *options, *tests]
        paths = os.pathsep.join((str(self._folder), str(self._folder / "tests")))
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        with subprocess.Popen(
            command, cwd=self._folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"no end after {timeout:.0f} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == 0:
            return None
        # A package that can no longer be imported fails where tests are collected: an error, with pytest's code 2.
        named = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        if process.returncode == _FAILED or named:
            return named[0].split(" - ")[0].split(maxsplit=1)[1] if named else "a test"
        raise RuntimeError(f"pytest ended with code {process.returncode}:\n{output[-2000:]}")
