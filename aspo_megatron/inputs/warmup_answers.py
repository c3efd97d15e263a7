"""The answers that a warm-up imitates, tried as prompts are: in a process that may fail, before any training."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from aspo_megatron.config import RunConfig
from aspo_megatron.data.bad_problems import Reason
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.split_over_ranks import Dealer, dealer
from aspo_megatron.data.store import ProblemStore
from aspo_megatron.data.stream import ProblemStream
from aspo_megatron.data.tokenize_prompts import PromptMaker
from aspo_megatron.data.tokenizer import beyond_vocabulary
from aspo_megatron.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase


def imitated(problems: Sequence[Problem] | Dealer, seed: int) -> ProblemStream:
    """The problems of a warm-up, in their order: those that have an answer."""
    return ProblemStream(dealer(problems).answered(), seed)


def imitated_text(problem: Problem, response: str) -> str:
    """What is to be learnt as the answer to a problem; `response`: `warmup.response`."""
    return response.replace("{answer}", problem.answer or "")


class ImitationJudge:
    """Says of problems whether the model knows all tokens of what the warm-up imitates. Use as a context manager."""

    def __init__(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
        """`vocab_size`: of the model.

        Raises:
            ConfigError: there is no room for another process.
        """
        self._tokenizer, self._vocab_size, self._response = tokenizer, vocab_size, config.warmup.response
        added = tokenizer.get_added_vocab()
        strange = {text for text, token in tokenizer.get_vocab().items() if token >= vocab_size}
        # Added tokens are found as they stand; a text without them need not be tokenised, nor any text of most models.
        self._signs = strange if strange <= added.keys() else {""}
        self._maker = PromptMaker(tokenizer, special=False) if strange and config.warmup.updates else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._maker is not None:
            self._maker.__exit__(kind, error, traceback)

    def unfit(self, problem: Problem) -> Reason | None:
        """Why the answer to a problem cannot be imitated; None if it can, or need not be."""
        if self._maker is None or problem.answer is None:
            return None
        text = imitated_text(problem, self._response)
        if not any(sign in text for sign in self._signs):
            return None
        return next(_unfit(self._maker, self._tokenizer, self._vocab_size, [problem], self._response), None)


def check_imitations(
    config: RunConfig, problems: ProblemStore, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> None:
    """See that the tokenizer makes tokens of all texts that the warm-up takes, and that the model knows these.

    Raises:
        UserError: it does not; names the problem.
    """
    left = config.warmup.updates * config.warmup.batch_size
    if not left:
        return
    if tokenizer.eos_token_id is not None:  # `warmup` puts it after each answer
        _refuse(beyond_vocabulary("the end of answers", tokenizer, [tokenizer.eos_token_id], vocab_size))
    stream = imitated(problems, config.seed)
    left = min(left, len(problems.answered()))
    with PromptMaker(tokenizer, special=False) as maker:
        while left:
            batch = stream.take(min(left, config.warmup.batch_size))
            left -= len(batch)
            for reason in _unfit(maker, tokenizer, vocab_size, batch, config.warmup.response):
                _refuse(reason)


def _unfit(
    maker: PromptMaker,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    problems: Sequence[Problem],
    response: str,
) -> Iterator[Reason]:
    """Why answers cannot be imitated; those that can are left out."""
    texts = [imitated_text(problem, response) for problem in problems]
    names = [f"the answer to problem {problem.id}" for problem in problems]
    for name, ids in zip(names, maker.ids(texts, names), strict=True):
        reason = beyond_vocabulary(name, tokenizer, ids, vocab_size)
        if reason is not None:
            yield reason


def _refuse(reason: Reason | None) -> None:
    if reason is not None:
        raise CheckpointError(reason.text)
