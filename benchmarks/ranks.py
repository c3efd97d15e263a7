"""Functions run in fresh ranks, forked from a process that has imported torch and megatron's dependencies."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from aspo_megatron.launch.addresses import reserved_port
from aspo_megatron.launch.rank import ignore_warnings_of_libraries

Result = dict[str, Any]


def prepare(module: str) -> None:
    """Import `module`, and what it needs, once for all ranks to come."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([module, "transformers"])


def in_ranks(world: int, function: Callable[..., Result], *args: Any) -> list[Result]:
    """What `function(*args)` gives in each of `world` ranks of one thread, which find each other as under torchrun.

    Raises:
        SystemExit: a rank failed.
    """
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as name, reserved_port() as port:
        folder = Path(name)
        ranks = []
        for rank in range(world):
            environment = {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            arguments = (folder / f"{rank}.json", environment, function, args)
            ranks.append(context.Process(target=_as_rank, args=arguments))
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            raise SystemExit(f"{function.__name__}{args}: a rank has failed")
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


def _as_rank(path: Path, environment: dict[str, str], function: Callable[..., Result], args: Sequence[Any]) -> None:
    os.environ.update(environment)
    ignore_warnings_of_libraries()
    torch.set_num_threads(1)
    path.write_text(json.dumps(function(*args)), encoding="utf-8")
