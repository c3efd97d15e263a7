"""What a run goes on from, and what it leaves: saved states, and trained weights as Hugging Face folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aspo_megatron.checkpoint.fingerprint import Fingerprint
from aspo_megatron.checkpoint.hf.folder import write_folder
from aspo_megatron.checkpoint.hf.model_card import model_card
from aspo_megatron.checkpoint.states.run_states import StateSaver, load_latest
from aspo_megatron.checkpoint.states.trainer_state import TrainerState, changed_weights
from aspo_megatron.config import RunConfig
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import EXPORTS, step_name
from aspo_megatron.foreign_text import one_line
from aspo_megatron.inputs.shared import SharedInputs
from aspo_megatron.launch.stop import StopRequest
from aspo_megatron.parallel.grid.exchange import from_leader
from aspo_megatron.train.learner import Learner
from aspo_megatron.train.outputs import RunOutputs
from aspo_megatron.train.phase_timer import PhaseTimer


class SaveAndResume:
    """Loads, saves and exports what `learner` has. All methods are collectives.

    `state`: what is saved about the progress of the run.
    """

    def __init__(
        self,
        config: RunConfig,
        inputs: SharedInputs,
        learner: Learner,
        outputs: RunOutputs,
        phases: PhaseTimer,
        stop: StopRequest,
    ) -> None:
        """`outputs` has the lines that a state counts on; `stop` asks the run to save its state and end."""
        self._config, self._inputs, self._learner, self._outputs = config, inputs, learner, outputs
        self._phases, self._stop, self._tell = phases, stop, outputs.progress.message
        self._device = learner.model.topology.platform.device
        self._saver = StateSaver(config, inputs.family, learner.model, learner.optimizer, self._tell)

    def load(self, folder: Path, weights: Fingerprint) -> TrainerState:
        """Load the state in `folder` or, if that cannot be done, the one before, and say which.

        `weights`: of the weights in `model.path`.

        Raises:
            CheckpointError: none can be loaded, or the KL would refer to other weights than before.
        """
        config, family, learner = self._config, self._inputs.family, self._learner
        with self._phases("load state"):
            folder, state = load_latest(folder, config, family, learner.model, learner.optimizer, self._tell)
        changed = changed_weights(config, state, weights)
        if changed is not None:
            if config.has_reference and not config.warmup.updates:
                raise CheckpointError(f"{changed}, and the KL refers to them; give the folder that holds those")
            self._tell(one_line(f"warning: {changed}; the run continues with its own, from {folder}"))
        self._saver.go_on_from(state.step)
        if state.problems != self._inputs.train.digest:
            self._tell("warning: data.train gives other problems than before; the run continues with them")
        self._tell(f"resuming after step {state.step}, from {one_line(folder)}")
        return state

    def keep(self, state: TrainerState) -> None:
        """Save and export what is due after a step."""
        config, step = self._config.checkpoint, state.step
        if config.every and (step % config.every == 0 or step == self._config.train.steps):
            self.save(state)
        if config.export_every and step % config.export_every == 0:
            self._export_beside(state)

    def export_missing(self, state: TrainerState) -> None:
        """Export what was due when the run was ended after it had saved that step."""
        every, step = self._config.checkpoint.export_every, state.step
        if step and every and step % every == 0 and not from_leader(self._folder_beside(step).exists()):
            self._export_beside(state)

    def must_stop(self, state: TrainerState) -> bool:
        """Whether a signal has asked to stop; then all is saved. Also completes a save that is written."""
        stop, writing = self._stop.agree(self._saver.writing, self._device)
        if stop:
            self.save(state)
            if state.step:
                self._export_beside(state)
            self.finish()
        elif not writing:
            self.finish()
        return stop

    def complete_written(self) -> None:
        """Give a state its name as soon as all ranks have written it. A collective while a save is under way."""
        if self._saver.pending and not self._stop.agree(self._saver.writing, self._device)[1]:
            self.finish()

    def save(self, state: TrainerState) -> None:
        """Begin to save `state`, unless the disk lacks room for the lines of its steps."""
        with self._phases("save"):
            unwritten = from_leader(self._outputs.unwritten())
            if unwritten is not None:
                self._saver.cannot_save(state.step, unwritten)
                return
            self._saver.save(replace(state, problems=self._inputs.train.digest))

    def finish(self) -> None:
        """Wait until the save that is under way is complete."""
        self._saver.finish()

    def export(self, state: TrainerState, folder: Path) -> None:
        """Write the trained weights as a Hugging Face folder.

        Raises:
            CheckpointError: it cannot be written; on the leader alone, after all ranks have given their shards.
        """
        with self._phases("export"):
            tensors = self._learner.model.hf_tensors()
            try:
                if self._outputs.written_here:
                    card = model_card(self._config, state.step, state.tokens, state.heldout_before, state.heldout_after)
                    write_folder(
                        folder,
                        tensors,
                        self._inputs.family.exported_config(self._config.model.dtype),
                        tokenizer_from=self._config.model.path,
                        card=card,
                        replace=True,
                    )
            finally:
                for _ in tensors:  # the other ranks give their shards
                    pass

    def _export_beside(self, state: TrainerState) -> None:
        """Export into a folder of this step's own; without room for it the run continues."""
        try:
            self.export(state, self._folder_beside(state.step))
        except CheckpointError as error:  # on the leader alone, which has drawn all tensors
            self._tell(f"warning: {error}; the run continues")

    def _folder_beside(self, step: int) -> Path:
        return self._config.output_dir / EXPORTS / step_name(step)
