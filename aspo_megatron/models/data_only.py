"""A model folder is data: one that needs code of its own, or names code elsewhere, is refused before it is loaded.

transformers imports Python from a folder, or from the Hub, where its files say so; and it loads other files than those
that were checked. Everything here is refused by name, whatever the installed version would do with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.folder_files import is_plain_name
from aspo_megatron.reading import read_json

_IMPLEMENTATIONS = {
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
    "batched_mm",
    "grouped_mm",
}
"""What transformers has of attention and experts by itself; other names are those of repositories with kernels."""

_IMPLEMENTATION_KEYS = (
    "attn_implementation",
    "attn_implementation_internal",
    "experts_implementation",
    "experts_implementation_internal",
)
_ELSEWHERE = {
    "auto_map": "needs code of its own",
    "configuration_files": "is in another file, by its configuration_files",
    "transformers_weights": "names its weights' file itself, by transformers_weights",
    "per_layer_config": "has layers that differ from each other, by per_layer_config",
    "attribute_map": "renames its fields, by attribute_map",
    "custom_generate": "generates by code of its own",
}
_ADAPTER = "adapter_config.json"
_CODE = (".py", ".pyc", ".so")
_DEEPEST = 100
"""Nesting of config.json that nobody needs: three is usual."""
_LEFT_BEHIND = "special_tokens_map_file"
"""Older tokenizers say where they were trained; nobody opens that."""


def refuse_code(folder: Path, config: dict[str, Any]) -> None:
    """See that a model folder with this config.json is data.

    Raises:
        CheckpointError: names the file and the field.
    """
    where = one_line(folder / "config.json")
    for key, says in _ELSEWHERE.items():
        if config.get(key) and not (key == "auto_map" and _known_here(config)):
            raise CheckpointError(f"{where}: the model {says}; such models are not supported")
    for key, value in _items(config, where):
        if key.lstrip("_").endswith(_IMPLEMENTATION_KEYS):
            for name in value.values() if isinstance(value, dict) else (value,):
                if name is not None and not (isinstance(name, str) and name in _IMPLEMENTATIONS):
                    raise CheckpointError(
                        f"{where}: {one_line(key)} is {one_line(repr(name))[:80]}, which is code from a repository; "
                        "remove the field"
                    )
    refuse_code_files(folder)


def refuse_code_files(folder: Path) -> None:
    """See that a folder has no Python files, and is no adapter of another model.

    Raises:
        CheckpointError: names the file.
    """
    for path in sorted(folder.iterdir()):
        if path.name == "custom_generate" or (path.suffix in _CODE and not path.name.startswith(".")):
            raise CheckpointError(
                f"{one_line(path)}: code; a model folder is data, take it out if the model needs none"
            )
    if (folder / _ADAPTER).exists():
        raise CheckpointError(
            f"{one_line(folder / _ADAPTER)}: an adapter of another model; merge it into the model, or take it out"
        )


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json, which may be missing.

    Raises:
        CheckpointError: it cannot be read, or names files that lie elsewhere; names the field.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    where = one_line(path)
    config = read_json(path, CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{where}: not a JSON object")
    for key, value in config.items():
        if key.endswith("_file") and value is not None and not _harmless(key, value):
            raise CheckpointError(f"{where}: {one_line(key)} names a file elsewhere; take the field out")
    versions = config.get("fast_tokenizer_files") or []
    if not isinstance(versions, list) or not all(is_plain_name(name) for name in versions):
        raise CheckpointError(f"{where}: fast_tokenizer_files is not a list of files' names")
    if config.get("init_inputs"):
        raise CheckpointError(f"{where}: init_inputs is not supported; take the field out")
    return config


def _known_here(config: dict[str, Any]) -> bool:
    """Whether the classes of `auto_map` are transformers' own, which it then takes instead of the folder's."""
    kind, named = config.get("model_type"), config["auto_map"]
    if not isinstance(kind, str) or not isinstance(named, dict):
        return False
    prefix = "".join(word.capitalize() for word in kind.split("_"))
    own = re.compile(rf"\w+\.{re.escape(prefix)}(Config|Model|PreTrainedModel|For\w+)")
    return all(isinstance(name, str) and own.fullmatch(name) for name in named.values())


def _harmless(key: str, value: object) -> bool:
    """Whether what tokenizer_config.json gives as a file is one of the folder, or one that is not there (any more)."""
    if key == _LEFT_BEHIND:
        return True
    if key == "gguf_file" or not isinstance(value, str):
        return False
    try:
        return is_plain_name(value) or not Path(value).exists()
    except (OSError, ValueError):
        return False


def _items(config: dict[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """All keys with their values, also those of objects inside."""
    level: list[Any] = [config]
    for _ in range(_DEEPEST):
        for part in level:
            if isinstance(part, dict):
                yield from part.items()
        level = [
            inner
            for part in level
            for inner in (part.values() if isinstance(part, dict) else part)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise CheckpointError(f"{where}: JSON that is nested too deeply")
