"""For whoever names the folder of a run where a model or a checkpoint is meant: which folder in it is one."""

from __future__ import annotations

from pathlib import Path

from aspo_megatron.folders import CHECKPOINTS, MANIFEST, RUN_CONFIG, TRAINED_MODEL
from aspo_megatron.foreign_text import one_line


def of_a_run(folder: Path, *, checkpoint: bool = False) -> str:
    """That a folder is that of a run, and what in it is meant; empty if it is none.

    Args:
        folder: of a run, the `checkpoints` in one, or something else.
        checkpoint: whether a megatron checkpoint is wanted, not a Hugging Face folder.
    """
    run = folder.parent if folder.name == CHECKPOINTS else folder
    if not ((run / RUN_CONFIG).is_file() and (run / CHECKPOINTS).exists()):
        return ""
    trained = run / TRAINED_MODEL
    what = f"{one_line(folder)} is {'of' if folder != run else 'the folder of'} a run"
    if not checkpoint and (trained / "config.json").is_file():
        return f"{what}; its trained model is {one_line(trained)}"
    states = sorted((run / CHECKPOINTS).glob(f"step-*/{MANIFEST}"))
    if states:
        return f"{what}; its last saved state is {one_line(states[-1].parent)}"
    return f"{what} that has saved no state yet"
