"""Names of models on the Hugging Face Hub: which texts are such names, and how a model is fetched by its name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.foreign_text import one_line, placed

_HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(@(?P<revision>\w[\w./-]*))?")
_FOLDERS = ("checkpoints", "evals", "examples", "exports", "model", "models", "runs")
"""What folders of one's own are called, which no organisation on the Hub is meant by."""


@dataclass(frozen=True)
class HubName:
    """A model on the Hub: `name` is ORG/NAME, `revision` a branch, tag or commit, or none."""

    name: str
    revision: str | None = None

    @property
    def folder(self) -> str:
        """Where a copy of it may lie."""
        return f"models/{self.name.partition('/')[2]}"

    @property
    def download(self) -> str:
        """The command that fetches it to `folder`."""
        revision = "" if self.revision is None else f" --revision {self.revision}"
        return f"hf download {self.name}{revision} --local-dir {self.folder}"


def hub_name(text: str) -> HubName | None:
    """The model that `ORG/NAME` or `ORG/NAME@REVISION` names; None if the text is rather a path of this machine.

    It is one if there is such a file or folder, or its first part is a folder here or called as one's own folders are.
    """
    found = _HUB_NAME.fullmatch(text)
    if found is None or os.path.exists(text):
        return None
    first = text.partition("/")[0]
    if first in _FOLDERS or os.path.isdir(first):
        return None
    return HubName(found["name"], found["revision"])


def missing(folder: Path) -> str:
    """What to say of a model folder that is not there."""
    return f"model.path: there is no folder {placed(folder)}{fetch_first(folder)}"


def fetch_first(folder: Path) -> str:
    """The end of a line about a folder that is not there: how to fetch the model that its name names on the Hub.

    Of a folder in `models/` the name is known but for the organisation. Nothing if it is another folder.
    """
    on_hub = hub_name(str(folder))
    if on_hub is None and folder.parent == Path("models"):
        return f"; to download one: hf download ORGANISATION/{one_line(folder.name)} --local-dir {one_line(folder)}"
    if on_hub is None:
        return ""
    fetch, then = one_line(on_hub.download), one_line(on_hub.folder)
    return f"; a model on the Hub has to be here first: {fetch}, then model.path={then}"
