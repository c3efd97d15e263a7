"""The model that `aspo eval` is given: its folder, which the Hub may have, and its name in tables."""

from __future__ import annotations

import os
import re
from pathlib import Path

from aspo_megatron.errors import ConfigError
from aspo_megatron.folders import EXPORTS, TRAINED_MODEL
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.hub_name import hub_name

_CACHED = re.compile(r"(^|/)models--[^/]+?--(?P<name>[^/]+)/snapshots/[0-9a-f]{40}/?$")
_GENERIC = re.compile(rf"{TRAINED_MODEL}|{EXPORTS}|step-\d+")


def label_of(model: str) -> str:
    """A model's name in tables: the last part of its path that says something, with those after it.

    A folder of the Hub's cache, `models--ORG--NAME/snapshots/HASH`, is called NAME.
    """
    if cached := _CACHED.search(str(model)):
        return cached["name"]
    parts = [part for part in Path(model).parts if part not in ("/", "..", ".")]
    kept: list[str] = []
    for part in reversed(parts):
        kept.insert(0, part)
        if not _GENERIC.fullmatch(part):
            break
    kept = [part for part in kept if part not in (TRAINED_MODEL, EXPORTS)] or kept
    return "-".join(kept) or "model"


def fetched_folder(model: str) -> Path:
    """The folder of a model; one that is named as on the Hub, `ORG/NAME[@REVISION]`, is fetched into its cache.

    Raises:
        ConfigError: it cannot be fetched.
    """
    path = Path(os.path.expanduser(model))
    on_hub = hub_name(model)
    if os.path.exists(path) or on_hub is None:
        return path
    from huggingface_hub import snapshot_download

    try:
        # The library raises errors of a dozen kinds (network, name, access, disk); all mean the same here.
        return Path(
            snapshot_download(
                on_hub.name,
                revision=on_hub.revision,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"],
            )
        )
    except Exception as error:
        reason = one_line(" ".join(str(error).split())[:300])
        raise ConfigError(f"{one_line(model)}: no such folder, and the Hub does not provide it ({reason})") from error
