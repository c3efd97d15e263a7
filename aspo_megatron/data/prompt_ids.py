"""Texts to the tokens of prompts, by a model folder's chat template and tokenizer, in a process that may fail.

Both are programs of somebody else: a template may loop without end or fill the memory, a tokenizer's patterns may take
exponential time or crash, and each for a single prompt among many. So all prompts are made in that process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aspo_megatron.apart import Apart, ApartError
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SECONDS = 2.0
"""Of computing for a few texts, and in addition a second for so many characters:"""
_CHARACTERS = 50_000
_AT_ONCE = 256
_CHARACTERS_AT_ONCE = 1 << 18
_MOST_CHARACTERS = 1 << 26
"""Of the prompts that a template makes at once."""


class PromptMaker:
    """Makes tokens of texts. Use as a context manager.

    With `chat` a text is what the user says, after `system` if that is given: the chat template makes a prompt of it,
    up to where the answer begins. Without `special` a text is not a prompt, and no tokens are put around it.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, chat: bool, system: str | None = None, special: bool = True
    ) -> None:
        """`tokenizer`: of the model.

        Raises:
            ConfigError: there is no room for another process.
        """
        self._folder = one_line(tokenizer.name_or_path or "the model")
        self._chat, self._system = chat, system
        if chat:
            import jinja2.sandbox  # noqa: F401 (here, and not again in each process)
        try:
            self._work = Apart(_Work(tokenizer, system, special))
        except ApartError as error:
            raise ConfigError(f"{self._folder}: the tokenizer cannot be used: {error}") from error
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._work.__exit__(kind, error, traceback)

    def ids(self, texts: Sequence[str], names: Sequence[str]) -> Iterator[list[int]]:
        """The tokens of each text; `names`: what an error calls them.

        Raises:
            ConfigError: template or tokenizer fails, takes too long or too much memory.
        """
        for part in self._parts(texts):
            own = list(texts[part.start : part.stop])
            seconds = _SECONDS + sum(map(len, own)) / _CHARACTERS
            which = one_line(" to ".join(dict.fromkeys((names[part.start], names[part.stop - 1]))))
            if self._chat:
                try:
                    self._work(("render", own), seconds)
                except ApartError as error:
                    raise ConfigError(self._of_template(f"{error}, at {which}")) from error
            try:
                yield from self._work(("rendered" if self._chat else "raw", own), seconds)
            except ApartError as error:
                raise ConfigError(f"{self._folder}: the tokenizer fails: {error}, at {which}") from error

    def _parts(self, texts: Sequence[str]) -> Iterator[range]:
        """The very first text alone, as what is wrong is mostly wrong with all; then many at once."""
        start, characters = 0, 0
        for index, text in enumerate(texts):
            full = index - start >= _AT_ONCE or characters + len(text) > _CHARACTERS_AT_ONCE or not self._begun
            if full and index > start:
                yield range(start, index)
                start, characters, self._begun = index, 0, True
            characters += len(text)
        if texts:
            yield range(start, len(texts))

    def _of_template(self, reason: str) -> str:
        hint = "" if self._system is None else " (does it know system messages? leave data.system out)"
        return f"data.format: the chat template of {self._folder} fails: {reason}{hint}"


class _Work:
    """What the process does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None, special: bool) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._rendered: list[str] = []

    def __call__(self, part: tuple[str, list[str]]) -> list[list[int]]:
        """`render` texts, which are kept for the next call; tokens of what was `rendered`, or of `raw` texts."""
        what, texts = part
        if what == "render":
            self._rendered = self._render(texts)
            return []
        if what == "rendered":
            # The template writes the special tokens itself.
            encoded = self._tokenizer(self._rendered, add_special_tokens=False)
        else:
            encoded = self._tokenizer(texts, add_special_tokens=self._special)
        found: list[list[int]] = encoded["input_ids"]
        if not all(type(token) is int and token >= 0 for ids in found for token in ids):
            raise ValueError("it does not make whole numbers of a text")
        return found

    def _render(self, texts: list[str]) -> list[str]:
        chats = [[*self._opening, {"role": "user", "content": text}] for text in texts]
        rendered: list[str] = self._tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        characters = sum(map(len, rendered))
        if characters > _MOST_CHARACTERS:
            raise ValueError(f"it makes {characters:,} characters of {sum(map(len, texts)):,}")
        return rendered
