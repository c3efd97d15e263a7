"""Reads a configuration from YAML and dotted overrides, and writes it back. Imports no torch, so mistakes show at once.

Values are checked strictly: `true` is no number and `"3"` no whole number. Relative paths are left as they are, which
makes them relative to the current directory.
"""

from __future__ import annotations

import difflib
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aspo_megatron.config import RunConfig
from aspo_megatron.config.given import given_tree, without_references
from aspo_megatron.config.interpolation import refuse_endless, unread
from aspo_megatron.config.reference import OWN_NAME, key_names, sections
from aspo_megatron.config.wording import reason_in_words
from aspo_megatron.errors import ConfigError
from aspo_megatron.files import write_whole
from aspo_megatron.folders import CHECKPOINTS, RUN_CONFIG, RUN_LOCK, model_folder
from aspo_megatron.foreign_text import one_line, placed
from aspo_megatron.reading import read_bytes
from aspo_megatron.yaml_text import read_yaml, yaml_errors


class DamagedConfigError(ConfigError):
    """The configuration in a run folder is not what the run has written there."""


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a YAML file with `key=value` overrides on top.

    A `model.path` that names a megatron checkpoint becomes the Hugging Face folder inside it.

    Args:
        path: YAML file; None if all comes from the overrides.
        overrides: e.g. `optimizer.lr=2e-6`; the value is YAML, except that text keys take it as it stands.

    Raises:
        ConfigError: one line for each wrong key, missing key or wrong value, or the file's problem and line.
    """
    runs_own = path is not None and path.name == RUN_CONFIG and os.path.isfile(path.parent / RUN_LOCK)
    try:
        config = _load(path, overrides)
    except ConfigError as error:
        gone = path is not None and path.name == RUN_CONFIG and not os.path.lexists(path)
        if path is not None and gone and (missing := missing_config(path)):
            raise missing from error
        if path is None or not runs_own:
            raise
        if overrides:
            load_config(path)  # raises if the file is wrong, too, and not the overrides alone
            raise
        raise damaged_config(path, str(error).splitlines()[0]) from error
    if path is not None and runs_own:
        refuse_cut(path)
    return config


def config_of(given: Mapping[str, Any] | RunConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """As `load_config`, of settings that are given in Python.

    Args:
        given: a whole configuration, or the keys of a YAML file as mappings.
        overrides: see there.

    Raises:
        ConfigError: see there.
    """
    tree = given_tree(given)
    refuse_endless(tree)
    return _load(tree, overrides)


def _load(source: Path | dict[str, Any] | None, overrides: Sequence[str]) -> RunConfig:
    path = source if isinstance(source, Path) else None
    try:
        tree = OmegaConf.merge(_read_yaml(path) if path else source or {}, _read_overrides(overrides))
        refuse_endless(OmegaConf.to_container(tree))
        data = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except GrammarParseError as error:
        raise unread(error.full_key or "") from error
    except OmegaConfBaseException as error:
        key = f"{one_line(error.full_key)}: " if error.full_key else ""
        raise ConfigError(f"{key}{one_line(str(error).splitlines()[0])}") from error
    except RecursionError as error:
        raise ConfigError(f"{'settings' if path is None else one_line(path)}: references that never end") from error
    config = _validated(data)
    model = config.model.model_copy(update={"path": model_folder(config.model.path)})
    return config.model_copy(update={"model": model})


def damaged_config(path: Path, reason: str) -> DamagedConfigError:
    """The error for a configuration in a run folder that cannot be read; names a copy of it, if there is one."""
    copy = _copy_in_states(path)
    where = one_line(path.parent)
    cure = f"copy {one_line(copy)} over it" if copy else f"remove {where}, or choose another output_dir"
    return DamagedConfigError(f"{one_line(path)}: damaged, or written by another version ({reason}); {cure}")


def missing_config(path: Path) -> DamagedConfigError | None:
    """The error for a run folder whose configuration is gone; None if no saved state has a copy of it."""
    copy = _copy_in_states(path)
    if copy is None:
        return None
    to_do = f"copy {one_line(copy)} to this place to resume the run"
    return DamagedConfigError(f"{one_line(path)}: missing; {to_do}")


def _copy_in_states(path: Path) -> Path | None:
    """The copy that the newest saved state has of the configuration in a run folder."""
    return max(path.parent.glob(f"{CHECKPOINTS}/step-*[0-9]/{RUN_CONFIG}"), default=None)


def refuse_cut(path: Path) -> None:
    """Refuse the configuration in a run folder whose end is missing, which would be taken for defaults.

    Raises:
        DamagedConfigError: it does not end as `save_config` ends it, with a whole line of the last section.
    """
    content = read_bytes(path, ConfigError)
    written = re.findall(rb"^(\w+):", content, flags=re.MULTILINE)
    if not content.endswith(b"\n") or written[-1:] != [list(RunConfig.model_fields)[-1].encode()]:
        raise damaged_config(path, "its end is missing")


def save_config(config: RunConfig, path: Path) -> None:
    """Write every key, defaults included, as YAML that `load_config` turns into an equal configuration.

    Raises:
        UserError: the file cannot be written.
    """
    write_whole(path, OmegaConf.to_yaml(OmegaConf.create(without_references(config.model_dump(mode="json")))))


def _read_yaml(path: Path) -> DictConfig:
    name = one_line(path)
    if os.path.isdir(path):
        raise ConfigError(f"{name}: Is a directory; name a file")
    try:
        # A file that is one text is refused here: OmegaConf would parse that text as YAML again.
        text = read_yaml(path, ConfigError, keys_only=True)
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ConfigError(f"{placed(path)}: no such configuration file") from error
        raise
    with yaml_errors(path, ConfigError):
        tree = OmegaConf.load(io.StringIO(text))
    assert isinstance(tree, DictConfig)
    refuse_endless(OmegaConf.to_container(tree))  # before merging, which may resolve some
    return tree


def _read_overrides(overrides: Sequence[str]) -> DictConfig:
    types = {key.name: key.type for section in sections() for key in section.keys}
    tree = DictConfig({})
    for override in overrides:
        if override.encode(errors="replace").decode() != override:
            raise ConfigError(f"{override!a}: not UTF-8, as all text has to be")
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{one_line(override)}: an override is written key=value, e.g. optimizer.lr=2e-6")
        if not all(key.split(".")) or key != key.strip():
            raise ConfigError(f"{one_line(override)}: {key!r} is not a key; keys are names joined by single dots")
        is_list = "list" in types.get(key, "") and value.startswith("[") and value.endswith("]")
        is_text = types.get(key, "").startswith(("text", "path")) and not is_list
        if is_text and value != "null" and not value.startswith(("'", '"')):
            value = json.dumps(value, ensure_ascii=False)  # a quoted YAML string
        try:
            tree.merge_with_dotlist([f"{key}={value}"])
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{one_line(override)}: the value is not YAML; put it in quotes") from error
    return tree


def _validated(data: Any) -> RunConfig:
    unfit = [f"{key}: {reason}" for key, value in _leaves(data) if (reason := _unfit(value))]
    if unfit:
        raise ConfigError(*unfit)
    try:
        # JSON, because there pydantic's strict mode takes lists for tuples and strings for paths.
        return RunConfig.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(*_lines(error.errors())) from error
    except TypeError as error:
        raise ConfigError(f"keys have to be text: {error}") from error


def _unfit(value: Any) -> str:
    """What is wrong with a value, whatever its key; empty if nothing is."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    if isinstance(value, int) and value.bit_length() > 1024:  # Python shows none of more than 4,300 digits
        return "has more digits than any number that is meant"
    if isinstance(value, str) and re.search(r"[\0\ud800-\udfff]", value):  # no file can be named so
        return "holds a zero byte or half of a surrogate pair"
    return ""


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values below a tree of dicts and lists."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield prefix, node
        return
    for name, child in children:
        yield from _leaves(child, f"{prefix}.{name}" if prefix else str(name))


def _lines(errors: Sequence[ErrorDetails]) -> Iterator[str]:
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    flat = [".".join(map(str, place)) for place in unknown if "." in str(place[-1])]
    if flat:  # what else is wrong may be so for want of these
        yield from (f"{one_line(key)}: a key with a dot; in a file its dots are levels: {_nested(key)}" for key in flat)
        return
    for error in errors:
        key = ".".join(str(part) for part in error["loc"])
        known, own = _schema_key(key)
        if error["type"] == "extra_forbidden":
            yield f"{key}: unknown key; {_suggestion(known).replace(OWN_NAME, own)}"
        elif error["type"] == "missing":
            for name, meaning in _required(known):
                yield f"{name}: required, but not given. {meaning}".replace(OWN_NAME, own)
        else:
            yield f"{key}: {reason_in_words(error)}" if key else reason_in_words(error)


def _nested(key: str) -> str:
    """A dotted key as the levels of a file."""
    first, _, rest = key.partition(".")
    return f"{one_line(first)}: {f'{{{_nested(rest)}}}' if rest else '...'}"


def _schema_key(key: str) -> tuple[str, str]:
    """A key as the schema has it, and the name of the user's own in it, if any."""
    for section in sections():
        if section.name.endswith(OWN_NAME) and key.startswith(section.name.removesuffix(OWN_NAME)):
            own, dot, rest = key.removeprefix(section.name.removesuffix(OWN_NAME)).partition(".")
            return f"{section.name}{dot}{rest}", own
    return key, ""


def _required(key: str) -> Iterator[tuple[str, str]]:
    """The settings without default at or below a key, and what they mean."""
    for section in sections():
        if section.is_null and section.name != key.rpartition(".")[0]:
            continue
        for setting in section.keys:
            if setting.default is None and (setting.name == key or f"{setting.name}.".startswith(f"{key}.")):
                yield setting.name, f"{setting.meaning} Set it in the file, or with {setting.name}=..."


def _suggestion(key: str) -> str:
    """The key of this name below the same section or elsewhere, else the nearest of the section; else what there is."""
    parent, _, name = key.rpartition(".")
    everywhere = key_names()
    siblings = [candidate for candidate in everywhere if candidate.rpartition(".")[0] == parent]
    same_name = [candidate for candidate in everywhere if candidate.rpartition(".")[2] == name]
    found = [candidate for candidate in same_name if candidate.startswith(f"{parent}.")]
    if not found:
        near = difflib.get_close_matches(name, [sibling.rpartition(".")[2] for sibling in siblings], n=1)
        found = same_name or [f"{parent}.{match}" if parent else match for match in near]
    if not found and not parent:
        found = difflib.get_close_matches(key, everywhere, n=1)
    if found:
        return f"did you mean {' or '.join(found)}?"
    names = dict.fromkeys(sibling.rpartition(".")[2] for sibling in siblings)
    return f"{parent or 'the top level'} has {', '.join(names)}"
