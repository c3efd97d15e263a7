"""What one rank of the launcher's tests does: `python -m launcher_rank FOLDER BEHAVIOUR_OF_RANK_0 BEHAVIOUR_OF_RANK_1`.

Each rank leaves its process id and what it was given in FOLDER, then does as told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from aspo_megatron.errors import UserError
from aspo_megatron.launch.rank import rank_main


def store_exchange(rank: int) -> int:
    """Meet at the launcher's port as under torchrun; then rank 1 is gone and rank 0 fails for want of it."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    print(f"sum {total.item():.0f}", flush=True)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(total)
    return 0


def wait_for(folder: Path, pattern: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(list(folder.glob(pattern))) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def behave(word: str, folder: Path, rank: int) -> int:
    if word == "store":
        return store_exchange(rank)
    if word == "sleep":
        time.sleep(60)
    if word == "ignore-sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "ignoring").touch()
        time.sleep(60)
    if word in ("child", "child-of-its-own-group"):
        group = 0 if word == "child-of-its-own-group" else None
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=group)
        (folder / "child").write_text(str(child.pid))
        time.sleep(60)
    if word.startswith("linger"):  # a process that is out of reach keeps stderr open, until it is let go
        command = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)"
        subprocess.Popen([sys.executable, "-c", command, str(folder / "let-go")], start_new_session=True)
        word = word.removeprefix("linger-and-")
    if word.startswith("flood"):
        for number in range(256):
            sys.stderr.write(f"{number} {'x' * 4000}\n")
        sys.stderr.flush()
        (folder / "flooded").touch()
        word = word.removeprefix("flood-and-")
    wait_for(folder, "[0-9].json", int(os.environ["WORLD_SIZE"]))  # all ranks are up
    if word == "raise-after-flood":
        wait_for(folder, "flooded", 1)
        word = "raise"
    if word == "raise":
        raise ZeroDivisionError(f"broken at {rank}")
    if word == "raise-later":
        wait_for(folder / "logs", "*.failure.json", 1)
        raise ConnectionError("Connection closed by peer")
    if word == "user-error":
        raise UserError("data.train.path: no such file problems.jsonl")
    if word == "print-and-exit-2":
        print("error: said by the rank itself", file=sys.stderr)
        sys.exit(2)
    if word == "exit-for-an-error":
        try:
            raise BrokenPipeError("the reader is gone")
        except BrokenPipeError:
            sys.exit(1)
    if word == "os-exit":
        os._exit(7)
    if word == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def main() -> int:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    print(f"stdout of {rank}")
    print(f"stderr of {rank}", file=sys.stderr)
    names = [*("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")]
    names += ["CUDA_DEVICE_MAX_CONNECTIONS", "PYTORCH_ALLOC_CONF"]
    partial = folder / f"{rank}.partial"
    partial.write_text(json.dumps({"pid": os.getpid(), **{name: os.environ.get(name) for name in names}}))
    partial.rename(folder / f"{rank}.json")
    return behave(sys.argv[2 + rank], folder, rank)


if __name__ == "__main__":
    rank_main(main)
