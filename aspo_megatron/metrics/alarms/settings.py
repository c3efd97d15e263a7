"""The settings of a run as its alarms name them, whether it goes or only its folder is left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from aspo_megatron.config import RunConfig
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.saved_settings import saved_settings


class Settings:
    """Values by dotted key, as far as they are known."""

    def __init__(self, tree: Mapping[str, Any], folder: str = "RUN") -> None:
        """`folder`: what stands for the run's in commands."""
        self._tree, self.folder = tree, one_line(folder)

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """Of a run that goes."""
        return cls(config.model_dump(mode="json"), str(config.output_dir))

    def get(self, key: str) -> Any:
        """The value of a dotted key; None where it is not known."""
        value: Any = self._tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def named(self, key: str) -> str:
        """A key with its value, e.g. `optimizer.lr=1e-06`; alone where that is not known."""
        value = self.get(key)
        if value is None or isinstance(value, Mapping | list):
            return key
        return f"{key}={one_line(value if isinstance(value, str) else json.dumps(value, default=str))}"

    @property
    def alarms(self) -> bool:
        """`log.alarms`; on where it is not known."""
        return self.get("log.alarms") is not False


def run_settings(folder: Path) -> Settings:
    """The settings in a run's config.yaml; none if there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    return Settings(saved_settings(folder), str(folder))
