"""Saved states: read as a run that goes on reads them, and their manifests made anew as an attacker would."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from aspo_megatron.checkpoint.checked_json import with_digest
from aspo_megatron.checkpoint.torch_dist.manifest import file_entry
from aspo_megatron.folders import MANIFEST


def renew_manifests(folder: Path) -> None:
    """Have the manifests agree with the files: no checksum is a secret."""
    for state in sorted(path.parent for path in folder.rglob(MANIFEST) if _is_plain(path)):
        try:
            content = json.loads((state / MANIFEST).read_bytes())
            for name in content["files"]:
                if _is_plain(state / name):  # one that is changed may name a device, which has no end
                    content["files"][name] = asdict(file_entry(state / name))
        except (ValueError, RecursionError, OSError, KeyError, TypeError, AttributeError):
            continue  # the manifest itself was spoiled
        content.pop("digest", None)
        (state / MANIFEST).write_bytes(with_digest(content))


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


@cache
def _model() -> tuple[Any, Any, Any]:
    """A model in one process, its optimizer and its configuration, of the first run that is read."""
    from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
    from aspo_megatron.config.io import load_config
    from aspo_megatron.models.family import read_family
    from aspo_megatron.parallel.grid.topology import process_grid
    from aspo_megatron.parallel.model.policy import build_model
    from aspo_megatron.parallel.update.optimizer import Optimizer

    run = Path.cwd() / "run"
    config = load_config(run / "config.yaml")
    topology = ExitStack().enter_context(process_grid(config.parallel, config.platform, config.seed))
    with SafetensorsFolder(run / "hf") as tensors:
        model = build_model(read_family(run / "hf"), topology, config.model, tensors)
    return model, Optimizer(model, config.optimizer, config.train.steps, config.parallel), config


def resume(run: Path) -> None:
    """Load the latest state of a run, as a run of one process does."""
    from aspo_megatron.checkpoint.fingerprint import Fingerprint
    from aspo_megatron.checkpoint.states.folders import tidy
    from aspo_megatron.checkpoint.states.run_states import find_state, load_latest
    from aspo_megatron.checkpoint.states.trainer_state import changed_weights, read_state
    from aspo_megatron.checkpoint.states.warmup_weights import load_start

    model, optimizer, config = _model()
    config = config.model_copy(update={"output_dir": run})
    said: list[str] = []
    tidy(run, said.append)
    state = find_state(config, model.family, said.append)
    if not load_start(config, model.family, model, "", said.append) and state is not None:
        changed_weights(config, read_state(state), Fingerprint())
    if state is not None:
        load_latest(state, config, model.family, model, optimizer, said.append)
