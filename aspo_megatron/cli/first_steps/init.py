"""`aspo init`: a run file to edit, filled in from the model and the problems that there are."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aspo_megatron.cli.first_steps.run_file import Answers, run_file
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.files import plain_errors
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show

if TYPE_CHECKING:
    from aspo_megatron.config import SourceConfig

_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
_REWARDS = ("math", "code", "choice")
_COUNTED = 1000
"""Problems that are read."""


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The file to write.")] = Path("run.yaml"),
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Hugging Face folder, or a name on the Hub, ORG/NAME.")
    ] = _MODEL,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your problems: JSONL, JSON, CSV or Parquet. [default: problems.jsonl]"),
    ] = None,
    prompt_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="Field with the question; by default it is guessed.")
    ] = None,
    answer_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="Field with the answer; by default it is guessed.")
    ] = None,
    reward: Annotated[
        str, typer.Option(metavar="KIND", help="math, code, choice, or your own module:function.")
    ] = "math",
    loss: Annotated[str, typer.Option(metavar="NAME", help="See `aspo losses`.")] = "aspo",
    output_dir: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The run folder. [default: runs/mine]")
    ] = None,
) -> None:
    """Write a commented run file to edit: model, problems, reward, loss, steps. Nothing is overwritten.

    With --data, the fields that hold question and answer are found in the file and filled in.

    \b
      aspo init
      aspo init --model Qwen/Qwen3-0.6B --data problems.csv
      aspo init mine.yaml --model models/Qwen3-0.6B --data data/train.parquet --reward my_rewards:score
    """
    if os.path.lexists(file):
        raise UserError(f"{one_line(file)}: already exists; name another file: aspo init FILE")
    if reward not in _REWARDS and ":" not in reward:
        raise ConfigError(f"--reward {one_line(reward)}: must be {', '.join(_REWARDS)} or module:function")
    _check_loss(loss)
    answers = _answers(file, model, data, (prompt_field, answer_field), reward, loss, output_dir)
    text = run_file(answers, one_line(shlex.quote(str(file))))
    _check(text)
    with plain_errors(file), file.open("x", encoding="utf-8") as opened:
        opened.write(text)
    show(f"{one_line(file)}: written. Next:")
    for command in _next(answers, file):
        show(f"  {one_line(command)}")


def _answers(
    file: Path,
    model: str,
    data: Path | None,
    names: tuple[str | None, str | None],
    reward: str,
    loss: str,
    output_dir: str | None,
) -> Answers:
    """What the file is made of, as far as it can be told."""
    from aspo_megatron.models.hub_name import hub_name

    on_hub = hub_name(model)
    folder = model if on_hub is None else on_hub.folder
    unknown = f"hf download ORGANISATION/{Path(model).name} --local-dir {model}"
    guessed: tuple[str, str | None, str, int | None] = names[0] or "prompt", names[1] or "answer", "", None
    prompt, answer, columns, count = guessed if data is None else _fields(data, names, reward)
    return Answers(
        output_dir=output_dir or ("runs/mine" if file.stem == "run" else f"runs/{file.stem}"),
        model=folder,
        download=unknown if on_hub is None else on_hub.download,
        chat=_has_chat_template(Path(folder)),
        data=str(data or "problems.jsonl"),
        prompt_field=prompt,
        answer_field=answer,
        columns=columns,
        problems=count,
        reward=reward,
        loss=loss,
    )


def _fields(data: Path, names: tuple[str | None, str | None], reward: str) -> tuple[str, str | None, str, int | None]:
    """Of a file of problems: the fields with question and answer, all fields, and how many problems, if they are few.

    Raises:
        ConfigError: the file cannot be read, or the fields cannot be told by their names.
    """
    from aspo_megatron.config import SourceConfig
    from aspo_megatron.data.sources.fields import ANSWERS, PROMPTS, likely, named_in
    from aspo_megatron.data.sources.read import first_row, read_source

    source = SourceConfig(kind="files", path=str(data), limit=_COUNTED)
    row = first_row(source, "--data")
    if not row:
        _refuse_unread(data, source)
    prompt = names[0] or likely(row, PROMPTS, besides=names[1])
    if prompt is None:
        raise ConfigError(
            f"--data {one_line(data)}: which field is the question? It has: {named_in(row)}; give --prompt-field NAME"
        )
    answer = names[1] or likely(row, ANSWERS, besides=prompt)
    if answer is None and reward in ("math", "choice"):
        raise ConfigError(
            f"--data {one_line(data)}: which field is the answer? It has: {named_in(row)}; give "
            "--answer-field NAME, or a reward that needs none: --reward module:function"
        )
    chosen = source.model_copy(update={"prompt_field": prompt, "answer_field": answer})
    count = len(read_source(chosen, "--data", on_bad="drop"))
    return prompt, answer, named_in(row), count if count < _COUNTED else None


def _refuse_unread(data: Path, source: SourceConfig) -> None:
    """Say why no row of a file can be read; one whose name does not say its format is read as JSON."""
    from aspo_megatron.data.sources.files import has_known_suffix
    from aspo_megatron.data.sources.read import read_source

    try:
        read_source(source, "--data")
    except ConfigError as error:
        if has_known_suffix(data):
            raise
        raise ConfigError(f"{error}; of a table, the name must end in .csv, .tsv or .parquet") from error


def _has_chat_template(folder: Path) -> bool:
    """Whether a model folder says so; one that is not there yet is taken for one of a chat model."""
    from aspo_megatron.reading import read_json

    if not folder.is_dir() or (folder / "chat_template.jinja").exists():
        return True
    if (folder / "additional_chat_templates").is_dir():
        return True
    try:
        settings = read_json(folder / "tokenizer_config.json")
    except UserError:
        return True
    return not isinstance(settings, Mapping) or settings.get("chat_template") is not None


def _check_loss(name: str) -> None:
    """Refuse a name that no loss has. One of the user's own may not be written yet."""
    if name != "aspo" and ":" not in name:
        from aspo_megatron import losses  # imports torch

        losses.get(name)


def _check(text: str) -> None:
    """See that the file can be read as it is.

    Raises:
        ConfigError: a name in it cannot stand in a configuration; names the key.
    """
    import yaml

    from aspo_megatron.config.io import config_of

    settings: dict[str, Any] = yaml.safe_load(text)
    config_of(settings)


def _next(answers: Answers, file: Path) -> list[str]:
    """What to run, as far as it is needed."""
    commands = [] if os.path.isdir(answers.model) else [answers.download]
    name = shlex.quote(str(file))
    commands += [f"aspo {command} {name}" for command in ("doctor", "try-reward", "train")]
    return commands
