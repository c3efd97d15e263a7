"""All that a run reads, checked before any rank is started: model folder, tokenizer, problems, reward.

transformers takes seconds to import, so it is imported where it is needed: what is wrong without it shows at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_megatron.checkpoint.fingerprint import Fingerprint
from aspo_megatron.config import RunConfig
from aspo_megatron.data.bad_problems import Reason
from aspo_megatron.data.prompts import load_problems
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.sources.read import silent
from aspo_megatron.data.store import ProblemStore, empty_store
from aspo_megatron.data.tokenizer import beyond_vocabulary, load_tokenizer
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.folders import checkpoint_around
from aspo_megatron.inputs.handover import taken_over
from aspo_megatron.inputs.warmup_answers import ImitationJudge
from aspo_megatron.metrics.wandb_run import check_installed
from aspo_megatron.models.family import Family
from aspo_megatron.models.folder_files import SERVER_FILES, refuse_marked_files
from aspo_megatron.models.mapping import TensorSource
from aspo_megatron.rewards import scorers
from aspo_megatron.rewards.mixture import refuse_unknown_fields
from aspo_megatron.rewards.trial import try_reward
from aspo_megatron.versions import refuse_outside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inputs:
    """What a run reads; `heldout` may be empty."""

    family: Family
    tokenizer: PreTrainedTokenizerBase
    train: ProblemStore
    heldout: ProblemStore


def read_inputs(config: RunConfig, tell: Callable[[str], None] = silent, *, weights: bool = True) -> Inputs:
    """Read and check everything but the weights' values; `tell` is told now and then how far problems are read.

    `weights`: whether this machine is to hold any; else neither their files nor their sizes are looked at.

    Raises:
        UserError: whatever cannot be used, named.
    """
    family, tokenizer = _read_model(config, weights=weights)
    scorers.check(config.reward)
    with ImitationJudge(config, tokenizer, family.vocab_size) as imitations:

        def unfit(problem: Problem) -> Reason | None:
            name = f"problem {problem.id}"
            return (
                beyond_vocabulary(name, tokenizer, problem.prompt_ids, family.vocab_size)
                or scorers.unfit(config.reward, problem)
                or imitations.unfit(problem)
            )

        room = config.rollout.sampling.max_response_tokens
        train, heldout = load_problems(config.data, tokenizer, family.context_length, room, tell, unfit)
    if config.warmup.updates and all(problem.answer is None for problem in train):
        raise ConfigError(
            "warmup.updates: there is nothing to imitate, as no problem of data.train has an answer; "
            "set data.train.answer_field, or warmup.updates=0"
        )
    refuse_unknown_fields(config.reward.components, itertools.chain(train, heldout))
    try_reward(config.reward, itertools.chain(train, heldout))
    check_installed(config.log.wandb)
    return Inputs(family, tokenizer, train, heldout)


def read_as_rank(
    config: RunConfig,
    *,
    leader: bool,
    handed: Path | None = None,
    tell: Callable[[str], None] = silent,
    weights: bool = True,
) -> Inputs:
    """As `read_inputs`, in a rank: only the leader has problems, which `shared` gives to the others.

    `handed`: see `handed_over`; where it can be read no problem is read again.

    Raises:
        UserError: see `read_inputs`.
    """
    stores = taken_over(handed) if leader and handed is not None else None
    if leader and stores is None:
        return read_inputs(config, tell, weights=weights)
    family, tokenizer = _read_model(config, weights=weights)
    scorers.check(config.reward)
    check_installed(config.log.wandb)
    train, heldout = stores or (empty_store(), empty_store())
    return Inputs(family, tokenizer, train, heldout)


def _read_model(config: RunConfig, *, weights: bool) -> tuple[Family, PreTrainedTokenizerBase]:
    from aspo_megatron.checkpoint.usable import usable_config, usable_model, usable_weights
    from aspo_megatron.inputs.machine import refuse_beyond_memory
    from aspo_megatron.rollout.stop_rule import end_of_sequence_ids

    refuse_outside()
    folder, random = config.model.path, config.model.init == "random"
    usable = usable_config if not weights else usable_model if random else usable_weights
    family = usable(folder)
    if weights and config.rollout.engine == "sglang":
        refuse_marked_files(folder, SERVER_FILES)
    family.check_layout(config.parallel)
    if weights and random:
        refuse_beyond_memory(config, family)
    tokenizer = load_tokenizer(folder)
    end_of_sequence_ids(folder, tokenizer)
    return family, tokenizer


def open_weights(config: RunConfig, family: Family) -> TensorSource:
    """Where the starting weights come from. A collective: the ranks share the check of a checkpoint's files.

    A tensor is refused as it is read, by a CheckpointError, if it holds NaN or infinity.

    Raises:
        CheckpointError: they cannot be read, or a checkpoint is damaged.
    """
    from aspo_megatron.checkpoint.finite import FiniteTensors
    from aspo_megatron.checkpoint.hf.folder import RandomTensors, hf_shapes
    from aspo_megatron.checkpoint.refusal import refusal
    from aspo_megatron.checkpoint.source import weights_of

    folder = config.model.path
    if config.model.init == "random":
        return RandomTensors(hf_shapes(folder), family.initializer_range, config.seed)
    checkpoint = checkpoint_around(folder)
    reason = None if checkpoint is None else refusal(checkpoint, family)
    if reason is not None:
        raise CheckpointError(f"model.path: {reason}")
    return FiniteTensors(weights_of(folder, family))


def starting_weights(config: RunConfig) -> Fingerprint:
    """What tells the starting weights from others, wherever their folder is; nothing where they are random.

    Raises:
        CheckpointError: they cannot be read.
    """
    return Fingerprint.of(config.model.path) if config.model.init == "pretrained" else Fingerprint()
