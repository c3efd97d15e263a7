"""One command that says what of this project works on the GPU of this machine: `python -m benchmarks.gpu_check`."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from aspo_megatron.errors import UserError
from aspo_megatron.launch.rank import rank_settings
from benchmarks.gpu_check.lines import Line, Status
from benchmarks.gpu_check.machine import ask_machine
from benchmarks.gpu_check.report import Report, closing_row, terminal_row, write_report
from benchmarks.gpu_check.runner import Outcome, Plan, run_sections
from benchmarks.gpu_check.sections import SECTIONS, Section

ALL_SHOWN, SOMETHING_FAILED, BAD_ARGUMENTS, NO_GPU, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 4, 130

_BUDGET = 540.0
"""Less than the ten minutes after which a command is ended on many machines."""

_DESCRIPTION = """\
Shows what reading and simulation claim about this project on a GPU: numbers against fp64, time and memory, training,
saving, weights for servers. Each line has its figure, what it was held against, and its bound.

Sections run one after another, each in a process of its own, so that a fault in one does not end the others. What no
time is left for is named. Without a GPU the small form of each section runs on the CPU: it shows that the check itself
works, and claims nothing about a GPU."""

_EPILOG = """\
examples:
  python -m benchmarks.gpu_check                             # everything, in less than ten minutes
  python -m benchmarks.gpu_check --only attention,log_prob   # two sections
  python -m benchmarks.gpu_check --cpu --out /tmp/check      # does the check itself run?

written, anew after each section: DIR/gpu_check.html (a page), gpu_check.md (a table for docs/gpu.md), gpu_check.json
(for programs), and DIR/sections/NAME/output.txt, what a section printed; its folder work/ stays if something failed.

exit codes:
  0  everything that was asked for was shown (with --cpu: all small forms hold)
  1  something failed
  2  bad arguments
  3  no GPU: only the small forms ran
  4  nothing failed, but time ended before all was shown, or a section named by --only needs more GPUs
  130  interrupted; what was shown until then is written"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """See `argparse`."""
        self.exit(BAD_ARGUMENTS, f"error: {message} (--help explains)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; its exit code."""
    options = _parser().parse_args(argv)
    if options.list:
        print("\n".join(_listed(section) for section in SECTIONS))
        return ALL_SHOWN
    return run_check(options, options.only or SECTIONS, lambda small: options.budget or _BUDGET * (3 if small else 1))


def run_check(options: argparse.Namespace, sections: Sequence[Section], budget: Callable[[bool], float]) -> int:
    """Run these sections as `add_options` has them asked for, and report; the exit code.

    `budget`: seconds for all of it, for the small form or on a GPU.
    """
    began = time.monotonic()
    _end_by_signals()
    env = {**os.environ, **rank_settings(os.environ)}
    try:
        machine = ask_machine(env)
        out = options.out.absolute()  # what sections start has another current folder
        out.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return SOMETHING_FAILED
    small = options.cpu or not machine.cards
    print(f"{machine}\n" + ("The small form, on the CPU.\n" if small else ""), flush=True)
    left = budget(small) - (time.monotonic() - began)
    plan = Plan(sections, out, small, 0 if small else len(machine.cards), left, env)
    date = datetime.now().astimezone().isoformat(timespec="seconds")

    def report_of(outcome: Outcome) -> Report:
        return Report(machine, date, small, sections, outcome.lines, outcome.seconds)

    try:  # after each section: who is killed leaves what was shown until then
        outcome = run_sections(plan, _print_line, lambda outcome: write_report(report_of(outcome), out))
        for number in (signal.SIGINT, signal.SIGTERM):  # what was shown is written down
            signal.signal(number, signal.SIG_IGN)
        paths = write_report(report_of(outcome), out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return SOMETHING_FAILED
    print(f"\n{closing_row(report_of(outcome))}\nwrote {', '.join(map(str, paths))}")
    if small and not options.cpu:
        print("No GPU was found: nothing was shown about one.")
    return exit_code(outcome, sections, options, gpus=plan.gpus)


def exit_code(outcome: Outcome, sections: Sequence[Section], options: argparse.Namespace, *, gpus: int) -> int:
    """What the outcome is worth, see `--help`."""
    if outcome.interrupted:
        return INTERRUPTED
    if any(line.status is Status.FAILED for line in outcome.lines):
        return SOMETHING_FAILED
    if not gpus and not options.cpu:
        return NO_GPU
    lacking = {section.name for section in sections if section.gpus > gpus and not options.cpu and not options.only}
    return UNFINISHED if set(outcome.unfinished) - lacking else ALL_SHOWN


def _print_line(line: Line) -> None:
    print(terminal_row(line), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m benchmarks.gpu_check", _DESCRIPTION, _EPILOG)
    add_options(parser, SECTIONS, Path("runs/gpu_check"))
    parser.add_argument(
        "--budget",
        type=_seconds,
        metavar="SECONDS",
        help=f"for all of it [{_BUDGET:.0f}; on a CPU three times]",
    )
    parser.add_argument("--list", action="store_true", help="print the sections, in their order, and end")
    return parser


def command_parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """One that says in a line what is wrong with arguments."""
    return _Parser(
        prog=command,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_options(parser: argparse.ArgumentParser, sections: Sequence[Section], out: Path) -> None:
    """What `run_check` looks at, and which of `sections` are to run."""
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"takes the report [{out}]")
    parser.add_argument(
        "--only", type=partial(_named, sections), metavar="NAME[,NAME]", help="run these sections alone"
    )
    parser.add_argument("--cpu", action="store_true", help="the small form on the CPU, even if there is a GPU")


def _named(sections: Sequence[Section], text: str) -> tuple[Section, ...]:
    names = [name for name in text.split(",") if name]
    known = [section.name for section in sections]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        said = f"no section {', '.join(unknown) or 'named'}; there are {', '.join(known)}"
        raise argparse.ArgumentTypeError(said)
    return tuple(section for section in sections if section.name in names)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _listed(section: Section) -> str:
    gpus = "" if section.gpus == 1 else f", {section.gpus} GPUs"
    return f"{section.name:15} {section.title} (at most {section.seconds:.0f} s{gpus})"


def _end_by_signals() -> None:
    """Ctrl-C, and a request to end, end the check once; a second does not disturb its end."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


if __name__ == "__main__":
    sys.exit(main())
