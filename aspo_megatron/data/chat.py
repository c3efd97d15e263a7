"""Problems to chats, and chats to texts, by a model folder's template; whether it keeps what is said.

`Renderer` runs in the process of `tokenize_prompts`: a template is a program of somebody else.
"""

from __future__ import annotations

import datetime
import html
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aspo_megatron.data.sources.messages import Turn
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase

    from aspo_megatron.config import DataConfig

_TAKEN = {
    "messages": "data.train says what is asked",
    "conversation": "data.train says what is asked",
    "chat_template": "set data.chat_template",
    "strftime_now": "set data.date",
    "add_generation_prompt": "it is always true, as the model is to answer",
    "continue_final_message": "it is always false, as the model is to answer",
}
_UNUSED = (
    "documents", "max_length", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors",
    "sanitize_control_tokens", "tokenize", "tokenizer_kwargs", "tools", "truncation",
)  # fmt: skip
"""What else transformers takes for itself when it renders a chat."""

_FORMS = ("text", "parts", "system as text")
"""How messages hand over their text: as such, as a list of one part, or as a list in all but the system message."""

_PROBE = "Zwetschgenknoedel"
_WORD = re.compile(r"\w+")
_LIST = re.compile(rf"""['"]text['"]: *['"]{_PROBE}""")
"""What a template makes of a list that it takes for a text."""
_MOST_CHARACTERS = 1 << 26
"""Of the prompts that a template makes at once."""


@dataclass(frozen=True)
class Chat:
    """How a text becomes a prompt.

    Attributes:
        template: jinja2.
        date: what the template is told when it asks for today's.
        system: message before all others.
        variables: for the template.
    """

    template: str
    date: datetime.date
    system: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What a template does, as far as a try shows.

    Attributes:
        unread: variables given that it does not read.
        reads: variables that it reads, without those that every call gives.
        dropped: what is said and does not come into the prompt; "" if all does.
        dated: it has asked for the date.
    """

    unread: tuple[str, ...]
    reads: tuple[str, ...]
    dropped: str
    dated: bool


def chat_of(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Chat | None:
    """How the configuration says that prompts are made; None: without a chat template.

    Raises:
        ConfigError: the tokenizer has no such template, or a key does not fit `data.format`.
    """
    if config.format == "raw":
        for key in ("system", "chat_template", "chat_template_kwargs"):
            if getattr(config, key):
                raise ConfigError(f"data.{key} needs data.format: chat; with raw, put the text into data.template")
        return None
    for name in config.chat_template_kwargs:
        if name in _TAKEN or name in _UNUSED:
            why = _TAKEN.get(name, "the call that renders a chat takes that itself; leave it out")
            raise ConfigError(f"data.chat_template_kwargs.{name}: not one of the template's own variables: {why}")
    template = _template(tokenizer, config.chat_template)
    return Chat(template, config.date, config.system, config.chat_template_kwargs)


def _template(tokenizer: PreTrainedTokenizerBase, name: str | None) -> str:
    templates = tokenizer.chat_template
    if not templates:
        raise ConfigError("data.format: the model's tokenizer has no chat template; set data.format: raw")
    if isinstance(templates, str):
        if name not in (None, "default"):
            what = "the model's tokenizer has one chat template, which has no name; leave data.chat_template out"
            raise ConfigError(f"data.chat_template: {one_line(name)}: {what}")
        return templates
    wanted = name or "default"
    if wanted not in templates:
        there = one_line(", ".join(sorted(templates))[:500])
        what = f"the model's tokenizer has no chat template of this name; those there are: {there}"
        hint = "" if name else f". Name one, e.g. data.chat_template={one_line(min(templates))[:80]}"
        raise ConfigError(f"data.chat_template: {one_line(wanted)}: {what}{hint}")
    found: str = templates[wanted]
    return found


class Renderer:
    """Makes texts of chats. transformers' environment is used, but for the clock."""

    def __init__(self, chat: Chat, special_tokens: Mapping[str, Any]) -> None:
        """`special_tokens`: of the tokenizer, by name; a template may read them."""
        self._chat = chat
        self._given = {**special_tokens, **chat.variables, "strftime_now": self._strftime}
        self._own = {*_TAKEN, *_UNUSED, *special_tokens}
        self._midnight = datetime.datetime.combine(chat.date, datetime.time())
        self._form = "text"
        self._compiled: Template | None = None
        self._dated, self._works = False, False

    def begin(self) -> Findings:
        """Try the template; call it once, before `render`."""
        from jinja2.meta import find_undeclared_variables
        from transformers.utils.chat_template_utils import _compile_jinja_template

        compiled = self._compiled = _compile_jinja_template(self._chat.template)
        reads = find_undeclared_variables(compiled.environment.parse(self._chat.template))
        unread = tuple(name for name in self._chat.variables if name not in reads)
        dropped = self._choose_form()
        return Findings(unread, tuple(sorted(reads - self._own)), dropped, self._dated)

    def render(self, asked: Sequence[tuple[Sequence[Turn], str]]) -> tuple[list[str], list[str]]:
        """The text of each chat, and what the template does wrong with it, e.g. `drops an earlier turn`, or "".

        Args:
            asked: earlier turns, and what the user says then.

        Raises:
            ValueError: the texts are too long. What else the template raises is raised, but where it refuses a chat
                for its earlier turns: not all templates know system messages.
        """
        from jinja2 import TemplateError

        texts, wrong, characters = [], [], 0
        for turns, text in asked:
            chat = [*self._opening, *turns, {"role": "user", "content": text}]
            try:
                texts.append(self._rendered(chat, self._form))
            except TemplateError as error:
                if not (turns and self._works):
                    raise
                texts.append("")
                wrong.append(f"refuses it: {one_line(error)[:300]}")
            else:
                dropped = _dropped(chat, texts[-1])
                wrong.append(f"drops {dropped}" if dropped else "")
            characters += len(texts[-1])
            _refuse_long(characters, sum(len(said) for _, said in asked))
        return texts, wrong

    @property
    def _opening(self) -> list[Turn]:
        return [] if self._chat.system is None else [{"role": "system", "content": self._chat.system}]

    def _strftime(self, form: str) -> str:
        self._dated = True
        return self._midnight.strftime(form)

    def _choose_form(self) -> str:
        """Take the form in which the template keeps what is said; what it drops if there is none."""
        with_system = self._chat.system is not None
        dropped = self._probe("text", with_system)
        kept = [] if dropped == "" else [form for form in _FORMS[1:] if self._probe(form, with_system) == ""]
        self._works = dropped == "" or bool(kept)
        if kept:
            # Problems may bring a system message of their own.
            self._form = next((form for form in kept if self._probe(form, True) == ""), kept[0])
        # What it raises is raised again, with the name of a problem.
        return "" if self._works or dropped is None else dropped

    def _probe(self, form: str, with_system: bool) -> str | None:
        """What the template drops of a chat; None if it fails."""
        opening: list[Turn] = [{"role": "system", "content": f"{_PROBE} 1"}] if with_system else []
        chat: list[Turn] = [*opening, {"role": "user", "content": f"{_PROBE}n"}]
        try:
            rendered = self._rendered(chat, form)
        except Exception:
            return None
        shown_as_list = form != "text" and _LIST.search(rendered)
        return "its form" if shown_as_list else _dropped(chat, rendered)

    def _rendered(self, chat: Sequence[Turn], form: str) -> str:
        assert self._compiled is not None, "begin"
        random.seed(0)  # jinja2 lets templates draw
        messages = [{**turn, "content": _content(turn, form)} for turn in chat]
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        rendered = self._compiled.render(**given, **self._given)
        _refuse_long(len(rendered), sum(len(turn["content"]) for turn in chat))
        return rendered


def _refuse_long(characters: int, given: int) -> None:
    if characters > _MOST_CHARACTERS:
        raise ValueError(f"it makes {characters:,} characters of {given:,}")


def _content(turn: Turn, form: str) -> str | list[dict[str, str]]:
    if form == "text" or (form == "system as text" and turn["role"] == "system"):
        return turn["content"]
    return [{"type": "text", "text": turn["content"]}]


def _dropped(chat: Sequence[Turn], rendered: str) -> str:
    """What of a chat is not in the prompt that a template has made of it."""
    if not _keeps(rendered, chat[-1]["content"]):
        return "the problem's text"
    for turn in chat[:-1]:
        # Templates of models that think leave out the thoughts of earlier turns, and are meant to.
        said = turn["content"].rpartition("</think>")[2] if turn["role"] == "assistant" else turn["content"]
        if not _keeps(rendered, said):
            return "the system message" if turn["role"] == "system" else "an earlier turn"
    return ""


def _keeps(rendered: str, text: str) -> bool:
    """Whether a text is there: as it is, or wrapped, escaped, in capitals; half of its words at least."""
    if text.strip() in rendered:
        return True
    rendered = html.unescape(rendered).casefold()
    text = text.casefold()
    if "".join(text.split()) in "".join(rendered.split()):
        return True
    words = set(_WORD.findall(text))
    if not words:
        return set("".join(text.split())) <= set(rendered)
    return 2 * len(words & set(_WORD.findall(rendered))) >= len(words)
