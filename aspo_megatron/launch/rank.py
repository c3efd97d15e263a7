"""Inside a rank: what ties it to its launcher, and how it ends.

`launcher` starts a rank as `python -m aspo_megatron.launch.rank PATH MODULE ARGUMENTS`; PATH is its own `sys.path`, in
JSON. Under torchrun or srun the `aspo` command is the rank itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from aspo_megatron.errors import UserError
from aspo_megatron.launch import garbage
from aspo_megatron.launch.loopback import LOOPBACK
from aspo_megatron.launch.rank_status import WaitedInVainError
from aspo_megatron.streams import open_closed, say, unfailing

REPORT_VARIABLE = "ASPO_RANK_REPORT"
"""Names the file in which a rank of `launch` leaves its error."""

PARENT_VARIABLE = "ASPO_LAUNCHER_PID"
"""Tells a rank of `launch` the process whose death ends it."""

USER_ERROR_CODE = 2
"""Exit code after a `UserError`."""

_PR_SET_PDEATHSIG = 1


def running_under_launcher(env: Mapping[str, str]) -> bool:
    """Whether these environment variables say that torchrun, srun or `launch` has started this process as a rank."""
    if "RANK" in env and "WORLD_SIZE" in env:
        return True
    tasks = env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS", "1")
    return "SLURM_PROCID" in env and "SLURM_STEP_ID" in env and int(tasks) > 1


def slurm_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Torchrun's variables for a task of srun; nothing where they are there already.

    MASTER_ADDR and MASTER_PORT are left as the job's script has set them (slurm/train.sbatch looks for a free port).
    Otherwise rank 0 is on the first node of the step, and its port follows from the job and step, so that jobs which
    share a node do not meet. On one node ranks meet at its loopback address, which no other machine reaches.

    Raises:
        UserError: several nodes, and `scontrol` cannot name the first.
    """
    if "RANK" in env or "SLURM_PROCID" not in env:
        return {}
    job, step = int(env["SLURM_JOB_ID"]), int(env["SLURM_STEP_ID"])
    return {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(_tasks_on_this_node(env)),
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": LOOPBACK if _is_one_node(env) else env.get("MASTER_ADDR") or _first_node(env),
        "MASTER_PORT": env.get("MASTER_PORT") or str(10000 + (job * 7 + step) % 20000),
    }


def rank_settings(env: Mapping[str, str]) -> dict[str, str]:
    """What a rank sets for CUDA and PyTorch, before either looks; what the user has set stays.

    Tensor parallelism wants communication to start before the computation that is queued after it, hence one queue.
    Micro-batches differ in length, so that memory in pieces of fixed sizes would be left over between them.
    """
    settings = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    if "PYTORCH_CUDA_ALLOC_CONF" not in env:  # the older name
        settings["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return {name: value for name, value in settings.items() if name not in env}


def _is_one_node(env: Mapping[str, str]) -> bool:
    return int(env.get("SLURM_STEP_NUM_NODES", "1")) == 1


def _first_node(env: Mapping[str, str]) -> str:
    command = ["scontrol", "show", "hostnames", env["SLURM_STEP_NODELIST"]]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(f"{' '.join(command)} failed ({error}): the address of rank 0 is not known") from error


def _tasks_on_this_node(env: Mapping[str, str]) -> int:
    """From Slurm's `8(x3),4`: three nodes with 8 tasks and one with 4."""
    counts: list[int] = []
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", env["SLURM_STEP_NUM_TASKS"]).split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts[int(env.get("SLURM_NODEID", "0"))]


def rank_main(main: Callable[[], int]) -> NoReturn:
    """Run a rank's `main` and exit with its code; when it raises, end the process at once.

    Under `launch` the error goes to the launcher, which shows that of the first rank to fail; otherwise to stderr: one
    line for a `UserError` (exit code 2), else the traceback (exit code 1). Nothing is cleaned up after an error,
    because destructors of a process group whose peers are gone can hang. For the same reason `main` must not leave
    the process group while an exception is on its way: the others would fail before this rank's error is recorded.
    """
    ignore_warnings_of_libraries()
    os.environ.update(rank_settings(os.environ))
    try:
        code = main()
    except WaitedInVainError as error:
        text = (
            traceback.format_exc() if error.__cause__ is None else "".join(traceback.format_exception(error.__cause__))
        )
        _end_rank(1, f"{text}\n{error}", waited=True)
    except SystemExit as error:
        if error.code:
            _end_rank(*_exit(error))
        raise
    except UserError as error:
        _end_rank(USER_ERROR_CODE, f"error: {error}")
    except KeyboardInterrupt:
        _end_rank(128 + signal.SIGINT, "interrupted")
    except Exception:
        _end_rank(1, traceback.format_exc())
    garbage.skip_last_search()
    sys.exit(code)


def ignore_warnings_of_libraries() -> None:
    """Keep what nobody can do anything about from burying what is shown.

    megatron-core warns, in every rank and ten times over, that Transformer Engine and Apex are not installed and about
    what that means for CUDA (which layers are used is up to `Platform`), and makes torch warn of names that it uses.
    From 0.19 on it logs that the class of every model here will get no new features.
    """
    warnings.filterwarnings("ignore", module=r"megatron\..*")
    logging.getLogger("megatron.core.models.gpt.gpt_model").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process (SIGKILL) when the thread that started it ends.

    For ranks, and for worker processes that a rank starts from a thread as long-lived as itself. With `parent`, its
    process id, a parent that has ended before this call counts too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _exit(error: SystemExit) -> tuple[int, str]:
    """Exit code and what to say of a rank that a library or a script has ended by SystemExit.

    Whoever exits because of an error, as a display does whose pipe is closed, has said nothing of it.
    """
    if error.__context__ is not None:
        text = "".join(traceback.format_exception(error))
    else:
        text = "" if isinstance(error.code, int) else str(error.code)
    return error.code if isinstance(error.code, int) else 1, text


def _end_rank(code: int, text: str, *, waited: bool = False) -> NoReturn:
    when = time.monotonic()  # one clock for all processes of the machine
    report = os.environ.get(REPORT_VARIABLE)
    try:
        if report is None:
            raise FileNotFoundError("not started by launch()")
        partial = Path(f"{report}.partial")
        partial.write_text(
            json.dumps({"time": when, "code": code, "text": text.rstrip(), "waited": waited}), encoding="utf-8"
        )
        partial.replace(report)
    except OSError:  # the disk may be full
        if text:
            say(text.rstrip())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run_as_rank(path: str, module: str, argv: Sequence[str]) -> NoReturn:
    garbage.search_rarely()
    sys.path[:] = json.loads(path)
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    open_closed()
    faulthandler.enable()  # a segmentation fault leaves its Python stack in the log
    sys.argv = [module, *argv]

    def run() -> int:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0

    with unfailing():
        rank_main(run)


if __name__ == "__main__":
    _run_as_rank(sys.argv[1], sys.argv[2], sys.argv[3:])
