"""Faults in what a run goes on from."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "checkpoint/states/trainer_state.py",
        "read_state",
        'if "carried" in content',
        'if "carry" in content',
        ("checkpoint/test_small_states.py",),
    ),
    Mutant(
        "checkpoint/states/trainer_state.py",
        "changed_weights",
        "before.get(name) != now.get(name)",
        "before.get(name) != before.get(name)",
        ("checkpoint/test_small_states.py",),
    ),
    Mutant(
        "checkpoint/states/rng_state.py",
        "restore",
        "    np.random.set_state(numpy)\n",
        "",
        ("checkpoint/test_small_states.py",),
    ),
    Mutant(
        "checkpoint/states/folders.py",
        "publish",
        "saved_steps(run)[keep:]",
        "saved_steps(run)[keep + 1 :]",
        ("checkpoint/test_small_states.py",),
    ),
    Mutant(
        "data/prompt_sampler.py",
        "PromptSampler.load_state",
        "        self._stream.position = state.asked\n",
        "",
        ("data/test_prompt_sampler.py",),
    ),
    Mutant(
        "data/prompt_sampler.py",
        "PromptSampler.carry_over",
        "SamplerState(self._stream.position, tuple(sorted(at for part in positions for at in part)))",
        "SamplerState(self._stream.position)",
        ("data/test_prompt_sampler.py",),
    ),
    Mutant(
        "metrics/truncate_on_resume.py",
        "_cut_lines",
        "elif line.step <= step:",
        "elif line.step < step:",
        (
            "metrics/test_damaged_lines.py::test_whole_lines_are_kept_as_they_are",
            "metrics/test_damaged_lines.py::test_damage_of_several_times_is_kept",
            "metrics/test_record.py",
        ),
    ),
    Mutant(
        "train/save_and_resume.py",
        "SaveAndResume.save",
        "replace(state, problems=self._inputs.train.digest)",
        "state",
        ("train/test_trainer.py::test_what_is_recorded_is_what_happened",),
    ),
)
