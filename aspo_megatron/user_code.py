"""Code of the user's that the configuration names by its import path, `package.module:name`."""

from __future__ import annotations

import difflib
import importlib
import os
import sys

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, reason_of


def import_named(path: str, key: str) -> object:
    """What a path names. Its module is looked for where Python looks, then in the current directory.

    Args:
        path: `package.module:name`, both parts given.
        key: of the configuration, for errors.

    Raises:
        ConfigError: the module cannot be imported, or has nothing of this name.
    """
    module_name, _, name = path.partition(":")
    if module_name.endswith(".py"):
        raise ConfigError(f"{key}: {path!r}: a module is named without .py; use {module_name[:-3]}:{name}")
    if module_name == "__main__":
        raise ConfigError(
            f"{key}: {path!r}: the processes of a run do not have what a script or notebook defines itself; "
            "put it into a file of its own, and name that"
        )
    # The `aspo` command does not have the current directory on its path. At the end, so that a file of the user's
    # there (say, `random.py`) hides no installed module.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # Whatever a user's module does wrong as it is imported.
        raise ConfigError(f"{key}: {path!r}: cannot import {module_name!r} ({reason_of(error)})") from error
    # A user's names are not declared anywhere, so they are looked up.
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        place = getattr(module, "__file__", None) or f"the module {module_name}"  # some are no file
        raise ConfigError(f"{key}: {path!r}: {one_line(place)} has no {name!r}{hint}")
    named: object = getattr(module, name)
    return named
