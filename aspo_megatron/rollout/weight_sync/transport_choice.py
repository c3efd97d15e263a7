"""Which way weights go to the servers, and whether NCCL can connect trainer and servers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from torch.cuda import nccl

from aspo_megatron.config import ServersConfig
from aspo_megatron.config.words import WeightSync
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line

_ONE_NCCL = "have the same torch in both environments, or the newer nvidia-nccl-cu13 (docs/sglang.md)"

_ASK = "import torch.cuda.nccl; print('NCCL', *torch.cuda.nccl.version())"
_ASK_SECONDS = 300.0
_MISMATCH = re.compile(r"Mismatched NCCL version detected\s*:\s*rank \d+ version (\d+) rank \d+ version (\d+)")


def choose_weight_sync(config: ServersConfig, device: str, own: bool, tell: Callable[[str], None]) -> WeightSync:
    """How weights get to the servers.

    Args:
        config: what `sync` asks for.
        device: the trainer's, `cpu` or `cuda`.
        own: the run starts the servers itself; then their Python is asked for its NCCL.
        tell: is given a line when `auto` takes the second-best.

    Raises:
        UserError: `sync=distributed` is asked for where NCCL cannot do it.
    """
    if config.sync in ("tensor", "disk"):
        return config.sync
    if device != "cuda":
        return "distributed"
    reason = _one_gpu(config) or (_other_version(config.python) if own else None)
    if reason is None:
        return "distributed"
    if config.sync == "distributed":
        raise UserError(f"rollout.servers.sync=distributed: {reason}")
    if not config.colocate:  # there `auto` has no choice
        tell(f"weights go to the servers by rollout.servers.sync=tensor: {one_line(reason)}")
    return "tensor"


def refuse_other_nccl(url: str, said: str) -> None:
    """Say what to do where NCCL has found that a server has another version.

    Raises:
        UserError: that is what is `said`.
    """
    found = _MISMATCH.search(said)
    if found is not None:
        theirs, ours = (_readable(int(version)) for version in found.groups())
        raise UserError(
            f"rollout.servers.sync=distributed: {url} and this run have different versions of NCCL, {theirs} and "
            f"{ours}; {_ONE_NCCL}, or set rollout.servers.sync=tensor or disk"
        )


def _one_gpu(config: ServersConfig) -> str | None:
    if not config.colocate:
        return None
    return (
        "NCCL does not connect two processes of one GPU, which rollout.servers.colocate makes of trainer and server; "
        "set rollout.servers.sync=tensor"
    )


def _other_version(python: Path) -> str | None:
    return versions_apart(version_here(), version_of(python), python)


def versions_apart(ours: str | None, theirs: str | None, python: Path) -> str | None:
    """Why NCCL does not connect this process with the servers of `python`; None if it does, or that cannot be told."""
    if ours is None or theirs is None or ours == theirs:
        return None
    return (
        f"NCCL is {ours} here and {theirs} in rollout.servers.python={python}, and connects equal versions; {_ONE_NCCL}"
    )


def version_of(python: Path) -> str | None:
    """The version of NCCL that another Python's torch has; None if that cannot be told."""
    try:
        done = subprocess.run(
            version_command(python),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return version_said(done.stdout)


def version_command(python: Path) -> list[str]:
    """What has a Python print the version of its torch's NCCL."""
    return [str(python.absolute()), "-W", "ignore", "-c", _ASK]


def version_said(out: str) -> str | None:
    """The version in what `version_command` printed."""
    found = re.search(r"^NCCL (.+)$", out, flags=re.M)
    return ".".join(found[1].split()) if found else None


def version_here() -> str | None:
    """The version of NCCL that this process has; None for a PyTorch without."""
    try:
        return ".".join(str(part) for part in nccl.version())
    except (AttributeError, RuntimeError):
        return None


def _readable(code: int) -> str:
    """2.29.7 of 22907."""
    return f"{code // 10000}.{code // 100 % 100}.{code % 100}"
