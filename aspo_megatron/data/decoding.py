"""From tokens to texts in the processes of a run: only tokenizers whose work is as long as the response are let in.

A decoder is a program of somebody else, and responses are only there when a run is in full swing; a process for each
would be slow. So decoders are held to steps that are known to take time and memory in proportion to the tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line, reason_of

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

_LONGEST_TOKEN = 512
"""Characters of a token; 128 spaces are the longest that is common."""
_MOST_STEPS = 8
"""Of a decoder; four are usual."""
_MOST_GROWTH = 4.0
"""How many times as long all steps together may make a text; usual ones make none longer but for broken characters."""
_LONGEST_TEXT = 32
"""Characters that a step looks for, or puts there; usual is one."""

_TEXTS: dict[str, tuple[str, ...]] = {
    "BPEDecoder": ("suffix",),
    "ByteFallback": (),
    "ByteLevel": (),
    "CTC": ("pad_token", "word_delimiter_token"),
    "Fuse": (),
    "Metaspace": ("replacement",),
    "Replace": ("pattern", "content"),
    "Strip": ("content",),
    "WordPiece": ("prefix",),
}
"""The steps that are let in, with the fields that hold texts."""
_GROWTH_OF_BYTES = 3.0
"""A byte that belongs to no character becomes one of three bytes."""


def refusal(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why responses are not decoded with this tokenizer; None if they are.

    What transformers has made of the folder's files is looked at, not the files. A tokenizer that is let in makes of
    n tokens at most about n * 512 * 4 characters, in proportionate time, and does not crash.
    """
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return f"{type(tokenizer).__name__} is none of the tokenizers library, and others are not supported"
    backend = tokenizer.backend_tokenizer
    texts = [*backend.get_vocab(), *(token.content for token in backend.get_added_tokens_decoder().values())]
    longest = max(texts, key=len, default="")
    if len(longest) > _LONGEST_TOKEN:
        return f"the token {_quoted(longest)} has {len(longest):,} characters, and {_LONGEST_TOKEN} are the most"
    return None if backend.decoder is None else _refused(json.loads(backend.decoder.__getstate__()))


def decode(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int] | np.ndarray, *, skip_special_tokens: bool = False
) -> str:
    """The text of a response.

    Args:
        tokenizer: one that `load_tokenizer` has let in.
        ids: its tokens.
        skip_special_tokens: whether to leave those out that mark something, such as the end.

    Raises:
        CheckpointError: the tokenizer fails all the same.
    """
    with _told(tokenizer, f"in decoding {len(ids)} tokens"):
        text: str = tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text that was tried elsewhere, see `PromptMaker`; none are put around it.

    Raises:
        CheckpointError: the tokenizer fails all the same.
    """
    with _told(tokenizer, f"in making tokens of {len(text)} characters"):
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@contextmanager
def _told(tokenizer: PreTrainedTokenizerBase, where: str) -> Iterator[None]:
    """Make one line of whatever the tokenizer raises."""
    try:
        yield
    except BaseException as error:
        # What Rust calls a panic is no `Exception`; a signal's is none either, and is not meant.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        folder = one_line(tokenizer.name_or_path or "the model")
        raise CheckpointError(f"{folder}: the tokenizer fails: {reason_of(error)}, {where}") from error


def _refused(decoder: dict[str, Any]) -> str | None:
    """What is wrong with a decoder."""
    steps = list(_steps(decoder))
    if len(steps) > _MOST_STEPS:
        return f"its decoder has {len(steps):,} steps, and {_MOST_STEPS} are the most"
    for step in steps:
        reason = _refused_of(step)
        if reason is not None:
            return f"its decoder has {reason}"
    growth = math.prod(map(_growth, steps))
    if growth > _MOST_GROWTH:
        return f"its decoder can make a text {growth:,.0f} times as long, and {_MOST_GROWTH:.0f} is the most"
    return None


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a decoder; its library reads none that is nested so deeply that this could not."""
    if decoder["type"] != "Sequence":
        yield decoder
        return
    for inner in decoder["decoders"]:
        yield from _steps(inner)


def _refused_of(step: dict[str, Any]) -> str | None:
    """What is wrong with a step."""
    kind = step["type"]
    if kind not in _TEXTS:
        return f"a step {_quoted(kind)}, which is not known"
    if kind == "Strip" and step["stop"]:
        # Of a text that is shorter, or that is taken from both ends, the library takes what is not there.
        return "a Strip that takes from the end (stop), which fails for short texts"
    texts = {field: step[field] for field in _TEXTS[kind]}
    if kind == "Replace":
        texts["pattern"] = step["pattern"].get("String")
        if texts["pattern"] is None:
            return "a Replace with a regular expression; it must look for a text (String)"
    for field, text in texts.items():
        if not text and field not in ("content", "prefix"):
            return f"a {kind} that looks for an empty text ({field})"
        if len(text) > _LONGEST_TEXT:
            return f"a {kind} with a text of {len(text):,} characters ({field}), and {_LONGEST_TEXT} are the most"
    return None


def _growth(step: dict[str, Any]) -> float:
    """How many times as long a step can make a text, in bytes; never less than 1, as it need not find anything."""
    if step["type"] == "ByteLevel":
        return _GROWTH_OF_BYTES
    if step["type"] != "Replace":
        return 1.0
    return max(1.0, len(step["content"].encode()) / len(step["pattern"]["String"].encode()))


def _quoted(text: object) -> str:
    return one_line(repr(text))[:80]
