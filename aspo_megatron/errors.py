"""Errors that a user can act on: the `aspo` command prints them as one line and exits with code 2."""


class UserError(Exception):
    """Bad input: a wrong key, file, tensor or layout. The message names it and says what to do."""


class AgreedError(UserError):
    """Raised by all ranks alike and at the same point: they can still do something together before they end."""


class ConfigError(UserError):
    """A configuration that cannot be run; names the key."""


class CheckpointError(UserError):
    """A model folder or checkpoint that is missing, truncated or of another kind; names the file or tensor."""
