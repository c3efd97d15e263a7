"""What a rank of a run does that notes its memory: `python -m aspo_megatron.launch.rank measured_rank RUN/config.yaml`.

Between two steps a rank has nothing under way. What `malloc` has given out then, after a search for garbage, is what is
kept from step to step: to the byte, and without what is free but not given back. With PYTHONMALLOC=malloc that has
Python's objects too.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path

import torch

from aspo_megatron.config.io import load_config
from aspo_megatron.inputs.read import read_inputs
from aspo_megatron.launch.stop import StopRequest
from aspo_megatron.train.main import train

EVERY = 10
"""Steps from one note to the next."""


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    )


def bytes_in_use() -> int:
    """Bytes that this process has from `malloc`, in all of its threads and of any size."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _MallInfo
    found = ask()
    return int(found.uordblks + found.hblkhd)


class MeasuredStop(StopRequest):
    """Is asked before each step whether to stop, and notes the memory in use as a line of `memory/rank<N>.jsonl`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / f"rank{os.environ['RANK']}.jsonl"
        self._asked = 0

    def agree(self, busy: bool, device: torch.device) -> tuple[bool, bool]:
        """As ever; a step in which a state is being written is no time to measure."""
        stop, someone_busy = super().agree(busy, device)
        if self._asked % EVERY == 0 and not someone_busy:
            gc.collect()
            with self._path.open("a") as file:
                file.write(f"{json.dumps([self._asked, bytes_in_use()])}\n")
        self._asked += 1
        return stop, someone_busy


if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]))
    notes = config.output_dir / "memory"
    notes.mkdir(parents=True, exist_ok=True)
    train(config, read_inputs(config), MeasuredStop(notes))
