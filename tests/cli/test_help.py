"""What the command says of itself in a terminal of 80 columns, and which versions it is."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from aspo_megatron import __version__
from aspo_megatron.cli.app import app


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, groups included."""
    found: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while found:
        words, command = found.pop()
        yield words
        found += [((*words, name), inner) for name, inner in getattr(command, "commands", {}).items()]


def shown(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("words", sorted(commands()), ids=lambda words: " ".join(words) or "aspo")
def test_no_help_is_cut(words: tuple[str, ...]) -> None:
    """Each command has one line in the list of its group, which ends in a full stop."""
    lines = shown(*words).split("\nCommands:\n")
    if len(lines) == 2:
        listed = lines[1].splitlines()
        assert listed
        for line in listed:
            assert line.endswith("."), line
            assert not line.endswith("..."), line
            assert len(line) <= 80, line
            assert line[2] != " ", f"goes over several lines: {line}"


def test_the_version_is_that_of_the_libraries_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("--version", "-V"):
        done = CliRunner().invoke(app, [flag])
        assert done.exit_code == 0
        first, second = done.output.splitlines()
        assert first == f"aspo-megatron {__version__}"
        assert second.startswith(f"Python {platform.python_version()}, torch {torch.__version__}, megatron-core ")
        assert second.endswith(f", transformers {importlib.metadata.version('transformers')}")
    monkeypatch.setitem(sys.modules, "torch", None)  # it is asked of no package that it imports
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0
