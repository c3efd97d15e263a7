"""What the run wants of the machine: of the configuration that was given, or of one with every default."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.doctor.host import Host
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.slurm.layout import gpus_beside, has_own_servers, shape

if TYPE_CHECKING:
    from aspo_megatron.models.family import Family

_DEFAULT = ("output_dir=runs/run", "model.path=model", "data.train.kind=jsonl", "data.train.path=problems.jsonl")
"""What has no default in a configuration. Not looked at unless a configuration is given."""


@dataclass(frozen=True)
class Requirements:
    """A run.

    Attributes:
        run: the whole configuration.
        config: its file; None for the defaults.
        overrides: `key=value` words on top of it.
        family: of its model; None if that is not known.
        family_problem: why it is not.
        slurm: the machine belongs to a cluster with Slurm, so that ranks may be spread over nodes.
        away: this is where jobs are submitted, and the ranks are to run on other machines.
    """

    run: RunConfig
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    family: Family | None = None
    family_problem: str = ""
    slurm: bool = False
    away: bool = False

    @property
    def words(self) -> str:
        """The file and settings, as a shell takes them; with a space before, if there are any."""
        words = [*([] if self.config is None else [str(self.config)]), *self.overrides]
        return f" {shlex.join(words)}" if words else ""

    @property
    def nodes(self) -> int:
        """Machines that the ranks are on."""
        return self._shape()[0]

    @property
    def ranks_here(self) -> int:
        """Ranks on this machine."""
        return self._shape()[1]

    @property
    def shape_problem(self) -> str:
        """Why `aspo slurm` refuses the run: its ranks do not fill nodes."""
        try:
            shape(self.run)
        except UserError as error:
            return str(error)
        return ""

    @property
    def own_servers(self) -> bool:
        """Whether the run starts SGLang servers on this machine."""
        return has_own_servers(self.run)

    @property
    def server_gpus(self) -> int:
        """GPUs of this machine that its servers take from the ranks."""
        return gpus_beside(self.run)

    def _shape(self) -> tuple[int, int]:
        try:
            return self._shape_in_slurm()
        except UserError:
            return 1, self.run.parallel.world_size

    def _shape_in_slurm(self) -> tuple[int, int]:
        if not self.slurm or self.config is None or self.run.parallel.world_size <= self.run.slurm.gpus_per_node:
            return 1, self.run.parallel.world_size
        return shape(self.run)


def placed(needs: Requirements, host: Host, gpus: bool) -> Requirements:
    """The same, with whether the ranks run here: a machine of a cluster without GPUs only submits what wants them.

    Args:
        needs: what is wanted.
        host: the machine.
        gpus: it has some.
    """
    # The shell that `salloc` opens is of a job, but where it was called; tasks and batch scripts have a number.
    submits = needs.slurm and not {"SLURM_JOB_ID", "SLURM_PROCID"} <= set(host.env)
    away = submits and not gpus and needs.run.platform.device != "cpu"
    return replace(needs, away=away)


def _load(config: Path | None, words: Sequence[str]) -> RunConfig:
    try:
        return load_config(config, words)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error


def read_requirements(config: Path | None, overrides: Sequence[str], host: Host) -> Requirements:
    """The needs of a configuration file, or of the defaults, with `key=value` on top.

    Raises:
        ConfigError: a key or value is wrong, or what they name may not be looked at.
    """
    slurm = bool(host.which("sbatch") or "SLURM_JOB_ID" in host.env)
    if config is None:
        return Requirements(_load(None, [*_DEFAULT, *overrides]), overrides=tuple(overrides), slurm=slurm)
    needs = Requirements(_load(config, overrides), config, tuple(overrides), slurm=slurm)
    if host.torch.problem:
        return replace(needs, family_problem=f"cannot be read without torch: {host.torch.problem}")
    from aspo_megatron.checkpoint.usable import usable_model
    from aspo_megatron.models.tiny import model_shape

    try:
        return replace(needs, family=usable_model(model_shape(needs.run, config, overrides)))
    except UserError as error:
        return replace(needs, family_problem=str(error))
    except Exception as error:  # whatever a file in its place can be
        return replace(needs, family_problem=f"{needs.run.model.path}: cannot be read: {error}")
