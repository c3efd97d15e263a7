"""What is fuzzed: which of the good folder's files are changed and how, and who reads them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz import readers
from benchmarks.fuzz.mutations import (
    Mutation,
    blind,
    json_lines,
    json_tree,
    packed_tests,
    pickled,
    replaced,
    safetensors,
    template,
    whole,
    yaml_tree,
)
from benchmarks.fuzz.states import renew_manifests, resume

_REPLACED = 0.03
_RENEWED = 0.8
"""Shares of cases in which a file is replaced by something else, and in which manifests are made to fit."""


@dataclass(frozen=True)
class Subject:
    """A kind of foreign file.

    `needs`: what of the good folder a case has. `mutations`: of the files that match a pattern, by it. `read`: the
    reader, called with the case's folder.
    """

    name: str
    needs: tuple[str, ...]
    mutations: Mapping[str, tuple[Mutation, ...]]
    read: Callable[[Path], None]

    def make_case(self, good: Path, target: Path, rng: random.Random) -> list[str]:
        """Copy what is needed and change one to three of the files; their names."""
        self.copy(good, target)
        changed: list[str] = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            pattern = rng.choice(list(self.mutations))
            # One that was replaced is let be: what a link leads to is not to be written.
            files = sorted(path for path in target.glob(pattern) if path.is_file() and not path.is_symlink())
            if not files:
                continue
            path = rng.choice(files)
            if rng.random() < _REPLACED:
                replaced(path, rng)
            else:
                path.write_bytes(rng.choice(self.mutations[pattern])(path.read_bytes(), rng))
            changed.append(str(path.relative_to(target)))
        if rng.random() < _RENEWED:
            renew_manifests(target)
        return changed

    def copy(self, good: Path, target: Path) -> None:
        """The good case."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in self.needs:
            copy = shutil.copytree if (good / name).is_dir() else shutil.copyfile
            copy(good / name, target / name)


_JSON = (json_tree, json_tree, blind, whole)
_LINES = (json_lines, json_lines, blind, whole)
_TENSORS = (safetensors, safetensors, blind, whole)
_CHECKPOINT = {
    ".metadata": (pickled, pickled, blind, whole),
    "*.distcp": (blind, whole),
    "common.pt": (blind, whole),
    "*.json": _JSON,
    "hf/*.json": _JSON,
}
_STATE = {
    **{f"run/checkpoints/step-*/{pattern}": mutations for pattern, mutations in _CHECKPOINT.items()},
    "run/checkpoints/step-*/*.safetensors": (safetensors, blind),
}
_RESUMED = {
    **_STATE,
    "run/checkpoints/step-*/config.yaml": (yaml_tree, blind),
    "run/checkpoints/latest": (blind, whole),
    "run/checkpoints/start/*.json": _JSON,
    "run/checkpoints/start/.metadata": (pickled, blind),
    "run/checkpoints/start/*.distcp": (blind, whole),
}
_CONVERTED = {
    **{f"converted/{pattern}": mutations for pattern, mutations in _CHECKPOINT.items()},
    "converted/extra.safetensors": _TENSORS,
    "converted/headers/*.safetensors": _TENSORS,
    "converted/headers/*.json": _JSON,
}
_FOLDER = {
    "model/tokenizer.json": _JSON,
    "model/tokenizer_config.json": _JSON,
    "model/special_tokens_map.json": _JSON,
    "model/added_tokens.json": _JSON,
    "model/generation_config.json": _JSON,
    "model/config.json": (json_tree,),
    "model/chat_template.jinja": (template, template, blind, whole),
    "problems.jsonl": (json_lines,),
}
SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "config.json",
            ("model", "problems.jsonl"),
            {"model/config.json": (json_tree, json_tree, json_tree, blind, whole)},
            readers.model,
        ),
        Subject("model folder", ("model", "problems.jsonl"), _FOLDER, readers.inputs),
        Subject(
            "weights",
            ("model",),
            {"model/*.safetensors": _TENSORS, "model/model.safetensors.index.json": _JSON},
            readers.weights,
        ),
        Subject("state", ("run",), _STATE, readers.state),
        Subject("resumed state", ("run",), _RESUMED, lambda folder: resume(folder / "run")),
        Subject("converted checkpoint", ("converted", "problems.jsonl"), _CONVERTED, readers.converted),
        Subject("problems", ("problems.jsonl",), {"problems.jsonl": _LINES}, readers.problems),
        Subject("packed tests", ("problems.jsonl",), {"problems.jsonl": (packed_tests,)}, readers.problems),
        Subject("recipe", ("run.yaml",), {"run.yaml": (yaml_tree, yaml_tree, blind, whole)}, readers.settings),
        Subject(
            "run folder",
            ("run", "other"),
            {
                "run/metrics.jsonl": _LINES,
                "run/samples.jsonl": _LINES,
                "run/eval/*.jsonl": _LINES,
                "run/config.yaml": (yaml_tree, blind, whole),
            },
            readers.views,
        ),
        Subject(
            "run that goes on",
            ("run",),
            {
                "run/metrics.jsonl": _LINES,
                "run/samples.jsonl": _LINES,
                "run/config.yaml": (yaml_tree, blind, whole),
                "run/summary.json": _JSON,
                "run/tensorboard/*": (blind, whole),
            },
            readers.gone_on_with,
        ),
        Subject(
            "evaluation",
            ("evaluation",),
            {"evaluation/*.jsonl": _LINES, "evaluation/*.json": _JSON},
            readers.evaluation,
        ),
    )
}
