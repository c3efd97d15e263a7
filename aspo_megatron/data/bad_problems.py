"""Problems that cannot be used: all are counted before any is refused, or they are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aspo_megatron.config.words import OnBad
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import plain_logger

logger = plain_logger(__name__)


@dataclass(frozen=True)
class Reason:
    """Why one problem cannot be used.

    Attributes:
        kind: in a few words that are the same for all such problems, e.g. `prompt too long`.
        text: of this problem: which one, what is wrong with it, and what to do; one line.
    """

    kind: str
    text: str


Row = tuple[str, Mapping[str, Any] | Reason]
"""A row of a source: where it is, and its fields or why they cannot be read."""


class Unusable:
    """Counts the problems of one source that cannot be used, and in the end refuses them or tells of them.

    Use: `add` for each, then `settle`.
    """

    def __init__(self, key: str, on_bad: OnBad) -> None:
        """`key`: of the source, e.g. `data.train`; `on_bad`: as `data.on_bad`."""
        self._key, self._on_bad = key, on_bad
        self._kinds: Counter[str] = Counter()
        self._first = ""

    def add(self, reason: Reason) -> None:
        """One problem cannot be used."""
        self._first = self._first or reason.text
        self._kinds[reason.kind] += 1

    def settle(self, total: int) -> None:
        """Refuse, or tell of what is left out; nothing if all can be used.

        Args:
            total: how many problems there are, with those that cannot be used.

        Raises:
            ConfigError: some cannot be used and `data.on_bad` is `refuse`, or none can.
        """
        bad = self._kinds.total()
        if not bad:
            return
        kinds = ", ".join(f"{kind}: {count:,}" for kind, count in self._kinds.most_common())
        what = f"{self._key}: {bad:,} of {total:,} problems cannot be used ({kinds}); the first: {self._first}"
        if bad == total:
            raise ConfigError(what)
        what += "" if what.endswith("?") else "."
        if self._on_bad == "refuse":
            raise ConfigError(f"{what} Or leave such problems out with data.on_bad=drop")
        logger.warning("%s Left out, as data.on_bad=drop says", what)
