"""From configured sources to tokenised problems: repeated ones dropped, held-out ones kept apart, lengths checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aspo_megatron.config import DataConfig
from aspo_megatron.data.prompt_ids import PromptMaker
from aspo_megatron.data.records import Records, kinds
from aspo_megatron.data.samples import IntArray, Problem
from aspo_megatron.data.sources import read_source, silent
from aspo_megatron.data.store import ProblemStore, StoreBuilder, empty_store
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, plain_logger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = plain_logger(__name__)

_PLACEHOLDER = "{prompt}"
_TOKENISED_AT_ONCE = 1024


@dataclass(frozen=True)
class _Side:
    """The problems to train on, or those held out: the records of a source that have these numbers."""

    records: Records
    numbers: IntArray


def load_problems(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    max_response_tokens: int,
    tell: Callable[[str], None] = silent,
) -> tuple[ProblemStore, ProblemStore]:
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
        tell: told now and then how far it is.

    Returns:
        Training problems (at least one) and held-out problems (none if the configuration asks for none).

    Raises:
        ConfigError: a source cannot be read (see `sources.read_source`), no problem is left on a side that is
            asked for, the prompt's form does not fit the tokenizer, or a prompt is too long.
    """
    _check_form(config, tokenizer)
    train, heldout = _split(config, tell)
    limits = _Limits(config.max_prompt_tokens, context_length, max_response_tokens)
    return (
        _tokenize(train, config, tokenizer, limits, tell),
        empty_store() if heldout is None else _tokenize(heldout, config, tokenizer, limits, tell),
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


def _split(config: DataConfig, tell: Callable[[str], None]) -> tuple[_Side, _Side | None]:
    """Training and held-out records without repetitions."""
    train, own = _unique(read_source(config.train, "data.train", tell, on_bad=config.on_bad), "data.train")
    heldout = None
    if config.heldout is not None:
        read = read_source(config.heldout, "data.heldout", tell, on_bad=config.on_bad)
        heldout, others = _unique(read, "data.heldout")
        both = kinds(np.concatenate([own, others]))
        kept = train.numbers[~np.isin(both[: len(own)], both[len(own) :])]
        if len(kept) < len(own):
            logger.warning("data.train: dropped %d problems that are in data.heldout", len(own) - len(kept))
        train = _Side(train.records, kept)
    elif config.heldout_fraction > 0:
        count = round(config.heldout_fraction * len(own))
        if count == 0:
            raise ConfigError(
                f"data.heldout_fraction: {config.heldout_fraction} of {len(own)} problems is none; raise it"
            )
        held = kinds(own) < count  # those with the smallest hashes
        heldout = _Side(train.records, train.numbers[held])
        train = _Side(train.records, train.numbers[~held])
    if not len(train.numbers):
        raise ConfigError("data.train: no problem is left to train on, all are held out")
    return train, heldout


def _unique(records: Records, key: str) -> tuple[_Side, np.ndarray]:
    """The first record of each text; hashes of the texts, which the records are relieved of."""
    identities = records.take_identities()
    _, first = np.unique(kinds(identities), return_index=True)
    numbers: IntArray = np.sort(first)
    if len(numbers) < len(records):
        logger.info("%s: %d of %d problems left, the others repeat one", key, len(numbers), len(records))
    return _Side(records, numbers), identities[numbers]


def _tokenize(
    side: _Side,
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    limits: _Limits,
    tell: Callable[[str], None],
) -> ProblemStore:
    builder = StoreBuilder(side.records)
    with PromptMaker(tokenizer, chat=config.format == "chat", system=config.system) as maker:
        for first in range(0, len(side.numbers), _TOKENISED_AT_ONCE):
            if first:
                tell(f"{first:,} of {len(side.numbers):,} problems tokenised")
            numbers = side.numbers[first : first + _TOKENISED_AT_ONCE].tolist()
            records = [side.records[number] for number in numbers]
            texts = [config.template.replace(_PLACEHOLDER, record.question) for record in records]
            names = [f"problem {record.id}" for record in records]
            for number, record, ids in zip(numbers, records, maker.ids(texts, names), strict=True):
                problem = Problem(record.id, record.question, tuple(ids), record.answer, record.metadata)
                limits.check(problem)
                builder.add(number, problem)
    return builder.store()


@dataclass(frozen=True)
class _Limits:
    """How long prompts may be."""

    max_prompt_tokens: int
    context_length: int
    max_response_tokens: int

    def check(self, problem: Problem) -> None:
        """Refuse a problem without a prompt, or with one that is too long.

        Raises:
            ConfigError: it is refused.
        """
        count = len(problem.prompt_ids)
        reason = ""
        if count == 0:
            reason = "the tokenizer makes no token of its prompt; see data.template"
        elif count > self.max_prompt_tokens:
            reason = (
                f"its prompt has {count} tokens, more than data.max_prompt_tokens={self.max_prompt_tokens}; "
                "raise that or take the problem out"
            )
        elif count + self.max_response_tokens > self.context_length:
            reason = (
                f"its prompt of {count} tokens and a response of up to {self.max_response_tokens} exceed the model's "
                f"context of {self.context_length} tokens; lower sampling.max_response_tokens or take the problem out"
            )
        if reason:
            raise ConfigError(f"problem {one_line(problem.id)}: {reason}")
