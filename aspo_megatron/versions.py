"""The versions of torch, megatron-core and transformers that this package works with, and those that are installed.

pyproject.toml says which; nothing here repeats it. Only metadata is read: none of the packages is imported.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from aspo_megatron.errors import UserError

NAMES = ("python", "torch", "megatron-core", "transformers")
"""What the window is of. The other dependencies are pip's business."""

_PROJECT = "aspo-megatron"
_CHECKOUT = Path(__file__).parents[1] / "pyproject.toml"


@dataclass(frozen=True)
class Outside:
    """A package that is not inside of the window. `installed`: None if it is missing."""

    name: str
    installed: Version | None
    wanted: SpecifierSet

    def __str__(self) -> str:
        """One line: what there is, what is needed, what to do."""
        if self.name == "python":
            return f"Python {self.installed} runs, {self.wanted} is needed: make the environment with another python"
        there = "is not installed" if self.installed is None else f"{self.installed} is installed"
        return f"{self.name} {there}, {self.wanted} is needed: pip install '{self.name}{self.wanted}'"


@functools.cache
def window() -> dict[str, SpecifierSet]:
    """The versions that are supported, for each of `NAMES`: pyproject.toml of a checkout, else what pip installed."""
    python, requirements = _declared()
    found: dict[str, SpecifierSet] = {
        canonicalize_name(each.name): each.specifier for each in map(Requirement, requirements) if each.marker is None
    }
    return {"python": SpecifierSet(python)} | {name: found[name] for name in NAMES if name != "python"}


def installed(name: str) -> Version | None:
    """The version of a package (or of `python`) in this environment; None if it is not there, or says no version."""
    if name == "python":
        return Version(platform.python_version().removesuffix("+"))  # of a build from between two releases
    try:
        return Version(str(importlib.metadata.version(name)))
    except (importlib.metadata.PackageNotFoundError, InvalidVersion, KeyError):  # the last two: it is not whole
        return None


def is_inside(version: Version, wanted: SpecifierSet) -> bool:
    """Whether `wanted` has the release that `version` is, or is to become.

    NVIDIA's containers have builds such as 2.11.0a0+nv26.03, from just before or after the release.
    """
    return wanted.contains(Version(version.base_version))


def outside() -> list[Outside]:
    """What is installed and not supported, or missing."""
    found = [Outside(name, installed(name), wanted) for name, wanted in window().items()]
    return [each for each in found if each.installed is None or not is_inside(each.installed, each.wanted)]


def refuse_outside() -> None:
    """Stop where this package is not known to work.

    Raises:
        UserError: names each package that is `outside`, with the versions that work.
    """
    wrong = outside()
    if wrong:
        raise UserError("; ".join(map(str, wrong)))


def _declared() -> tuple[str, Iterable[str]]:
    """Requirement of Python, and those of packages."""
    # What pip has noted of a checkout is as old as its last `pip install -e`.
    if _CHECKOUT.is_file():
        project = tomllib.loads(_CHECKOUT.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == _PROJECT:
            return project["requires-python"], project["dependencies"]
    try:
        metadata = importlib.metadata.metadata(_PROJECT)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"{_PROJECT} is neither installed nor run from its checkout ({_CHECKOUT} is not its own): "
            "run pip install -e . there"
        ) from error
    return metadata["Requires-Python"], importlib.metadata.requires(_PROJECT) or ()
