"""The settings that a run's folder has kept, for those who read its metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aspo_megatron.errors import UserError
from aspo_megatron.folders import RUN_CONFIG
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import own_file
from aspo_megatron.yaml_text import read_yaml, yaml_errors


def saved_settings(folder: Path) -> Mapping[str, Any]:
    """The tree of settings in a run's config.yaml; empty if there is no such file.

    Raises:
        UserError: it is not YAML, no configuration, or a link out of the folder.
    """
    path = own_file(folder, RUN_CONFIG)
    if not os.path.lexists(path):
        return {}
    try:
        with yaml_errors(path):
            tree = yaml.safe_load(read_yaml(path))
    except UserError as error:
        raise UserError(f"{one_line(path)}: cannot be read as YAML: {error}") from error
    if not isinstance(tree, Mapping):
        raise UserError(f"{one_line(path)}: not a run's configuration; move it away to draw without it")
    return tree
