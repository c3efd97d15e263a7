"""Errors that a user can act on: the `aspo` command prints them as one line and exits with code 2."""

from aspo_megatron.foreign_text import one_line


class UserError(Exception):
    """Bad input: a wrong key, file, tensor or layout. The message names it and says what to do.

    Each argument is a line of the message, and no more than a line of text, whatever names are in it.
    """

    def __str__(self) -> str:
        return "\n".join(map(one_line, self.args))


class AgreedError(UserError):
    """Raised by all ranks alike and at the same point: they can still do something together before they end."""


class ConfigError(UserError):
    """A configuration that cannot be run; names the key."""


class CheckpointError(UserError):
    """A model folder or checkpoint that is missing, truncated or of another kind; names the file or tensor."""
