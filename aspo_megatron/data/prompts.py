"""From configured sources to tokenised problems: repeated ones dropped, held-out ones kept apart, all checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aspo_megatron.config import DataConfig
from aspo_megatron.data.bad_problems import Reason, Unusable
from aspo_megatron.data.chat import Chat, chat_of
from aspo_megatron.data.records import ProblemRecord, Records, kinds
from aspo_megatron.data.samples import IntArray, Problem
from aspo_megatron.data.sources.read import read_source, silent
from aspo_megatron.data.store import ProblemStore, StoreBuilder, empty_store
from aspo_megatron.data.tokenize_prompts import PromptMaker
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, plain_logger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = plain_logger(__name__)

_PLACEHOLDER = "{prompt}"
_TOKENISED_AT_ONCE = 1024


@dataclass(frozen=True)
class _Side:
    """The problems to train on, or those held out: the records of a source that have these numbers.

    `key`: what they are for, as the configuration calls it. `repeated`: how many are left out as they repeat another.
    """

    key: str
    records: Records
    numbers: IntArray
    repeated: int = 0


def fit(problem: Problem) -> Reason | None:
    """Finds nothing that is wrong with a problem."""
    return None


def load_problems(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    max_response_tokens: int,
    tell: Callable[[str], None] = silent,
    unfit: Callable[[Problem], Reason | None] = fit,
) -> tuple[ProblemStore, ProblemStore]:
    """Read, split and tokenise the problems.

    A problem whose text (spaces around it aside) came before is dropped. Held-out problems are those of
    `data.heldout`, whose texts are then removed from the training problems, or the `heldout_fraction` of the
    training problems with the smallest hash of their text: which ones depends neither on their order nor on a
    seed, and no text is on both sides. Both lists keep the order of their source. Problems that cannot be used are
    counted, all of a side, and refused or left out as `data.on_bad` says.

    Args:
        config: the sources and the prompt's form.
        tokenizer: of the model that is trained.
        context_length: tokens the model can hold, prompt and response together.
        max_response_tokens: room that a response must have after the prompt.
        tell: told now and then how far it is.
        unfit: why a problem cannot be used, for what its prompt alone does not show; None if it can.

    Returns:
        Training problems (at least one) and held-out problems (none if the configuration asks for none).

    Raises:
        ConfigError: a source cannot be read (see `read_source`), no problem is left on a side that is
            asked for, the prompt's form does not fit the tokenizer, or problems cannot be used.
    """
    chat = _form(config, tokenizer)
    train, heldout = _split(config, tell)
    judge = _Judge(config, context_length, max_response_tokens, unfit)
    with PromptMaker(tokenizer, chat=chat) as maker:
        return (
            _tokenize(train, maker, judge, tell),
            empty_store() if heldout is None else _tokenize(heldout, maker, judge, tell),
        )


def _form(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Chat | None:
    """How prompts are made; what cannot work is refused before anything is read."""
    if _PLACEHOLDER not in config.template:
        raise ConfigError(f"data.template: {config.template!r} has no {_PLACEHOLDER} where the problem goes")
    if config.heldout is not None and config.heldout_fraction > 0:
        raise ConfigError("data.heldout and data.heldout_fraction are both set: leave one out")
    return chat_of(config, tokenizer)


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
        train = replace(train, numbers=kept)
    elif config.heldout_fraction > 0:
        count = round(config.heldout_fraction * len(own))
        if count == 0:
            raise ConfigError(
                f"data.heldout_fraction: {config.heldout_fraction} of {len(own)} problems rounds to none; raise it"
            )
        held = kinds(own) < count  # those with the smallest hashes
        heldout = _Side("data.heldout_fraction", train.records, train.numbers[held])
        train = replace(train, numbers=train.numbers[~held])
    if not len(train.numbers):
        raise ConfigError("data.train: no problem is left to train on, all are held out")
    return train, heldout


def _unique(records: Records, key: str) -> tuple[_Side, np.ndarray]:
    """The first record of each text; hashes of the texts, which the records are relieved of."""
    identities = records.take_identities()
    _, first = np.unique(kinds(identities), return_index=True)
    numbers: IntArray = np.sort(first)
    return _Side(key, records, numbers, repeated=len(records) - len(numbers)), identities[numbers]


def _tokenize(side: _Side, maker: PromptMaker, judge: _Judge, tell: Callable[[str], None]) -> ProblemStore:
    builder = StoreBuilder(side.records)
    unusable = Unusable(side.key, judge.config.on_bad)
    for first in range(0, len(side.numbers), _TOKENISED_AT_ONCE):
        if first:
            tell(f"{first:,} of {len(side.numbers):,} problems tokenised")
        numbers = side.numbers[first : first + _TOKENISED_AT_ONCE].tolist()
        records = {number: side.records[number] for number in numbers}
        for number, record in list(records.items()):
            reason = judge.of_turns(record)
            if reason is not None:
                unusable.add(reason)
                del records[number]
        template = judge.config.template
        asked = [(record.messages, template.replace(_PLACEHOLDER, record.question)) for record in records.values()]
        names = [f"problem {record.id}" for record in records.values()]
        for (number, record), (ids, wrong) in zip(records.items(), maker.prompts(asked, names), strict=True):
            problem = Problem(record.id, record.question, tuple(ids), record.answer, record.metadata)
            reason = judge.of_prompt(problem, wrong)
            if reason is None:
                builder.add(number, problem)
            else:
                unusable.add(reason)
    unusable.settle(len(side.numbers))
    return builder.store(side.repeated)


@dataclass(frozen=True)
class _Judge:
    """Says of a problem why it cannot be used; None if it can."""

    config: DataConfig
    context_length: int
    max_response_tokens: int
    unfit: Callable[[Problem], Reason | None]

    def of_turns(self, record: ProblemRecord) -> Reason | None:
        """By what was said before the question."""
        if not record.messages:
            return None
        name = f"problem {one_line(record.id)}"
        if self.config.format == "raw":
            return Reason("earlier turns", f"{name} is a chat with earlier turns; set data.format: chat")
        if self.config.system is not None and any(turn["role"] == "system" for turn in record.messages):
            return Reason("a system message of its own", f"{name} has its own system message; leave data.system out")
        return None

    def of_prompt(self, problem: Problem, wrong: str) -> Reason | None:
        """By its prompt; then by all else. `wrong`: what the chat template does wrong with it."""
        name, count, most = f"problem {one_line(problem.id)}", len(problem.prompt_ids), self.config.max_prompt_tokens
        if wrong:
            kind = f"{'dropped' if wrong.startswith('drops') else 'refused'} by the chat template"
            return Reason(kind, f"{name}: the chat template {wrong}")
        if count == 0:
            return Reason("no token", f"{name}: the tokenizer makes no tokens from its prompt; see data.template")
        if count > most:
            text = f"its prompt has {count} tokens, more than data.max_prompt_tokens={most}; raise that"
            return Reason("prompt too long", f"{name}: {text}")
        if count + self.max_response_tokens > self.context_length:
            text = (
                f"its prompt of {count} tokens and a response of up to {self.max_response_tokens} exceed the model's "
                f"context of {self.context_length} tokens; lower sampling.max_response_tokens"
            )
            return Reason("prompt too long for the model's context", f"{name}: {text}")
        return self.unfit(problem)
