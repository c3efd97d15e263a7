"""Completion in the shell: a real bash is asked what it makes of words; the other scripts have the same words."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aspo_megatron import losses
from aspo_megatron.cli.app import app
from aspo_megatron.cli.first_steps import completion_words
from aspo_megatron.config.reference import OWN_NAME, sections

_ASK = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_aspo
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scripts")
    found = {}
    for shell in completion_words.SHELLS:
        done = CliRunner().invoke(app, ["completion", shell])
        assert done.exit_code == 0, done.output
        found[shell] = folder / shell
        found[shell].write_text(done.output)
    return found


def every_command() -> Iterator[tuple[str, Any]]:
    left: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while left:
        name, command = left.pop()
        yield name, command
        left += [(f"{name} {word}".strip(), one) for word, one in getattr(command, "commands", {}).items()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train", "try-reward"]),
        (["--v"], ["--version"]),
        (["convert", "h"], ["hf-to-megatron"]),
        (["convert", "hf-to-megatron", "a", "b", "--dt"], ["--dtype"]),
        (["convert", "hf-to-megatron", "a", "--dtype", "b"], ["bfloat16"]),
        (["train", "run.yaml", "--p"], ["--profile"]),
        (["train", "run.yaml", "optimizer.b"], ["optimizer.beta1=", "optimizer.beta2="]),
        (["train", "run.yaml", "loss.tau_p"], ["loss.tau_positive="]),
        (["train", "run.yaml", "loss.name", "=", "gs"], ["gspo"]),
        (["train", "run.yaml", "data.on_bad", "="], ["drop", "refuse"]),
        (["train", "run.yaml", "model.path", "=", "m"], []),  # files, which bash has itself
        (["train", "run.yaml", ""], []),
        (["samples", "runs/a", "optimizer.l"], []),  # takes no settings
        (["plan", "run.yaml", "--gpu", "h"], ["h100", "h20", "h200", "h800"]),
        (["samples", "runs/a", "--only", ""], ["right", "wrong", "cut"]),
        (["check", "--loss", "dap"], ["dapo"]),
        (["check", "qwen3"], ["qwen3-moe"]),
        (["losses", "sap"], ["sapo"]),
        (["recipes", "ti"], ["tiny"]),
        (["try-reward", "--problems", "t"], []),
        (["completion", "z"], ["zsh"]),
        (["--version", "comple"], ["completion"]),
        (["no-such", "x"], []),
    ],
    ids=lambda value: " ".join(value) or "none",
)
def test_what_bash_completes(scripts: dict[str, Path], words: list[str], expected: list[str]) -> None:
    """In less than a blink: nothing is started, as nothing is found in PATH."""
    script = str(scripts["bash"])
    bash = [str(shutil.which("bash")), "--noprofile", "--norc", "-c", _ASK, "bash", script, "aspo", *words]
    done = subprocess.run(bash, capture_output=True, text=True, check=True, env={"PATH": "/nowhere"})
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == sorted(expected)


@pytest.mark.parametrize("shell", completion_words.SHELLS)
def test_each_script_has_all_words(scripts: dict[str, Path], shell: str) -> None:
    text = scripts[shell].read_text()
    there = set(re.findall(r"[\w./-]+=?", text))
    assert {f"{key.name}=" for section in sections() for key in section.keys if OWN_NAME not in key.name} <= there
    assert set(losses.names()) <= there
    for name, command in every_command():
        assert set(name.split()) <= there
        for option in (name for parameter in command.params for name in parameter.opts if name.startswith("--")):
            assert (f"-l {option[2:]} " if shell == "fish" else option) in text, option


def test_values_are_of_options_and_arguments_that_there_are() -> None:
    commands = dict(every_command())
    options = {name for command in commands.values() for parameter in command.params for name in parameter.opts}
    assert set(completion_words._option_values()) <= options
    assert set(completion_words._argument_words()) <= set(commands)


def test_another_shell_is_refused() -> None:
    done = CliRunner().invoke(app, ["completion", "tcsh"])
    assert str(done.exception) == "tcsh: there are scripts only for bash, zsh, fish"
