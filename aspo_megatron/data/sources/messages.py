"""Questions that are a chat: a list of messages with roles, the last of which is what the user asks now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aspo_megatron.data.sources.fields import plain
from aspo_megatron.data.sources.jsonl import show
from aspo_megatron.errors import UserError
from aspo_megatron.reading import parse_json

Turn = dict[str, str]
"""A message: its `role` and its `content`."""

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
    "human": "user", "gpt": "assistant",
}  # fmt: skip
_NAMES = (("role", "content"), ("from", "value"))
"""What role and content are called: as everywhere, and as in ShareGPT."""


def turns_of(value: Any) -> list[Any] | None:
    """The messages that a value is, not yet looked at; None if it is no list of messages.

    The list may be written in JSON in a text.

    Raises:
        ValueError: it is a list of messages as Python shows it.
    """
    value = plain(value)
    if isinstance(value, str):
        start = value[:100].lstrip()
        if not start.startswith("["):
            return None
        inner = start[1:].lstrip().removeprefix("{").lstrip()
        if inner.startswith(("'role'", "'content'", "'from'", "'value'")):
            raise ValueError("is a list of messages as Python prints it, in a text; write it as a list, or as JSON")
        if not inner.startswith(('"role"', '"content"', '"from"', '"value"')):
            return None
        try:
            value = parse_json(value, "")
        except UserError:
            return None
    if not isinstance(value, list | tuple) or not value or not all(isinstance(turn, Mapping) for turn in value):
        return None
    return list(value) if any(role in value[0] for role, _ in _NAMES) else None


def chat_of(turns: list[Any], field: str) -> tuple[tuple[Turn, ...], str]:
    """The earlier turns, and the text of the last, which is the user's; `field` holds them.

    Raises:
        ValueError: says what is wrong with which message.
    """
    chat = [_turn(turn, number) for number, turn in enumerate(turns)]
    if chat[-1]["role"] != "user":
        asked = max((number for number, turn in enumerate(chat) if turn["role"] == "user"), default=None)
        wrong = f"ends with a message by {chat[-1]['role']}; the last one must be what the user asks"
        if asked is None:
            raise ValueError(wrong)
        alone = f"{field}.{asked}.{'content' if 'role' in turns[asked] else 'value'}"
        raise ValueError(f"{wrong}: take out all behind message {asked}, or name its text as the field: {alone}")
    return tuple(chat[:-1]), chat[-1]["content"]


def _turn(turn: Mapping[str, Any], number: int) -> Turn:
    role_name, content_name = next((names for names in _NAMES if names[0] in turn), _NAMES[0])
    given = turn.get(role_name)
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise ValueError(f"has the role {show(given)} in message {number}; roles are system, user, assistant")
    for name in ("tool_calls", "function_call"):
        if plain(turn.get(name)):
            raise ValueError(f"has calls of tools in message {number}, which cannot be asked")
    return {"role": role, "content": _content(plain(turn.get(content_name)), number)}


def _content(content: Any, number: int) -> str:
    """A message's text; of several parts all texts."""
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else _part(part, number) for part in content]
        return "".join(texts)
    if not isinstance(content, str):
        raise ValueError(f"has no text in message {number} but {show(content)}")
    return content


def _part(part: Any, number: int) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
    if not isinstance(text, str):
        raise ValueError(f"has a part that is no text in message {number}: {show(part)}")
    return text
