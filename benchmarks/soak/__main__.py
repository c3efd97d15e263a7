"""A run that is killed, stopped and has its disk filled, again and again: `python -m benchmarks.soak`."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.soak.calls import sweep_calls
from benchmarks.soak.faults import Fault, draw
from benchmarks.soak.injection import CompilerError
from benchmarks.soak.play import Soak, StuckError
from benchmarks.soak.recipe import differences, unexplained, write_recipe

NOTHING_LOST, SOMETHING_LOST, BAD_ARGUMENTS, INTERRUPTED = 0, 1, 2, 130

_DESCRIPTION = """\
Shows that nothing of a run is lost, whatever happens to its machine. A small run on two ranks goes to its end twice:
once undisturbed, once with faults drawn from a seed. SIGKILL meets the launcher, a rank, a reward worker or all of
them, SIGSTOP one of them for a while, SIGTERM the launcher, and the disk under the run folder is full, for a moment or
until the run ends. Each time that it ends, the same command starts it again. After each end `checkpoints/latest` must
name a whole state, none older than before, and there must be no traceback and no process left. In the end weights,
states' steps, evaluations, samples and figures must be those of the undisturbed run, bit for bit; only times differ. An
export or the last state that a full disk has refused may be missing, if a warning has said so.

The full disk is a library that is loaded before the C library and answers ENOSPC under the run folder alone; it wants
a C compiler. No GPU, no root, no network."""

_EPILOG = """\
examples:
  python -m benchmarks.soak                             # 200 steps, 40 faults: ten minutes on two cores
  python -m benchmarks.soak --steps 30 --faults 6 --longest 2     # three minutes: does it run?
  python -m benchmarks.soak --seed 7 --show             # the faults of a seed, without a run
  python -m benchmarks.soak --minutes 480 --steps 5000 --faults 1000   # a night; the faults end after 480 minutes
  python -m benchmarks.soak --calls 20        # one fault each, at 20 of the calls that write; 0: at all of them, days

what happened is printed as it happens. The last line is the verdict. On a failure the folder stays: RUN/logs, and
disturbed.said has all that the command said.

exit codes:
  0  the disturbed run ended as the undisturbed one did, and all that is promised in between held
  1  something was lost, differs, or got stuck; the lines say what
  2  bad arguments, or no C compiler
  130  interrupted"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """See `argparse`."""
        self.exit(BAD_ARGUMENTS, f"error: {message} (--help explains)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Disturb a run; the exit code."""
    options = _parser().parse_args(argv)
    faults = draw(options.seed, options.steps, options.faults, options.longest)
    if options.show:
        print("\n".join(map(str, faults)))
        return NOTHING_LOST
    work = Path(options.work or tempfile.mkdtemp(prefix="aspo-soak-")).resolve()
    try:
        work.mkdir(parents=True, exist_ok=True)
        if options.calls is None:
            wrong = soak(work, options.steps, faults, options.seed, options.minutes)
        else:
            wrong = at_calls(work, options.calls, options.seed)
    except (CompilerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if wrong:
        print(f"FAILED: {len(wrong)} of what is promised did not hold, first: {wrong[0]}; see {work}")
        return SOMETHING_LOST
    if options.work is None:
        shutil.rmtree(work)
    return NOTHING_LOST


def soak(work: Path, steps: int, faults: Sequence[Fault], seed: int, minutes: float = float("inf")) -> list[str]:
    """Both runs, in `work`, which says what happened; what did not hold."""
    say = _speaker()
    write_recipe(work / "recipe.yaml", steps)
    for name in ("whole", "disturbed"):
        shutil.rmtree(work / name, ignore_errors=True)
    say(f"{steps} steps undisturbed, in {work}")
    whole = Soak(work / "whole", work / "recipe.yaml", say)
    disturbed = Soak(work / "disturbed", work / "recipe.yaml", say)
    try:
        whole.play([], random.Random(seed))
        done = disturbed.play(faults, random.Random(seed), time.monotonic() + minutes * 60)
    except StuckError as error:
        return [*whole.wrong, *disturbed.wrong, str(error)]
    wrong = [*whole.wrong, *disturbed.wrong, *unexplained(differences(disturbed.run, whole.run), disturbed.said)]
    _tell(wrong, f"{done} faults, {disturbed.starts} starts, {steps} steps as in the undisturbed run", say)
    return wrong


def at_calls(work: Path, count: int, seed: int) -> list[str]:
    """Runs with one fault each, in `work`, at `count` of the calls (0: each); what did not hold."""
    say = _speaker()
    try:
        wrong = sweep_calls(work, count, seed, say)
    except StuckError as error:
        wrong = [str(error)]
    _tell(wrong, "each run ended as the undisturbed one", say)
    return wrong


def _tell(wrong: list[str], held: str, say: Callable[[str], None]) -> None:
    for line in wrong:
        say(f"WRONG: {line}")
    if not wrong:
        say(f"nothing is lost: {held}")


def _speaker() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda line: print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m benchmarks.soak",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seed", type=int, default=1, help="of the faults (1)")
    add("--steps", type=_at_least(4), default=200, help="of the run (200)")
    add("--faults", type=_at_least(0), default=40, help="how many there are (40)")
    add("--longest", type=float, default=60.0, metavar="S", help="seconds of the longest stop or full moment (60)")
    add("--minutes", type=float, default=float("inf"), metavar="M", help="no more faults after so many minutes")
    add("--work", metavar="FOLDER", help="where both runs are; stays (a temporary folder, which stays on a failure)")
    add("--calls", type=_at_least(0), metavar="N", help="instead: N short runs with one fault each (0: at every call)")
    add("--show", action="store_true", help="print the faults and do nothing")
    return parser


def _at_least(least: int) -> type[int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    number.__name__ = "whole number"
    return number  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
