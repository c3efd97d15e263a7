"""The weights of a model folder, wherever they are: in its own files, or in the checkpoint around it."""

from __future__ import annotations

from pathlib import Path

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.checkpoint.hf_view import HfView
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.folders import checkpoint_around
from aspo_megatron.models.family import Family


def weights_of(folder: Path, family: Family) -> SafetensorsFolder | HfView:
    """The tensors of a Hugging Face folder by name; a context manager. Checksums of a checkpoint are not looked at.

    Raises:
        CheckpointError: they cannot be read.
    """
    checkpoint = checkpoint_around(folder)
    if checkpoint is None:
        return SafetensorsFolder(folder)
    return HfView(TorchDistReader(checkpoint, family), family)
