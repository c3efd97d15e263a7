"""Times on the GPU of this machine: `python -m benchmarks.gpu`, the sections of the GPU check that measure, in full."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_check.__main__ import add_options, command_parser, run_check
from benchmarks.gpu_check.sections import SECTIONS

_MEASURING = ("ceilings", "attention_time", "log_prob", "update_time", "step_time")
_TIMES = 4.0
"""As long as within the check, whose sections leave out what they have no time for."""
TIMED = tuple(replace(section, seconds=_TIMES * section.seconds) for section in SECTIONS if section.name in _MEASURING)
"""In the order of the check."""

_DESCRIPTION = """\
Measures on one GPU, each beside a named alternative in the same process and by turns:

  log_prob        log-probs with gradients: time and memory, beside log_softmax, cross_entropy and three bare products
  ceilings        what the card can do: copies, a large product, the products of the output layer
  attention_time  attention of several micro-batches, beside block by block, FlexAttention and one causal sequence
  update_time     whole updates of Qwen3's sizes, 0.6B to 8B: tokens/s, operations as a share of a plain product and of
                  the card's peak, memory and time beside `aspo plan`; and with attention block by block
  step_time       whole steps of training, 0.6B and 1.7B: tokens/s, share of each phase, time beside `aspo plan`

These are sections of `python -m benchmarks.gpu_check`, without its limit of ten minutes. Without a GPU their small
forms run on the CPU: they show that the benchmark itself works, and measure nothing."""

_EPILOG = """\
examples:
  python -m benchmarks.gpu                              # all of it
  python -m benchmarks.gpu --only update_time           # one of them
  python -m benchmarks.gpu --cpu --out /tmp/gpu         # does the benchmark itself run?

written, anew after each section: DIR/gpu_check.html (a page), gpu_check.md (a table), gpu_check.json (for programs),
and DIR/sections/NAME/output.txt, what a section printed.

exit codes, as of the check: 0 all was measured (with --cpu: all small forms hold), 1 something failed, 2 bad arguments,
3 no GPU: only the small forms ran, 4 not finished, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code of the check."""
    parser = command_parser("python -m benchmarks.gpu", _DESCRIPTION, _EPILOG)
    add_options(parser, TIMED, Path("runs/gpu"))
    options = parser.parse_args(argv)
    return run_check(options, options.only or TIMED, lambda small: math.inf)


if __name__ == "__main__":
    sys.exit(main())
