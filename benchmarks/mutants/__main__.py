"""Breaks one function at a time: `python -m benchmarks.mutants`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from benchmarks.mutants.mutant import Mutant
from benchmarks.mutants.rooms import ROOMS
from benchmarks.mutants.trial import Copy, Verdict

ROOT = Path(__file__).parents[2]

_DESCRIPTION = """\
Shows whether the tests see. The package is copied, one function is broken, and the tests of `make test-fast` run over
it: those that should notice first, then all others. A mutant that no test notices is one that a colleague's slip of the
same kind would be, too: write the test."""

_EPILOG = """\
examples:
  python -m benchmarks.mutants                            # all, two at a time
  python -m benchmarks.mutants --list                     # which there are
  python -m benchmarks.mutants --only losses,packing      # some rooms
  python -m benchmarks.mutants --match EmbeddedEngine     # those with this in file or function

exit codes: 0 every mutant was noticed; 1 at least one lives; 2 bad arguments, or a test fails without any"""


def main(argv: Sequence[str] | None = None) -> int:
    """Try the mutants; the exit code."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.mutants",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", help=f"rooms, with commas between: {', '.join(ROOMS)}")
    parser.add_argument("--match", default="", help="a part of file or function")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a run of the tests (default: 600)")
    parser.add_argument("--list", action="store_true", help="say which mutants there are, and run none")
    options = parser.parse_args(argv)
    rooms = options.only.split(",") if options.only else list(ROOMS)
    if unknown := sorted(set(rooms) - set(ROOMS)):
        parser.error(f"--only: there is no room {unknown[0]}; there are {', '.join(ROOMS)}")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    chosen = [mutant for room in rooms for mutant in ROOMS[room] if options.match in mutant.title]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.title}: {mutant.old!r} -> {mutant.new!r}")
        return 0
    if failing := _failing(ROOT, options.timeout):
        print(f"without any mutant {failing} fails: mend it first", file=sys.stderr)
        return 2
    return _report(chosen, try_all(ROOT, chosen, options.jobs, options.timeout))


def try_all(root: Path, mutants: Sequence[Mutant], jobs: int, timeout: float) -> list[Verdict]:
    """Try mutants, several at a time, each in a copy of its own; a line for each as it is done.

    Args:
        root: the repository.
        mutants: what to try.
        jobs: how many at a time.
        timeout: seconds for a run of the tests.

    Returns:
        The verdict on each, in order.
    """
    free: SimpleQueue[Copy] = SimpleQueue()
    copies = [Copy(root) for _ in range(min(jobs, max(1, len(mutants))))]
    for copy in copies:
        free.put(copy)

    def judge(mutant: Mutant) -> Verdict:
        copy = free.get()
        try:
            verdict = copy.try_out(mutant, timeout)
        finally:
            free.put(copy)
        said = f"noticed by {verdict.by}" if verdict.by else "LIVES"
        print(f"{verdict.seconds:6.1f} s  {mutant.title}: {said}", flush=True)
        return verdict

    try:
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(judge, mutants))
    finally:
        for copy in copies:
            copy.close()


def _failing(root: Path, timeout: float) -> str | None:
    copy = Copy(root)
    try:
        return copy.broken_by_itself(timeout)
    finally:
        copy.close()


def _report(mutants: Sequence[Mutant], verdicts: Sequence[Verdict]) -> int:
    alive = [mutant for mutant, verdict in zip(mutants, verdicts, strict=True) if verdict.by is None]
    for mutant in alive:
        print(f"lives: {mutant.title}: {mutant.old!r} -> {mutant.new!r}")
    print(f"{len(mutants) - len(alive)} of {len(mutants)} mutants were noticed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
