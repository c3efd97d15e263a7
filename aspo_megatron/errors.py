"""Errors that a user can act on, which the `aspo` command prints as one line and exits with code 2; and of a run."""

from aspo_megatron.foreign_text import one_line

_MOST_LINES = 50
_LONGEST_LINE = 5000  # longer than the longest path


class UserError(Exception):
    """Bad input: a wrong key, file, tensor or layout. The message names it and says what to do.

    Each argument is a line of the message, and no more than a line of text, whatever names are in it. Of
    many lines, and of a line that is a page, the beginning is shown.
    """

    def __str__(self) -> str:
        lines = [_shortened(one_line(line)) for line in self.args[:_MOST_LINES]]
        more = len(self.args) - len(lines)
        return "\n".join([*lines, f"and {more:,} more"] if more else lines)


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}... ({len(line):,} characters)"


class AgreedError(UserError):
    """Raised by all ranks alike and at the same point: they can still do something together before they end."""


class ConfigError(UserError):
    """A configuration that cannot be run; names the key."""


class CheckpointError(UserError):
    """A model folder or checkpoint that is missing, truncated or of another kind; names the file or tensor."""


class RunError(Exception):
    """A run whose ranks have not ended well: the message has the first failure, with its traceback, and the logs."""
