"""Where a response ends: end-of-sequence tokens, and stop texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from aspo_megatron.decoding import decode
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.family import read_family
from aspo_megatron.models.hf_config import transformers_config
from aspo_megatron.reading import read_json


@dataclass(frozen=True)
class EndRule:
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
    named.append(_generation_end(folder / "generation_config.json"))
    ids: set[int] = set()
    for entry in named:
        ids |= set(entry) if isinstance(entry, list) else {entry}
    return frozenset(ids - {None})


def _generation_end(path: Path) -> int | list[int] | None:
    if not path.is_file():
        return None
    config = read_json(path, CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{one_line(path)}: not a JSON object")
    found: int | list[int] | None = config.get("eos_token_id")
    for token in found if isinstance(found, list) else (found,):
        if token is not None and type(token) is not int:
            raise CheckpointError(
                f"{one_line(path)}: eos_token_id holds {one_line(repr(token))[:80]}, not a whole number"
            )
    return found
