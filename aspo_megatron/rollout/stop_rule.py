"""Where a response stops: end-of-sequence tokens, and stop texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from aspo_megatron.data.decoding import decode
from aspo_megatron.models.family import read_family
from aspo_megatron.models.generation_file import generation_end
from aspo_megatron.models.hf_config import transformers_config


@dataclass(frozen=True)
class StopRule:
    """Says of a response whether its last token ends it."""

    end_ids: frozenset[int]
    stops: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase

    @property
    def _window(self) -> int:
        # A stop text has at least a byte in each token that it spans; one token more, as decoders may treat the first
        # in a way of its own.
        return 1 + max(len(stop.encode()) for stop in self.stops)

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the response `tokens`, not empty, stops with its last token."""
        if tokens[-1] in self.end_ids:
            return True
        if not self.stops:
            return False
        tail = decode(self.tokenizer, tokens[-self._window :])
        return any(stop in tail for stop in self.stops)


def end_of_sequence_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End tokens by config.json, generation_config.json or the tokenizer: each alone is wrong for some model.

    Raises:
        CheckpointError: one of the files cannot be read, or names something else.
    """
    named = [transformers_config(read_family(folder)).eos_token_id, tokenizer.eos_token_id]
    named.append(generation_end(folder))
    ids: set[int] = set()
    for entry in named:
        ids |= set(entry) if isinstance(entry, list) else {entry}
    return frozenset(ids - {None})
