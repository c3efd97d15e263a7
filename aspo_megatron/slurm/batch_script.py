"""The one place through which values come into a batch script: as directives for Slurm, as words and lines for bash.

Slurm splits a directive at blanks and ends it at `#`, as it knows nothing of a shell's quotes but their like. What it
would not read as it is meant is refused, with the key of the configuration that it comes from.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from aspo_megatron.config.plain import breaking_character
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.foreign_text import one_line

OWN_LINES = "# Your own lines go here: module load cuda\n"

_DIRECTIVE = "#SBATCH "


def value(key: str, text: str) -> str:
    """A text that commands may be given.

    Raises:
        ConfigError: it is more than a line, or commands would take it for an option.
    """
    if text.startswith("-"):
        raise ConfigError(f"{key}: {one_line(text)} begins with -, so commands would read it as an option")
    return _line(key, text)


def word(key: str, text: str) -> str:
    """A text as bash takes it for one word.

    Raises:
        ConfigError: see `value`.
    """
    return shlex.quote(value(key, text))


def words(key: str, texts: Iterable[str]) -> str:
    """Words of bash, which may begin with `-`.

    Raises:
        ConfigError: one is more than a line.
    """
    return shlex.join(_line(key, text) for text in texts)


def array(*parts: str) -> str:
    """A bash array, of what `word` and `words` have made."""
    return f"({' '.join(part for part in parts if part)})"


def option(key: str, name: str, given: object) -> str:
    """The directive `--name=value`.

    Raises:
        ConfigError: Slurm would read another value.
    """
    text = f"--{name}={given}"
    if str(given).startswith("-") or _slurms_words(_line(key, text)) != [text]:
        raise ConfigError(
            f"{key}: {one_line(given)} is not a single word to Slurm: it must not begin with - or contain blanks, #, "
            "quotes or backslashes"
        )
    return text


def quoted_option(key: str, name: str, given: str) -> str:
    """The directive `--name="value"` for a path, in quotes if it has blanks or `#`.

    Raises:
        ConfigError: it has quotes or backslashes, by which Slurm would read another value.
    """
    if re.search(r"[\"'\\\\]", given):
        raise ConfigError(f"{key}: {one_line(given)}: Slurm would not read its quotes or backslashes as written")
    text = f"--{name}={given}"
    return text if _slurms_words(_line(key, text)) == [text] else f'--{name}="{given}"'


def options(key: str, texts: Sequence[str]) -> list[str]:
    """Directives as the user writes them, such as `--mem=0` or `--comment="two words"`.

    Raises:
        ConfigError: one is none, or more than one.
    """
    for text in texts:
        found = _slurms_words(_line(key, text))
        if len(found) != 1 or not found[0].startswith("--"):
            raise ConfigError(
                f"{key}: {one_line(text)} is not a single option of Slurm: write --name=value, with blanks and # "
                "only in quotes, and each option separately"
            )
    return list(texts)


def own_lines(key: str, texts: Sequence[str]) -> str:
    """The user's own lines of shell code, each of which may be several.

    Raises:
        ConfigError: there is a character in them that is no text, such as the carriage return of another system.
    """
    for text in texts:
        if found := breaking_character(text, allowed="\n\t"):
            raise ConfigError(f"{one_line(key)}: {one_line(text)}: has the control character {found}")
    return "".join(f"{text}\n" for text in texts)


def with_options(script: str, known: Mapping[str, str | None], more: Sequence[str]) -> str:
    """Replace the directives of the names given (None takes one out), and add those that are not there."""
    lines = script.split("\n")
    last = _last_directive(lines)
    left = dict(known)
    kept: list[str] = []
    for number, line in enumerate(lines):
        found = re.match(rf"{_DIRECTIVE}--([\w-]+)", line)
        if found and found[1] in left:
            value = left.pop(found[1])
            kept += [] if value is None else [_DIRECTIVE + value]
        else:
            kept.append(line)
        if number == last:
            kept += [_DIRECTIVE + value for value in (*left.values(), *more) if value is not None]
    return "\n".join(kept)


def with_component(script: str, own: Sequence[str]) -> str:
    """A heterogeneous job: after the directives those of a second component, which inherits none of the first."""
    lines = script.split("\n")
    last = _last_directive(lines)
    lines[last + 1 : last + 1] = [_DIRECTIVE + line for line in ("hetjob", *own)]
    return "\n".join(lines)


def with_settings(script: str, values: Mapping[str, str], own: str, where: str) -> str:
    """Replace the lines `NAME=...`, and the place of the user's own lines.

    Args:
        script: the template so far.
        values: by name, as bash reads them: from `word` and `words`.
        own: from `own_lines`.
        where: what the template is called.

    Raises:
        UserError: the template does not have one line of each name.
    """
    for name, value in values.items():
        found = re.findall(rf"^{name}=.*$", script, flags=re.M)
        if len(found) != 1:
            raise UserError(f"{where}: has {len(found)} lines {name}=..., but must have exactly one")
        script = script.replace(f"\n{found[0]}\n", f"\n{name}={value}\n")
    return script.replace(OWN_LINES, own)


def _line(key: str, text: str) -> str:
    if found := breaking_character(text):
        raise ConfigError(
            f"{one_line(key)}: {one_line(text)}: has the control character {found}, and must be one line of text"
        )
    return text


def _last_directive(lines: Sequence[str]) -> int:
    return max(number for number, line in enumerate(lines) if line.startswith(_DIRECTIVE))


def _slurms_words(text: str) -> list[str]:
    """The words of a directive as sbatch reads them; none if a comment begins in it, or a quote has no end."""
    found: list[str] = []
    current: str | None = None
    quote, escaped = "", False
    for character in text:
        if escaped:
            current, escaped = (current or "") + character, False
        elif character == "\\":
            current, escaped = current or "", True
        elif quote:
            quote, current = ("", current) if character == quote else (quote, (current or "") + character)
        elif character in "\"'":
            current, quote = current or "", character
        elif character == "#":
            return []
        elif character.isspace():
            found += [] if current is None else [current]
            current = None
        else:
            current = (current or "") + character
    if quote or escaped:
        return []
    return found if current is None else [*found, current]
