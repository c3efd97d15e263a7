"""Checks of what a configuration names: its model, its problems, its folder. Nothing is read whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from aspo_megatron.config import RunConfig
from aspo_megatron.data.sources.files import source_files
from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, ok, unknown, unneeded, wrong
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import counted
from aspo_megatron.models.hub_name import hub_name

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def input_lines(host: Host, needs: Requirements) -> Iterator[Line]:
    """The run's files; nothing without a configuration."""
    if needs.config is None:
        return
    yield from _model(host, needs)
    yield from _problems(host, needs.run)
    yield from _folder(needs.run)


def _model(host: Host, needs: Requirements) -> Iterator[Line]:
    run, path = needs.run, needs.run.model.path
    on_hub = hub_name(str(path))
    if on_hub is None:
        fetch = f"hf download ORGANISATION/{path.name} --local-dir {path}, or model.path=FOLDER"
    else:
        fetch = f"{on_hub.download}, then model.path={on_hub.folder}"
    unreadable = host.unreadable(path, folder=True)
    if unreadable == os.strerror(errno.ENOENT):
        yield wrong("model.path", f"there is no folder {path}", fetch)
    elif unreadable:
        yield wrong("model.path", f"{path}: {unreadable}", "model.path=FOLDER, one that this user may read")
    elif host.torch.problem:
        yield unknown("model.path", needs.family_problem)
    elif needs.family is None:
        yield wrong("model.path", needs.family_problem.removeprefix("model.path: "), fetch)
        return
    elif not any(host.exists(path / name) for name in _TOKENIZERS):
        yield wrong("model.path", f"{path} has no tokenizer ({', '.join(_TOKENIZERS)})", fetch)
    elif problem := _weights(needs):
        yield wrong("model.path", problem, fetch)
    else:
        yield ok("model.path", f"{path}, {needs.family.name}")
    if needs.family is not None:
        try:
            needs.family.check_layout(run.parallel)
        except UserError as error:
            yield wrong("layout", str(error), f"aspo plan{needs.words} --gpus N shows layouts")


def _weights(needs: Requirements) -> str:
    """Why the model's weights cannot be taken, by the headers of its files."""
    from aspo_megatron.checkpoint.usable import usable_weights

    model = needs.run.model
    if model.init == "random":
        return ""
    try:
        usable_weights(model.path)
    except UserError as error:
        return str(error)
    return ""


def _problems(host: Host, run: RunConfig) -> Iterator[Line]:
    for key, source in (("data.train", run.data.train), ("data.heldout", run.data.heldout)):
        if source is None or source.path is None:
            continue
        if source.kind == "huggingface":
            name = str(source.path)
            if host.exists(name):
                yield ok(f"{key}.path", name)
            else:
                yield unneeded(f"{key}.path", f"{name} is downloaded from the Hugging Face Hub by name")
            continue
        try:
            _, files = source_files(source.path, key)
        except UserError as error:
            yield wrong(f"{key}.path", str(error).removeprefix(f"{key}.path: "), f"{key}.path=FILE")
            continue
        unreadable = [f"{file}: {problem}" for file in files if (problem := host.unreadable(file))]
        if unreadable:
            yield wrong(f"{key}.path", unreadable[0], f"{key}.path=FILE, with one JSON object per line")
        else:
            yield ok(f"{key}.path", f"{files[0]}" + f" and {len(files) - 1} more" * (len(files) > 1))


def _folder(run: RunConfig) -> Iterator[Line]:
    from aspo_megatron.launch.run_folder import is_finished, refuse_foreign_folder

    try:
        refuse_foreign_folder(run)
    except UserError as error:
        yield wrong("output_dir", str(error).removeprefix("output_dir: "), f"output_dir={run.output_dir}-2")
        return
    except OSError as error:
        found = f"{error.filename or run.output_dir}: {error.strerror}"
        yield wrong("output_dir", found, "output_dir=FOLDER, one that this user may write to")
        return
    if is_finished(run):
        yield ok("output_dir", f"{run.output_dir} has completed its {counted(run.train.steps, 'step')}")
    else:
        there = "is resumed" if run.output_dir.exists() else "is new"
        yield ok("output_dir", f"{run.output_dir} {there}")
