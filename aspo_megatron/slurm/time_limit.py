"""Time limits as sbatch reads them, and whether one leaves a run time to train before it has to save."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aspo_megatron.config import SlurmConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

NO_LIMIT = "UNLIMITED"
MOST_SAVE_SECONDS = 65535
"""The most that sbatch takes in `--signal`."""

EARLY_SECONDS = 60
"""So much earlier than asked Slurm may send its signal."""

_FORM = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


def limit_seconds(text: str) -> int | None:
    """Seconds of a time limit; None if it is none: `UNLIMITED`, `INFINITE`, -1 or zero.

    Slurm's forms are minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and
    days-hours:minutes:seconds.

    Raises:
        ValueError: it is no time limit.
    """
    if text.upper() in (NO_LIMIT, "INFINITE", "-1"):
        return None
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time limit of Slurm")
    parts = [int(part) for part in found.group("first", "second", "third") if part is not None]
    if found["days"] is not None:
        days, (hours, minutes, seconds) = int(found["days"]), [*parts, 0, 0][:3]
    elif len(parts) == 3:
        days, (hours, minutes, seconds) = 0, parts
    else:
        days, hours, (minutes, seconds) = 0, 0, [*parts, 0][:2]
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds or None


def time_option(text: str | None) -> str | None:
    """What stands behind `--time=`; None: nothing does, and the partition's own limit holds."""
    return text if text is None or limit_seconds(text) is not None else NO_LIMIT


def refuse_short_limit(slurm: SlurmConfig) -> None:
    """See that the signal to save does not come as the job begins, which would have it start again for ever.

    Raises:
        ConfigError: names `slurm.time` and `slurm.save_seconds`.
    """
    if slurm.save_seconds > MOST_SAVE_SECONDS:
        raise ConfigError(
            f"slurm.save_seconds={slurm.save_seconds}: Slurm sends its signal at most {MOST_SAVE_SECONDS} seconds "
            "before the limit slurm.time; set slurm.save_seconds to no more than that"
        )
    if slurm.time is not None:
        _refuse_short(f"slurm.time={slurm.time}", slurm.time, slurm.save_seconds)
    for key, lines in (("directives", slurm.directives), ("server_directives", slurm.server_directives)):
        _refuse_directives(f"slurm.{key}", lines, slurm.save_seconds)


def _refuse_directives(key: str, lines: Sequence[str], save_seconds: int) -> None:
    """No directive may set what `slurm.time` and `slurm.save_seconds` set; sbatch knows options by their beginnings."""
    for line in lines:
        name, _, value = line.removeprefix("--").partition("=")
        if name == "time" or (len(name) > 2 and "signal".startswith(name)):
            raise ConfigError(
                f"{key}: {one_line(line)}: set slurm.time (the time limit) or slurm.save_seconds (when a run saves "
                "before it) instead, which must agree with each other"
            )
        if name.startswith("time-") and "time-min".startswith(name):
            try:
                _refuse_short(f"{key}: {line}", value, save_seconds)
            except ValueError as error:
                raise ConfigError(f"{key}: {one_line(line)}: {one_line(error)}") from error


def _refuse_short(what: str, text: str, save_seconds: int) -> None:
    limit, least = limit_seconds(text), save_seconds + EARLY_SECONDS
    if limit is None or limit > least:
        return
    raise ConfigError(
        f"{one_line(what)}: {limit} s is not more than slurm.save_seconds={save_seconds} plus the {EARLY_SECONDS} s by "
        f"which Slurm may be early: the job would save as soon as it starts, and train nothing; set slurm.time to more "
        f"than {-(-least // 60)} minutes, or slurm.save_seconds to less, but more than a step takes"
    )
