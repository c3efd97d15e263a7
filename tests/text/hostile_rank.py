"""A rank that says hostile things in every way that it can: `python -m hostile_rank HOW_IT_ENDS FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from aspo_megatron.errors import UserError
from aspo_megatron.launch.rank import rank_main
from text.hostile import HOSTILE


def end(how: str, folder: Path) -> int:
    if os.environ["RANK"] == "0":
        sys.stderr.write(f"said by a library {HOSTILE}\n")
        print(f"printed {HOSTILE}", flush=True)
        os.write(2, f"written {HOSTILE}\n".encode())
        (folder / "said").touch()
        time.sleep(60)
    os.write(2, f"written {HOSTILE}\n".encode())
    while not (folder / "said").exists():
        time.sleep(0.01)
    if how == "raise":
        raise ZeroDivisionError(f"{HOSTILE}\ud800")
    if how == "user error":
        raise UserError(f"data.train.path: no such file {HOSTILE}\ud800")
    if how == "exit with text":
        sys.exit(HOSTILE)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stderr.write(f"error: {HOSTILE}\n")
    return 2


rank_main(lambda: end(sys.argv[1], Path(sys.argv[2])))
