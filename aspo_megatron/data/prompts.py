"""From configured sources to tokenised problems: repeated ones dropped, held-out ones kept apart, lengths checked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aspo_megatron.config import DataConfig
from aspo_megatron.data.prompt_ids import PromptMaker
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.sources import Record, read_source
from aspo_megatron.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_PLACEHOLDER = "{prompt}"


def load_problems(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, context_length: int, max_response_tokens: int
) -> tuple[list[Problem], list[Problem]]:
    """Read, split and tokenise the problems.

    A problem whose text (spaces around it aside) came before is dropped. Held-out problems are those of
    `data.heldout`, whose texts are then removed from the training problems, or the `heldout_fraction` of the
    training problems with the smallest hash of their text: which ones depends neither on their order nor on a
    seed, and no text is on both sides. Both lists keep the order of their source.

    Args:
        config: the sources and the prompt's form.
        tokenizer: of the model that is trained.
        context_length: tokens the model can hold, prompt and response together.
        max_response_tokens: room that a response must have after the prompt.

    Returns:
        Training problems (at least one) and held-out problems (none if the configuration asks for none).

    Raises:
        ConfigError: a source cannot be read (see `sources.read_source`), no problem is left on a side that is
            asked for, the prompt's form does not fit the tokenizer, or a prompt is too long.
    """
    _check_form(config, tokenizer)
    train, heldout = _split(config)
    return (
        _tokenize(train, config, tokenizer, context_length, max_response_tokens),
        _tokenize(heldout, config, tokenizer, context_length, max_response_tokens),
    )


def _check_form(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse what cannot work before anything is read."""
    if _PLACEHOLDER not in config.template:
        raise ConfigError(f"data.template: {config.template!r} has no {_PLACEHOLDER} where the problem goes")
    if config.heldout is not None and config.heldout_fraction > 0:
        raise ConfigError("data.heldout and data.heldout_fraction are both set: leave one out")
    if config.format == "raw" and config.system is not None:
        raise ConfigError("data.system needs data.format: chat; with raw, put the text into data.template")
    if config.format == "chat" and not tokenizer.chat_template:
        raise ConfigError("data.format: the model's tokenizer has no chat template; set data.format: raw")


def _split(config: DataConfig) -> tuple[list[Record], list[Record]]:
    """Training and held-out records without repetitions."""
    train = _unique(read_source(config.train, "data.train"), "data.train")
    heldout: list[Record] = []
    if config.heldout is not None:
        heldout = _unique(read_source(config.heldout, "data.heldout"), "data.heldout")
        held = {_identity(record) for record in heldout}
        kept = [record for record in train if _identity(record) not in held]
        if len(kept) < len(train):
            logger.warning("data.train: dropped %d problems that are in data.heldout", len(train) - len(kept))
        train = kept
    elif config.heldout_fraction > 0:
        count = round(config.heldout_fraction * len(train))
        if count == 0:
            raise ConfigError(
                f"data.heldout_fraction: {config.heldout_fraction} of {len(train)} problems is none; raise it"
            )
        by_hash = sorted(train, key=lambda record: hashlib.sha256(_identity(record).encode()).digest())
        held = {_identity(record) for record in by_hash[:count]}
        heldout = [record for record in train if _identity(record) in held]
        train = [record for record in train if _identity(record) not in held]
    if not train:
        raise ConfigError("data.train: no problem is left to train on, all are held out")
    return train, heldout


def _identity(record: Record) -> str:
    """What makes two problems the same. The template is no part of it: another one must not change the split."""
    return record.question.strip()


def _unique(records: Sequence[Record], key: str) -> list[Record]:
    """The first record of each text."""
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(_identity(record), record)
    if len(first) < len(records):
        logger.info("%s: %d of %d problems left, the others repeat one", key, len(first), len(records))
    return list(first.values())


def _tokenize(
    records: Sequence[Record],
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    max_response_tokens: int,
) -> list[Problem]:
    if not records:
        return []
    texts = [config.template.replace(_PLACEHOLDER, record.question) for record in records]
    names = [f"problem {record.id}" for record in records]
    with PromptMaker(tokenizer, chat=config.format == "chat", system=config.system) as maker:
        problems = [
            Problem(record.id, record.question, tuple(ids), record.answer, record.metadata)
            for record, ids in zip(records, maker.ids(texts, names), strict=True)
        ]
    _check_lengths(problems, config.max_prompt_tokens, context_length, max_response_tokens)
    return problems


def _check_lengths(
    problems: Sequence[Problem], max_prompt_tokens: int, context_length: int, max_response_tokens: int
) -> None:
    for problem in problems:
        count = len(problem.prompt_ids)
        if count == 0:
            raise ConfigError(f"problem {problem.id}: the tokenizer makes no token of its prompt; see data.template")
        if count > max_prompt_tokens:
            raise ConfigError(
                f"problem {problem.id}: its prompt has {count} tokens, more than data.max_prompt_tokens="
                f"{max_prompt_tokens}; raise that or take the problem out"
            )
        if count + max_response_tokens > context_length:
            raise ConfigError(
                f"problem {problem.id}: its prompt of {count} tokens and a response of up to {max_response_tokens} "
                f"exceed the model's context of {context_length} tokens; lower sampling.max_response_tokens or "
                "take the problem out"
            )
