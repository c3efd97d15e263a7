"""The weights of the embedded engine's model: taken by name, and in memory only while there is use for them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aspo_megatron.models.hf_names import by_checkpoint_name
from aspo_megatron.rollout.embedded.packed_linear import pack_layers, packable
from aspo_megatron.rollout.engine import checked


class EmbeddedWeights:
    """Fills and empties `model`, whose parameters keep their shapes meanwhile. It begins empty."""

    def __init__(self, model: PreTrainedModel, packs: bool = True) -> None:
        """`packs`: linear layers are packed where the model's device and dtype have a layout for it."""
        self._model = model
        packs = packs and model.device.type == "cpu" and packable(model.dtype)
        self._packed = pack_layers(model) if packs else {}
        self._tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
        self.present = False
        self.release()

    @torch.no_grad()
    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy all weights, given by their names in a checkpoint.

        Raises:
            CheckpointError: a name is unknown, a tensor has another shape, or one did not come.
        """
        for parameter in self._plain():
            parameter.untyped_storage().resize_(parameter.nbytes)
        parameters = dict(by_checkpoint_name(self._model.state_dict().items()))
        sizes = {name: parameter.shape for name, parameter in parameters.items()}
        for name, tensor in checked(tensors, sizes, optional=self._tied):
            if name in self._packed:
                self._packed[name].pack(tensor)
            else:
                parameters[name].copy_(tensor)
        for name in self._tied & self._packed.keys():
            self._packed[name].pack(self._model.get_input_embeddings().weight)
        self.present = True

    def release(self) -> None:
        """Give the memory of all weights back, until they are loaded again."""
        self.present = False
        for parameter in self._model.parameters():
            parameter.untyped_storage().resize_(0)
        for layer in self._packed.values():
            layer.packed = None

    def _plain(self) -> list[Tensor]:
        """Parameters that are computed with as they are."""
        named = self._model.named_parameters(remove_duplicate=False)
        return [parameter for name, parameter in named if name not in self._packed]
