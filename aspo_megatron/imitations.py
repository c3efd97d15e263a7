"""The answers that a warm-up imitates, tried as prompts are: in a process that may fail, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aspo_megatron.config import RunConfig
from aspo_megatron.data.dealing import Dealer, dealer
from aspo_megatron.data.prompt_ids import PromptMaker
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.store import ProblemStore
from aspo_megatron.data.stream import ProblemStream
from aspo_megatron.tokenizer import unknown_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


def imitated(problems: Sequence[Problem] | Dealer, seed: int) -> ProblemStream:
    """The problems of a warm-up, in their order: those that have an answer."""
    return ProblemStream(dealer(problems).answered(), seed)


def imitated_text(problem: Problem, response: str) -> str:
    """What is to be learnt as the answer to a problem; `response`: `warmup.response`."""
    return response.replace("{answer}", problem.answer or "")


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
    answered = problems.answered()
    stream = ProblemStream(answered, config.seed)  # as `imitated`
    left = min(left, len(answered))
    with PromptMaker(tokenizer, chat=False, special=False) as maker:
        while left:
            batch = stream.take(min(left, config.warmup.batch_size))
            left -= len(batch)
            texts = [imitated_text(problem, config.warmup.response) for problem in batch]
            names = [f"the answer to problem {problem.id}" for problem in batch]
            for name, ids in zip(names, maker.ids(texts, names), strict=True):
                if max(ids, default=0) >= vocab_size:
                    raise unknown_token(name, max(ids), vocab_size)
