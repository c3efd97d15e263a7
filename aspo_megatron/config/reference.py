"""The schema as a list of keys: for docs/configuration.md, for `aspo train --help` and for spelling suggestions.

`python -m aspo_megatron.config.reference docs/configuration.md` writes the reference anew.
"""

from __future__ import annotations

import datetime
import json
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aspo_megatron.config import RunConfig
from aspo_megatron.streams import show

_PLAIN_TYPES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    datetime.date: "day (YYYY-MM-DD)",
    type(None): "null",
    Any: "anything",
}

_HELP_INDENT = 44

OWN_NAME = "<name>"
"""Stands in keys for a name that the user chooses, e.g. `reward.components.<name>.weight`."""

_INTRODUCTION = """\
# Configuration

<!-- Generated: python -m aspo_megatron.config.reference docs/configuration.md -->

A run is described by a YAML file, by `key=value` words on the command line, or by both; the command line wins:

```
aspo train run.yaml optimizer.lr=2e-6 rollout.sampling.max_response_tokens=512
```

The dots of a key are the levels of the file:

```yaml
output_dir: runs/first
model:
  path: models/SmolLM2-135M-Instruct
data:
  train: {kind: jsonl, path: problems.jsonl}
optimizer:
  lr: 1e-6
```

- An unknown key, a missing one or a value of another type ends the command with exit code 2 and one line a key.
- Values are YAML: `true`, `1e-6`, `null`, `[a, b]`. On the command line the value of a text key is taken as it
  stands, so `data.template=Q: {prompt}` needs no quotes but the shell's. Put it in quotes of its own to have escapes
  (`data.template='"Q: {prompt}\\nA:"'`); `null` is null.
- A list replaces the list before it.
- Relative paths are relative to the current directory, not to the YAML file.
- `${model.path}` stands for the value of another key, `${oc.env:HOME}` for an environment variable; write `\\${` for
  the characters themselves.
- A section that is null by default is switched on by setting a key in it; its other keys then have their defaults.
- The resolved configuration is stored in the run folder and loads back to the same configuration.
"""


@dataclass(frozen=True)
class Key:
    """One setting. `default` is None if the key must be given."""

    name: str
    type: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class SectionKeys:
    """One section: its dotted name ("" for the top), what it is, and its settings without those of subsections.

    `is_null` says that the section is null unless a key of it is set, `is_open` that it takes further keys.
    """

    name: str
    model: type[BaseModel]
    keys: tuple[Key, ...]
    is_null: bool
    is_open: bool


def sections() -> list[SectionKeys]:
    """All sections of the configuration, parents before children, in the schema's order."""
    return list(_walk(RunConfig, None, "", False))


def key_names() -> list[str]:
    """Every dotted key, sections included."""
    names = [section.name for section in sections() if section.name]
    return names + [key.name for section in sections() for key in section.keys]


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section model in a field's type, through `| None`; None for a plain setting."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _walk(model: type[BaseModel], default: BaseModel | None, name: str, is_null: bool) -> Iterator[SectionKeys]:
    keys: list[Key] = []
    children: list[SectionKeys] = []
    for field_name, field in model.model_fields.items():
        dotted = f"{name}.{field_name}" if name else field_name
        is_required = field.is_required() and default is None
        value = None if is_required else _default_value(field_name, field, default)
        child = _section_in(field.annotation)
        if child is not None:
            if get_origin(field.annotation) is dict:
                dotted += f".{OWN_NAME}"
            child_default = value if isinstance(value, BaseModel) else None
            children += _walk(child, child_default, dotted, value is None and not is_required)
            continue
        kind = _type_words(Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation)
        keys.append(Key(dotted, kind, None if is_required else _shown(value), field.description or ""))
    yield SectionKeys(name, model, tuple(keys), is_null, model.model_config.get("extra") == "allow")
    yield from children


def _default_value(name: str, field: FieldInfo, default: BaseModel | None) -> Any:
    if default is not None:
        return dict(default)[name]
    return field.get_default(call_default_factory=True, validated_data={})


def _shown(value: Any) -> str:
    """A default as YAML."""
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, default=str) if not isinstance(value, str) else (value or '""')


def _type_words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([_type_words(parts[0]), *_bounds(parts[1:])])
    if origin is Literal:
        return _either([f"`{part}`" for part in parts])
    if origin in (Union, types.UnionType):
        return _either([_type_words(part) for part in parts])
    if origin is tuple:
        return f"list of {_type_words(parts[0])}"
    if origin is dict:
        return "mapping"
    return _PLAIN_TYPES[annotation]


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    texts: list[str] = []
    for bound in metadata:
        match bound:
            case annotated_types.Gt(gt=limit):
                texts.append(f"> {limit:g}")
            case annotated_types.Ge(ge=limit):
                texts.append(f">= {limit:g}")
            case annotated_types.Lt(lt=limit):
                texts.append(f"< {limit:g}")
            case annotated_types.Le(le=limit):
                texts.append(f"<= {limit:g}")
    if texts:
        yield ", ".join(texts)


def reference_text() -> str:
    """docs/configuration.md: an introduction, then one table for each section."""
    parts = [_INTRODUCTION]
    seen: dict[type[BaseModel], str] = {}
    for section in sections():
        title = f"`{section.name}`" if section.name else "Top level"
        lines = [f"## {title}", "", " ".join((section.model.__doc__ or "").split())]
        if section.is_null:
            lines += ["", "Null by default."]
        if section.model in seen:
            lines += ["", f"The same keys as [`{seen[section.model]}`](#{_anchor(seen[section.model])})."]
        elif section.keys:
            lines += ["", "| key | type | default | meaning |", "|---|---|---|---|"]
            lines += [_row(key) for key in section.keys]
        seen.setdefault(section.model, section.name)
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _row(key: Key) -> str:
    default = "**required**" if key.default is None else f"`{key.default}`"
    cells = (f"`{key.name}`", key.type, default, key.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _anchor(section_name: str) -> str:
    """The heading's anchor as Git hosts make it: without the dots."""
    return section_name.replace(".", "")


def help_text(width: int = 100) -> str:
    """A compact list of the keys for the terminal: `key=default  meaning`, at most `width` columns wide."""
    lines: list[str] = []
    seen: dict[type[BaseModel], str] = {}
    for section in sections():
        null = ", null by default" if section.is_null else ""
        if section.model in seen:
            lines.append(f"{section.name}: the keys of {seen[section.model]}{null}")
            continue
        seen[section.model] = section.name
        lines.append(f"{section.name or 'top level'}{null}:")
        for key in section.keys:
            lines += _help_lines(key, width)
        if section.is_open:
            lines.append(f"  {section.name}.<hyperparameter>=...")
    return "\n".join(lines) + "\n"


def _help_lines(key: Key, width: int) -> list[str]:
    head = f"  {key.name}=" + (f"<{key.type.replace('`', '')}>" if key.default is None else key.default)
    meaning = textwrap.wrap(key.meaning.replace("`", ""), width - _HELP_INDENT)
    if len(head) < _HELP_INDENT and meaning:
        return [f"{head:<{_HELP_INDENT}}{meaning[0]}", *(" " * _HELP_INDENT + line for line in meaning[1:])]
    return [head, *(" " * _HELP_INDENT + line for line in meaning)]


def main(argv: list[str]) -> int:
    """Write the reference to the file named, or print the key list if none is."""
    if argv:
        Path(argv[0]).write_text(reference_text(), encoding="utf-8")
    else:
        show(help_text(), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
