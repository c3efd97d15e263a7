"""A wish to stop that comes as a signal: noted when it comes, granted by all ranks together after a step."""

from __future__ import annotations

import os
import signal
from types import FrameType

import torch
import torch.distributed as dist

from aspo_megatron.rank import PARENT_VARIABLE


class StopRequest:
    """Notes SIGUSR1, and SIGTERM where no `launch` stands between this rank and the job scheduler.

    `launch` turns SIGTERM into SIGUSR1, and ends ranks by SIGTERM when one of them has failed.
    """

    def __init__(self) -> None:
        """Take over the signals; they were blocked until now under `launch`."""
        self._wanted = False
        numbers = [signal.SIGUSR1]
        if PARENT_VARIABLE not in os.environ:
            numbers.append(signal.SIGTERM)
        for number in numbers:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._wanted = True

    def agree(self, busy: bool, device: torch.device) -> tuple[bool, bool]:
        """Whether any rank was asked to stop, and whether any is `busy`. A collective."""
        both = torch.tensor([self._wanted, busy], dtype=torch.int32, device=device)
        dist.all_reduce(both, op=dist.ReduceOp.MAX)
        stop, someone_busy = both.tolist()
        return bool(stop), bool(someone_busy)
