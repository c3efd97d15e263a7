"""A run's metrics in Weights & Biases, for those who have it installed."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aspo_megatron.config.words import WandbMode
from aspo_megatron.errors import UserError
from aspo_megatron.files import write_whole
from aspo_megatron.folders import WANDB_ID_FILE
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import read_text


class WandbRun:
    """One run there; a run folder that goes on goes on with the same one."""

    def __init__(self, run_dir: Path, mode: WandbMode, project: str, config: Mapping[str, Any]) -> None:
        """Open it.

        Args:
            run_dir: the run folder, whose name it bears; `offline` writes into `wandb/` there.
            mode: `offline` sends nothing: `wandb sync` does it later.
            project: where it belongs.
            config: the run's settings, to be shown beside it.

        Raises:
            UserError: wandb is not installed, or does not let us in.
        """
        check_installed(mode)
        import wandb

        try:
            self._run = wandb.init(
                project=project,
                name=one_line(run_dir.name),
                id=_id_of(run_dir),
                resume="allow",
                mode=mode,
                dir=run_dir,
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise UserError(f"log.wandb={mode}: {one_line(error)}; `wandb login`, or set log.wandb=offline") from error
        except OSError as error:
            raise UserError(f"log.wandb={mode}: {one_line(error)}; fix it, or set log.wandb=none") from error
        # Steps that are done again after a resume are sent again: wandb's own count of steps may not go back.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of a step."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """Send or write what is left."""
        self._run.finish()


def check_installed(mode: str) -> None:
    """See that what `log.wandb` asks for is there.

    Raises:
        UserError: wandb is wanted, and not installed.
    """
    if mode != "none" and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"log.wandb is {mode}, but the package `wandb` is not installed: pip install wandb, or set log.wandb=none"
        )


def _id_of(run_dir: Path) -> str:
    path = run_dir / WANDB_ID_FILE
    if not os.path.lexists(path):
        write_whole(path, uuid.uuid4().hex)
    return read_text(path)
