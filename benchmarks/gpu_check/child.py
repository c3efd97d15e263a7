"""The process of one section: `python -m benchmarks.gpu_check.child PARENT DESCRIPTION`. The runner starts it."""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from aspo_megatron.launch.rank import die_with_parent, ignore_warnings_of_libraries
from benchmarks.gpu_check.sections import Section

_SECONDS_TO_END = 3.0
"""Of its time, in which a section that has used it up ends by itself."""


@dataclass(frozen=True)
class Task:
    """What a section's process is told.

    Attributes:
        name: of the section.
        module: has its `run`.
        lines: the file that takes its lines.
        work: its folder.
        cpu: the small form, on the CPU.
        gpus: how many there are.
        seconds: how long its process may take.
    """

    name: str
    module: str
    lines: str
    work: str
    cpu: bool
    gpus: int
    seconds: float

    @classmethod
    def of(cls, section: Section, folder: Path, *, cpu: bool, gpus: int, seconds: float) -> Task:
        """The task of running `section` in `folder`."""
        return cls(section.name, section.module, str(folder / "lines.jsonl"), str(folder / "work"), cpu, gpus, seconds)

    def command(self, parent: int) -> list[str]:
        """What starts it, for the process `parent`."""
        return [sys.executable, "-m", __spec__.name, str(parent), json.dumps(asdict(self))]


def main(argv: list[str]) -> None:
    """Run a section; an error of it ends the process with its traceback."""
    began = time.monotonic()
    die_with_parent(int(argv[0]))
    faulthandler.enable()
    ignore_warnings_of_libraries()
    task = Task(**json.loads(argv[1]))
    import torch

    from benchmarks.gpu_check.lines import Place, Sheet

    section = importlib.import_module(task.module)
    device = torch.device("cpu" if task.cpu else "cuda:0")
    left = task.seconds - _SECONDS_TO_END - (time.monotonic() - began)  # imports may take long
    place = Place(device, task.cpu, task.gpus, Path(task.work), left)
    sheet = Sheet(task.name, Path(task.lines), on_gpu=place.on_gpu)
    section.run(sheet, place)
    if place.on_gpu:
        torch.cuda.synchronize()  # an error of a kernel that nobody waited for is this section's, too


if __name__ == "__main__":
    main(sys.argv[1:])
