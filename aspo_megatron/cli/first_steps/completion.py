"""`aspo completion`: a script that has a shell complete commands, options, settings and their values."""

from __future__ import annotations

from typing import Annotated

import typer

from aspo_megatron import __version__
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import hand_over


def completion(
    context: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print a script with which the Tab key completes commands, options, settings and their values.

    All words are in the script: no Python starts when Tab is pressed. After an update of aspo, write it again.

    \b
      aspo completion bash > ~/.local/share/bash-completion/completions/aspo
      aspo completion zsh > ~/.zfunc/_aspo
      aspo completion fish > ~/.config/fish/completions/aspo.fish

    For zsh, ~/.zshrc needs `fpath+=~/.zfunc` before `autoload -U compinit && compinit`. The folders must exist.
    """
    from aspo_megatron.cli.first_steps.completion_scripts import bash_script, fish_script, zsh_script
    from aspo_megatron.cli.first_steps.completion_words import commands, settings

    scripts = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
    if shell not in scripts:
        raise ConfigError(f"{one_line(shell)}: there are scripts only for {', '.join(scripts)}")
    hand_over(scripts[shell](list(commands(context.find_root().command)), settings(), __version__))
