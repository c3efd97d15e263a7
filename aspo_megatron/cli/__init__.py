"""The `aspo` command: one file a subcommand."""

from aspo_megatron.cli.entry import main

__all__ = ["main"]
