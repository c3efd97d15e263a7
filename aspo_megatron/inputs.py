"""All that a run reads, checked before any rank is started: model folder, tokenizer, problems, reward, loss.

transformers takes seconds to import, so it is imported where it is needed: what is wrong without it shows at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_megatron import losses
from aspo_megatron.config import RunConfig
from aspo_megatron.data.prompts import load_problems
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.models.family import Family, read_family
from aspo_megatron.models.mapping import TensorSource
from aspo_megatron.rewards import scorers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inputs:
    """What a run reads; `heldout` may be empty."""

    family: Family
    tokenizer: PreTrainedTokenizerBase
    train: list[Problem]
    heldout: list[Problem]


def read_inputs(config: RunConfig) -> Inputs:
    """Read and check everything but the weights' values.

    Raises:
        UserError: whatever cannot be used, named.
    """
    family = read_family(config.model.path)
    family.check_layout(config.parallel)
    losses.build(config.loss.name, config.loss.hyperparameters)
    if config.model.init == "pretrained":
        from aspo_megatron.checkpoint.hf import check_weights

        check_weights(config.model.path)
    tokenizer = load_tokenizer(config.model.path)
    train, heldout = load_problems(
        config.data, tokenizer, family.context_length, config.rollout.sampling.max_response_tokens
    )
    if config.warmup.updates and all(problem.answer is None for problem in train):
        raise ConfigError(
            "warmup.updates: there is nothing to imitate, as no problem of data.train has an answer; "
            "set data.train.answer_field, or warmup.updates=0"
        )
    scorers.check(config.reward, [*train, *heldout])
    return Inputs(family, tokenizer, train, heldout)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder.

    Raises:
        CheckpointError: the folder has none, or it cannot be read.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(f"{folder}: no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({error})") from error


def open_weights(config: RunConfig, family: Family) -> TensorSource:
    """Where the starting weights come from."""
    from aspo_megatron.checkpoint.hf import RandomTensors, SafetensorsFolder, hf_shapes

    if config.model.init == "pretrained":
        return SafetensorsFolder(config.model.path)
    std = family.hf_config.get("initializer_range", 0.02)
    return RandomTensors(hf_shapes(config.model.path), std, config.seed)
