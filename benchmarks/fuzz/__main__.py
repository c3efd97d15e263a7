"""Foreign files, damaged and crafted at random: `python -m benchmarks.fuzz`."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fuzz.good import make_good
from benchmarks.fuzz.play import Reader, Tally, child, play
from benchmarks.fuzz.subjects import SUBJECTS

_DESCRIPTION = """\
Shows that files from anybody are read as data. A small run of one step is made; then each kind of its files is changed
at random, blindly and by knowing its format, thousands of times, and given to what reads it in a process with bounded
memory. Each case must be read, or refused by the product's own error; any other exception, a program or connection that
is started, code of a file that runs, memory beyond a GiB or a minute without an answer is wrong."""

_EPILOG = """\
examples:
  python -m benchmarks.fuzz                              # ten minutes for each kind of file
  python -m benchmarks.fuzz --seconds 8                  # a minute in all
  python -m benchmarks.fuzz --only weights --seed 5   # another seed, one kind
  python -m benchmarks.fuzz --only weights --seed 5 --first 1234 --seconds 1     # a case again

exit codes: 0 nothing was wrong; 1 something was, and its folders stay; 2 bad arguments"""


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz; the exit code."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fuzz",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=600, help="for each kind of file (default: 600)")
    parser.add_argument("--seed", type=int, default=1, help="what the cases are drawn from (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case (default: 0)")
    parser.add_argument("--only", choices=list(SUBJECTS), action="append", help="a kind of file; may be repeated")
    parser.add_argument("--model", type=Path, default=Path("examples/tiny/model"), help="the small run's model")
    parser.add_argument("--work", type=Path, help="where the folders go (default: a temporary folder)")
    options = parser.parse_args(argv)
    work = options.work or Path(tempfile.mkdtemp(prefix="aspo-fuzz-"))
    good = work / "good"
    if not good.exists():
        make_good(good, options.model)
    wrong = 0
    for subject in options.only or SUBJECTS:
        with Reader(child(subject), good, work / "marker") as reader:
            tally = play(reader, subject, work, options.seed, options.seconds, options.first)
        wrong += len(tally.findings)
        _say(subject, tally)
    if wrong:
        print(f"{wrong} cases went wrong; their folders are in {work}")
        return 1
    print("every case was read or refused")
    if options.work is None:
        shutil.rmtree(work)
    return 0


def _say(subject: str, tally: Tally) -> None:
    read = tally.cases - tally.refused - len(tally.findings)
    print(
        f"{subject}: {tally.cases} cases, {read} read, {tally.refused} refused, {len(tally.findings)} wrong", flush=True
    )
    seen = set()
    for finding in tally.findings:
        kind = finding.wrong[0][:60]
        if kind not in seen:
            seen.add(kind)
            print(f"  case {finding.case} ({', '.join(finding.changed)}): {'; '.join(finding.wrong)[:400]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
