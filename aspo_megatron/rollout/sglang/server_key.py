"""The key that servers ask for: the user's, or one that is made where servers are started.

It is in files that this user alone can read: all users of a machine see command lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from aspo_megatron.config import ServersConfig
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import read_text

_OWN_KEY = "servers.key"
_MOST_BYTES = 1 << 16
_KEY_BYTES = 32
_SETTING = "rollout.servers.api_key_file"


def read_api_key(config: ServersConfig) -> str | None:
    """The key in `api_key_file`; None if none is named.

    Raises:
        UserError: the file cannot be read, is empty, or holds what is no key.
    """
    return None if config.api_key_file is None else _read(config.api_key_file)


def key_for_own_servers(config: ServersConfig, folder: Path) -> tuple[str, Path]:
    """The key for servers that are started here, and its file: the user's, else one of this folder.

    That one stays, so that servers which are started again are known to those who use them.

    Raises:
        UserError: see `read_api_key`; it cannot be written.
    """
    if config.api_key_file is not None:
        return _read(config.api_key_file), config.api_key_file
    path = folder / _OWN_KEY
    try:
        if not _is_secret(path):
            path.unlink(missing_ok=True)
            _write_new(path, f"{secrets.token_hex(_KEY_BYTES)}\n")
    except OSError as error:
        raise UserError(f"{one_line(path)}: the servers' key cannot be written: {error.strerror}") from error
    return _read(path), path


def without_key(config: ServersConfig) -> tuple[str, ...]:
    """Servers that are started elsewhere, where there is no key for them: whoever reaches them may use them."""
    return config.addresses if config.api_key_file is None else ()


def settings_file(key: str) -> Path:
    """A file of settings of SGLang with the key; whoever starts servers by it removes it."""
    # SGLang asks for YAML, which JSON is.
    descriptor, name = tempfile.mkstemp(prefix="aspo-server-", suffix=".yaml")  # with mode 0600
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump({"api-key": key}, file)
    return Path(name)


def _read(path: Path) -> str:
    try:
        key = read_text(path, UserError, _MOST_BYTES).strip()
    except UserError as error:
        raise UserError(f"{_SETTING}: {error}") from error
    if not key:
        raise UserError(f"{_SETTING}: {one_line(path)} is empty")
    if not re.fullmatch("[!-~]+", key):
        raise UserError(f"{_SETTING}: {one_line(path)} must hold one word of ASCII letters, digits and signs")
    return key


def _is_secret(path: Path) -> bool:
    """Whether there is a key already that nobody else could have read or written."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        mine = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        return mine and not found.st_mode & 0o077 and found.st_nlink == 1 and found.st_size > _KEY_BYTES
    return False


def _write_new(path: Path, text: str) -> None:
    with contextlib.suppress(FileExistsError):  # of others that start with the same folder at the same time
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
