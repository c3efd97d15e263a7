"""`aspo plan --simulate`: ranks of the run on the stand-in, each in a process of its own, beside the plan's figures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import save_config
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.folders import RUN_CONFIG
from aspo_megatron.models.family import Family
from aspo_megatron.plan.hardware import Assumptions, Gpu
from aspo_megatron.plan.layouts import StageMemory, stage_memory
from aspo_megatron.plan.memory.host import LockedMemory, locked_by_rank
from aspo_megatron.plan.memory.setting import setting_of
from aspo_megatron.simulation.phases import Phase
from aspo_megatron.simulation.run import RankFigures, ranks_of

_AT_ONCE = 2
_POLL_SECONDS = 0.1
_LEFT_OUT = {
    "layers": ("transformer_engine", "auto"),
    "gradient_fusion": (True, None),
    "grouped_gemm": (True, None),
    "expert_fusion": (True, None),
}
"""Options of `model.kernels` that the stand-in has no package for: what asks for them, and what is simulated."""


@dataclass(frozen=True)
class Compared:
    """A rank as it was simulated, and what is planned for it with as many micro-batches."""

    figures: RankFigures
    planned: StageMemory
    locked: LockedMemory

    @property
    def planned_bytes(self) -> dict[Phase, int]:
        """The most in each phase, by the plan's formulas."""
        moments = self.planned.passing
        beyond = {
            Phase.HELD: 0,
            Phase.SYNC: self.planned.sync,
            Phase.GENERATION: self.planned.generation,
            Phase.SCORING: moments.scoring,
            Phase.REFERENCE: moments.reference,
            Phase.FORWARD: moments.forward,
            Phase.BACKWARD: moments.backward,
            Phase.EMBEDDING: moments.embedding,
            Phase.OPTIMIZER: moments.optimizer,
            Phase.SAVE: self.planned.save,
        }
        held = self.planned.resident.total
        for phase in (Phase.SYNC, Phase.GENERATION, Phase.SCORING, Phase.REFERENCE, Phase.SAVE):
            beyond[phase] -= moments.given_back
        return {phase: held + more for phase, more in beyond.items() if phase in self.figures.phases}

    @property
    def planned_peak(self) -> int:
        """Without what is reserved."""
        return self.planned.total - self.planned.reserved

    def as_json(self) -> dict[str, Any]:
        """Figures in bytes."""
        planned = {str(phase): size for phase, size in self.planned_bytes.items()}
        return {**self.figures.as_json(), "planned": planned, "planned_peak_bytes": self.planned_peak}


def compared(config: RunConfig, family: Family, figures: RankFigures, gpu: Gpu) -> Compared:
    """Simulated figures beside the plan's."""
    parallel = config.parallel
    setting = replace(setting_of(config, parallel), micro_batches=figures.micro_batches, scored=None)
    planned = stage_memory(config, family, parallel, figures.stage, gpu, Assumptions(), setting)
    return Compared(figures, planned, locked_by_rank(config, family, parallel, setting, figures.stage))


def simulated_form(config: RunConfig, folder: Path) -> tuple[RunConfig, list[str]]:
    """The run as it can be simulated, with the config.json of `folder`, and a line for each option that is left out.

    Raises:
        ConfigError: the run is on CPUs.
    """
    if config.platform.device == "cpu":
        raise ConfigError(
            "platform.device=cpu: --simulate simulates a GPU; add platform.device=cuda, or leave out --simulate"
        )
    lines, changes = [], {}
    for key, (asked, instead) in _LEFT_OUT.items():
        if getattr(config.model.kernels, key) == asked:
            changes[key] = instead
            shown = str(asked).lower() if isinstance(asked, bool) else asked
            lines.append(f"model.kernels.{key}={shown} is left out: the stand-in has only megatron-core's own layers")
    if config.model.kernels.fp8 != "none":
        changes["fp8"] = "none"
        lines.append(f"model.kernels.fp8={config.model.kernels.fp8} is left out: simulated and planned in bf16")
    if config.rollout.servers.colocate and config.rollout.engine == "sglang":
        lines.append("rollout.servers.colocate: the servers' own memory is planned, not simulated")
    kernels = config.model.kernels.model_copy(update=changes)
    model = config.model.model_copy(update={"path": folder.absolute(), "kernels": kernels})
    return config.model_copy(update={"model": model}), lines


def simulate_ranks(config: RunConfig, family: Family, gpu: Gpu, tell: Callable[[str], None]) -> list[Compared]:
    """A rank of each kind of stage, two at a time. `tell` is given a line for each.

    Raises:
        UserError: a rank could not be simulated.
    """
    with tempfile.TemporaryDirectory(prefix="aspo-simulate-") as name:
        folder = Path(name)
        save_config(config, folder / RUN_CONFIG)
        waiting, running, done = ranks_of(config.parallel), list[_Child](), list[_Child]()
        try:
            while waiting or running:
                while waiting and len(running) < _AT_ONCE:
                    running.append(_Child(folder, waiting.pop(0), gpu))
                time.sleep(_POLL_SECONDS)
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    done.append(child)
                    figures = child.figures(config.parallel.world_size)
                    peak = f"{figures.peak_bytes / 1e9:.1f} GB"
                    tell(f"rank {child.rank}, stage {figures.stage}: {peak} ({time.monotonic() - child.began:.0f} s)")
        finally:
            for child in running:
                child.process.kill()
                child.process.wait()
        found = [child.figures(config.parallel.world_size) for child in sorted(done, key=lambda child: child.rank)]
    return [compared(config, family, figures, gpu) for figures in found]


class _Child:
    """A process that simulates one rank."""

    def __init__(self, folder: Path, rank: int, gpu: Gpu) -> None:
        self.rank, self.began = rank, time.monotonic()
        self._result, self._errors = folder / f"rank{rank}.json", folder / f"rank{rank}.log"
        module = ["-W", "ignore", "-m", "aspo_megatron.simulation"]
        arguments = [str(folder / RUN_CONFIG), str(rank), gpu.name, str(gpu.memory), str(self._result)]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *module, *arguments], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )

    def figures(self, ranks: int) -> RankFigures:
        """What it found.

        Raises:
            UserError: it has failed; with the end of what it said.
        """
        code = self.process.returncode
        if code == 0:
            return RankFigures.from_json(json.loads(self._result.read_text(encoding="utf-8")))
        said = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        why = said[-1].strip() if said and code > 0 else f"ended by signal {-code}"
        if code == -9:
            why += ": this machine may have too little memory"
        raise UserError(f"rank {self.rank} of {ranks} cannot be simulated: {why}")


def as_json(ranks: Sequence[Compared], left_out: Sequence[str], gpu: Gpu) -> dict[str, Any]:
    """For `--json`."""
    return {"gpu": gpu.name, "left_out": list(left_out), "ranks": [each.as_json() for each in ranks]}
