"""The phases of a run: shown, timed, and profiled in the step that the configuration names."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import UserError
from aspo_megatron.files import write_whole
from aspo_megatron.folders import PROFILE
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.phase_note import PhaseNote
from aspo_megatron.metrics.progress import ProgressDisplay
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.streams import say
from aspo_megatron.train.profiler import StepProfile, product_rate
from aspo_megatron.train.step_operations import Work, whole_work, work_of


class PhaseTimer:
    """Call it with a label: `with phases("update"): ...`."""

    def __init__(self, config: RunConfig, model: PolicyModel, progress: ProgressDisplay) -> None:
        """`progress` shows the phases."""
        self._config, self._model, self._progress = config, model, progress
        self._topology = model.topology
        self._note = PhaseNote(config.output_dir, leader=model.topology.is_leader)
        self._seconds: dict[str, float] = {}
        self._profile: StepProfile | None = None
        self._work: dict[str, Work] = {}

    @contextmanager
    def __call__(self, label: str) -> Iterator[None]:
        """A phase, e.g. "old log-probs"."""
        self._progress.phase(label)
        self._note(label)
        began = time.perf_counter()
        with self._profile.phase(label) if self._profile else nullcontext():
            yield
        name = f"seconds/{label.replace(' ', '_').replace('-', '_')}"
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    @property
    def seconds(self) -> dict[str, float]:
        """Of each phase since the step began, by metric name: `seconds/old_log_probs`."""
        return dict(self._seconds)

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """A step: its phases are timed anew. The profile of one that is profiled is written at its end."""
        self._seconds = {}
        if step != self._config.log.profile_step:
            yield
            return
        with StepProfile(self._topology.platform.device) as self._profile:
            yield
        profile, self._profile = self._profile, None
        try:
            self._write(profile, step)
        except UserError as error:  # on the ranks that have no room for their part
            say(f"warning: {error}; the run continues")

    def count_work(self, groups: Sequence[Sequence[Sample]], scored: Sequence[Sequence[Sample]]) -> None:
        """Count the operations of a step that is profiled. A collective in that step; does nothing in others.

        Args:
            groups: all samples of the step on this replica.
            scored: those whose old log-probs a pass of their own computes.
        """
        if self._profile:
            self._work = whole_work(work_of(self._config, self._model.family, groups, scored), self._topology)

    def _write(self, profile: StepProfile, step: int) -> None:
        folder, topology = self._config.output_dir / PROFILE, self._topology
        profile.write(folder, topology.rank)
        rate = product_rate(self._model.config.params_dtype, topology.platform.device)
        if topology.is_leader:
            title = f"step {step} of {self._config.output_dir}, rank 0 of {topology.world_size}"
            write_whole(folder / "summary.txt", profile.summary(title, self._work, rate, topology.world_size))
            profile.draw_memory(folder / "memory.png")
            self._progress.message(
                f"profile of step {step}: {one_line(folder)}/summary.txt; traces for ui.perfetto.dev beside it"
            )
