"""A page of every `aspo` command, with what its `--help` says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from aspo_megatron.cli.app import app

_INTRODUCTION = """\
# Command reference

What `--help` says of each command. [Configuration](configuration.md) has the `KEY=VALUE` settings that some of them
take.
"""
_SETTINGS = "Settings (docs/configuration.md explains them):"


def page() -> str:
    """Markdown of the page, a part for each command in the order of the help."""
    group = typer.main.get_command(app)
    whole = typer.Context(group, info_name="aspo", **group.context_settings)
    return _INTRODUCTION + "".join(_part(context) for context in _commands(whole))


def _commands(context: typer.Context) -> Iterator[typer.Context]:
    """Each command that does something, by itself: not the groups that hold them."""
    subcommands = getattr(context.command, "commands", None)
    if subcommands is None:
        yield context
        return
    for name, command in subcommands.items():
        yield from _commands(typer.Context(command, info_name=name, parent=context))


def _part(context: typer.Context) -> str:
    command = context.command
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"\n## {context.command_path}\n", f"```text\n{' '.join(usage.split())}\n```\n", *_described(command.help)]
    records = [_record(context, parameter) for parameter in command.get_params(context)]
    rows = [f"| `{names}` | {words} |\n" for names, words in records if names]
    return "\n".join([*parts, "| argument or option | |\n| --- | --- |\n" + "".join(rows)])


def _described(text: str | None) -> Iterator[str]:
    """Paragraphs of the help; those marked to be left as they are become blocks. The list of settings is left out."""
    for paragraph in (text or "").partition(_SETTINGS)[0].strip().split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        if lines[0].strip() == "\b":
            block = "\n".join(line.removeprefix("  ") for line in lines[1:])
            yield f"```text\n{block}\n```\n"
        else:
            yield _escaped("\n".join(line.strip() for line in lines)) + "\n"


def _record(context: typer.Context, parameter: Any) -> tuple[str, str]:
    record = parameter.get_help_record(context)
    if record is None:
        return "", ""
    names, words = (" ".join(part.split()) for part in record)
    return names.replace("|", r"\|"), _escaped(words).replace("|", r"\|")


def _escaped(text: str) -> str:
    """Text in which only marks of code mean something to Markdown, and pages that are named are links."""
    parts = re.split(r"(`[^`]+`|\bdocs/\w+\.md\b)", text)
    parts[::2] = [re.sub(r"([*_\[\]<>#])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [part if part[0] == "`" else f"[{part}]({part.removeprefix('docs/')})" for part in parts[1::2]]
    return "".join(parts)
