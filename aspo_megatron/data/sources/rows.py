"""From a row of any source to a question, its earlier turns, its answer and the rest; or why it cannot be used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aspo_megatron.config import SourceConfig
from aspo_megatron.data.bad_problems import Reason
from aspo_megatron.data.sources.fields import ABSENT, ANSWERS, PROMPTS, likely, lookup, named_in, plain
from aspo_megatron.data.sources.jsonl import show
from aspo_megatron.data.sources.messages import Turn, chat_of, turns_of
from aspo_megatron.errors import ConfigError

_LONGEST_ID = 1000
"""Characters: an id is part of what is shown of a problem."""


@dataclass(frozen=True)
class Taken:
    """What a row is. `other` are the source's further fields, `messages` the turns of a chat before the question."""

    question: str
    answer: str | None
    other: Mapping[str, Any]
    messages: tuple[Turn, ...] = ()


class BadRowError(Exception):
    """A row cannot be used."""

    def __init__(self, kind: str, text: str) -> None:
        """See `Reason`."""
        super().__init__(text)
        self.reason = Reason(kind, text)


def key_of(name: str, option: str) -> str:
    """The key of a source's option, such as `data.train.path`; what an option of a command names has no keys."""
    return name if name.startswith("-") else f"{name}.{option}"


class RowTaker:
    """Takes the rows of one source."""

    def __init__(self, source: SourceConfig, key: str) -> None:
        """`key`: the configuration key of the source, or the command's option; errors name it."""
        self._key = key
        self._prompt, self._answer = source.prompt_field, source.answer_field
        self._lacking: dict[str, str] = {}
        self._there: set[str] = set()

    def take(self, fields: Mapping[str, Any], where: str) -> Taken:
        """Split a row into question, answer and the rest.

        Raises:
            BadRowError: it cannot be used.
        """
        given = self._find(fields, where)
        messages, question = self._question(given[0], where)
        answer = None if self._answer is None else self._reference(given[1], where)
        other = {name: value for name, value in fields.items() if name not in (self._prompt, self._answer)}
        _check_id(other, where)
        return Taken(question, answer, other, messages)

    def refuse_absent(self) -> None:
        """In the end: see that each field was there in some row.

        Raises:
            ConfigError: it was in none, so that not the rows are wrong but its name.
        """
        for name, text in self._lacking.items():
            if name not in self._there:
                raise ConfigError(text)

    def _find(self, fields: Mapping[str, Any], where: str) -> list[Any]:
        wanted = [self._prompt] if self._answer is None else [self._prompt, self._answer]
        found = [lookup(fields, name) for name in wanted]
        absent = [name for name, value in zip(wanted, found, strict=True) if value is ABSENT]
        self._there.update(name for name in wanted if name not in absent)
        if absent:
            text = f"{where}: no field {show(absent[0])}; the fields there are: {named_in(fields)}. "
            text += self._advice(fields, absent)
            for name in absent:
                self._lacking.setdefault(name, text)
            raise BadRowError(f"no field {show(absent[0])}", text)
        return found

    def _advice(self, fields: Mapping[str, Any], absent: list[str]) -> str:
        if self._key.startswith("-"):
            return "The file must have `prompt` (or `problem`, `question`)" + " and `answer`" * (
                self._answer is not None
            )
        prompt = likely(fields, PROMPTS, besides=self._answer)
        answer = likely(fields, ANSWERS, besides=prompt if self._prompt in absent else self._prompt)
        settings = []
        if self._prompt in absent:
            settings.append(_setting(key_of(self._key, "prompt_field"), prompt))
        if self._answer in absent:
            setting = _setting(key_of(self._key, "answer_field"), answer)
            settings.append(setting if answer else f"{setting}, which is null if there are no answers")
        return "Set " + " and ".join(settings)

    def _question(self, value: Any, where: str) -> tuple[tuple[Turn, ...], str]:
        field = f"{where}: field {show(self._prompt)}"
        try:
            turns = turns_of(value)
            messages, question = ((), value) if turns is None else chat_of(turns, self._prompt)
        except ValueError as error:
            raise BadRowError("a question that cannot be asked", f"{field} {error}") from error
        if not isinstance(question, str) or not question.strip():
            another = f"; choose another with {key_of(self._key, 'prompt_field')}"
            raise BadRowError(
                "no question",
                f"{field} must be a non-empty text, not {show(value)}" + another * (not self._key.startswith("-")),
            )
        for text in (question, *(turn["content"] for turn in messages)):
            _check_text(text, where, self._prompt)
        return messages, question

    def _reference(self, value: Any, where: str) -> str | None:
        """The answer; what is empty is none."""
        value = plain(value)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = ", ".join(value)  # OlympiadBench: the parts of one answer
        if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
            return None
        finite = not isinstance(value, float | Decimal) or math.isfinite(value)
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal) or not finite:
            text = f"{where}: field {show(self._answer)} must be a text or a number, not {show(value)}"
            if not self._key.startswith("-"):
                key = key_of(self._key, "answer_field")
                text += f"; choose another with {key}, or null if there are no answers"
            raise BadRowError("an answer that is no text or number", text)
        answer = str(value)
        _check_text(answer, where, str(self._answer))
        return answer if answer.strip() else None


def _setting(key: str, name: str | None) -> str:
    return key if name is None else f"{key}={name}"


def _check_id(other: Mapping[str, Any], where: str) -> None:
    if other.get("id") is not None:
        name = str(other["id"])
        if len(name) > _LONGEST_ID:
            text = f"{where}: field 'id' has {len(name):,} characters; give a name of at most {_LONGEST_ID}"
            raise BadRowError("a long id", text)
        _check_text(name, where, "id")


def _check_text(text: str, where: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"{where}: field {show(field)} holds half of a surrogate pair; write it anew"
        raise BadRowError("half of a surrogate pair", reason) from error
