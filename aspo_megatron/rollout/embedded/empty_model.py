"""A Hugging Face model without weights: made at once, whatever its size, for weights that come later."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel


def empty_model(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model of `config` on `device`, for use without gradients.

    Its parameters have shapes and storages of no bytes (`parameter.untyped_storage()`); nothing was drawn for them. Its
    buffers have their values.
    """
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=False, attn_implementation=config._attn_implementation or "sdpa"
        )
    if config.tie_word_embeddings:  # transformers 5.0 leaves a model without values untied
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    for module in list(model.modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            _compute_buffers(module, device)
    without_memory: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in without_memory:  # tied weights stay one
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                empty.untyped_storage().resize_(0)
                without_memory[parameter] = nn.Parameter(empty, requires_grad=False)
            setattr(module, name, without_memory[parameter])
    return model.eval()


def _compute_buffers(module: nn.Module, device: torch.device) -> None:
    """Give a module the buffers of one that was made with values: those of rotary positions, from the configuration."""
    computed = type(module)(module.config)
    for name, buffer in computed.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))
