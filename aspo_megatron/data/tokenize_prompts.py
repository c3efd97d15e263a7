"""Texts to the tokens of prompts, by a model folder's chat template and tokenizer, in a process that may fail.

Both are programs of somebody else: a template may loop without end or fill the memory, a tokenizer's patterns may take
exponential time or crash, and each for a single prompt among many. So all prompts are made in that process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aspo_megatron.data.chat import Chat, Findings, Renderer
from aspo_megatron.data.isolated_process import Isolated, IsolatedError
from aspo_megatron.data.sources.messages import Turn
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, plain_logger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = plain_logger(__name__)

_SECONDS = 2.0
"""Of computing for a few texts, and in addition a second for so many characters:"""
_CHARACTERS = 50_000
_AT_ONCE = 256
_CHARACTERS_AT_ONCE = 1 << 18


class PromptMaker:
    """Makes tokens of texts. Use as a context manager.

    With `chat` a text is what the user says: the chat template makes a prompt of it, up to where the answer begins.
    Without, a prompt is the text with the tokens that the tokenizer puts before it, but not those it puts after it.
    Without `special` a text is not a prompt, and no tokens are put around it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat: Chat | None = None, special: bool = True) -> None:
        """`tokenizer`: of the model.

        Raises:
            ConfigError: there is no room for another process.
        """
        self._folder = one_line(tokenizer.name_or_path or "the model")
        self._chat, self._special = chat, special
        if chat is not None:
            import jinja2.sandbox  # noqa: F401 (here, and not again in each process)
        try:
            self._work = Isolated(_Work(tokenizer, chat, special))
        except IsolatedError as error:
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
            ConfigError: see `prompts`.
        """
        for ids, _ in self.prompts([((), text) for text in texts], names):
            yield ids

    def prompts(
        self, asked: Sequence[tuple[Sequence[Turn], str]], names: Sequence[str]
    ) -> Iterator[tuple[list[int], str]]:
        """The tokens of each prompt, and what the chat template does wrong with it ("" if nothing).

        Args:
            asked: earlier turns (with a chat template only), and a text.
            names: what an error calls them.

        Raises:
            ConfigError: template or tokenizer fails, takes too long or too much memory; or the template drops what is
                said whatever that is, or does not read a variable that it is given.
        """
        for part in self._parts([text for _, text in asked]):
            own = list(asked[part.start : part.stop])
            seconds = _SECONDS + sum(len(text) for _, text in own) / _CHARACTERS
            which = one_line(" to ".join(dict.fromkeys((names[part.start], names[part.stop - 1]))))
            wrong = [""] * len(own)
            if self._chat is not None:
                try:
                    if not self._begun:
                        self._accept(Findings(*self._work(("begin", []), seconds)))
                    wrong = self._work(("render", own), seconds)
                except IsolatedError as error:
                    raise ConfigError(self._of_template(f"{error}, at {which}")) from error
            try:
                if self._chat is None and self._special and not self._begun:
                    self._tell_of_ends(self._work(("ends", []), seconds))
                made = self._work(("rendered" if self._chat is not None else "raw", own), seconds)
            except IsolatedError as error:
                raise ConfigError(f"{self._folder}: the tokenizer fails: {error}, at {which}") from error
            self._begun = True
            yield from zip(made, wrong, strict=True)

    def _parts(self, texts: Sequence[str]) -> Iterator[range]:
        """The very first text alone, as what is wrong is mostly wrong with all; then many at once."""
        start, characters = 0, 0
        for index, text in enumerate(texts):
            full = index - start >= _AT_ONCE or characters + len(text) > _CHARACTERS_AT_ONCE or not self._begun
            if full and index > start:
                yield range(start, index)
                start, characters = index, 0
            characters += len(text)
        if texts:
            yield range(start, len(texts))

    def _of_template(self, reason: str) -> str:
        known = self._chat is None or self._chat.system is None
        hint = "" if known else " (does it know system messages? leave data.system out)"
        return f"data.format: the chat template of {self._folder} fails: {reason}{hint}"

    def _accept(self, found: Findings) -> None:
        """Refuse a template that cannot be used as the configuration says."""
        template = f"the chat template of {self._folder}"
        if found.unread:
            reads = f"those it reads: {one_line(', '.join(found.reads))[:500]}" if found.reads else "it reads none"
            name = one_line(found.unread[0])
            raise ConfigError(f"data.chat_template_kwargs: {template} reads no variable {name}; {reads}")
        if found.dropped == "the system message":
            raise ConfigError(f"data.system: {template} drops the system message; put its text into data.template")
        if found.dropped:
            raise ConfigError(
                f"data.format: {template} drops {found.dropped}; fix chat_template.jinja, or set data.format: raw"
            )
        if found.dated and self._chat is not None:
            logger.warning("data.date: %s asks for the date, and is told %s", template, self._chat.date)

    def _tell_of_ends(self, ends: str) -> None:
        if ends:
            what = "puts %s after a text; prompts go without it, as a response follows"
            logger.warning("data.format: raw: the tokenizer of %s " + what, self._folder, ends)


class _Work:
    """What the process does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: Chat | None, special: bool) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._renderer = None if chat is None else Renderer(chat, tokenizer.special_tokens_map)
        self._rendered: list[str] = []
        self._ends = 0

    def __call__(self, part: tuple[str, list[tuple[Sequence[Turn], str]]]) -> Any:
        """`begin`: what the template does; `ends`: the tokens that the tokenizer puts after a text, as a text.

        `render`: what the template does wrong with each; the texts are kept. `rendered`: their tokens.
        `raw`: the tokens of texts.
        """
        what, asked = part
        if what == "ends":
            return self._find_ends()
        if what == "raw":
            return self._tokens([text for _, text in asked], special=self._special)
        if what == "rendered":
            return self._tokens(self._rendered, special=False)  # the template writes the special tokens itself
        assert self._renderer is not None, what
        if what == "begin":
            return astuple(self._renderer.begin())  # nothing but plain values comes out of the process
        self._rendered, wrong = self._renderer.render(asked)
        return wrong

    def _find_ends(self) -> str:
        encoded = self._tokenizer(["1 + 1 ="], return_special_tokens_mask=True)
        ids, mask = encoded["input_ids"][0], encoded["special_tokens_mask"][0]
        while self._ends < len(ids) and mask[-1 - self._ends] and 0 in mask:
            self._ends += 1
        return " ".join(map(str, self._tokenizer.convert_ids_to_tokens(ids[len(ids) - self._ends :])))

    def _tokens(self, texts: list[str], *, special: bool) -> list[list[int]]:
        found: list[list[int]] = self._tokenizer(texts, add_special_tokens=special)["input_ids"]
        if not all(type(token) is int and token >= 0 for ids in found for token in ids):
            raise ValueError("it does not make whole numbers of a text")
        return [ids[: len(ids) - self._ends] for ids in found] if self._ends else found
