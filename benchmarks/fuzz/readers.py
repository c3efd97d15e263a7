"""Who reads foreign files: what the commands call, on the files of a case's folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from aspo_megatron.errors import UserError
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile
from aspo_megatron.foreign_text import safe

if TYPE_CHECKING:
    from rich.console import Console

    from aspo_megatron.config import RunConfig

DESCRIPTION = EvaluationDescription("aime24", "small", 4, 2, (1, 2), {"samples": 2, "problems": "4 (abc)", "seed": 1})
RESPONSES = "aime24.jsonl"


def model(folder: Path) -> None:
    """A model's config.json as `aspo plan` reads it, and what transformers is told."""
    from aspo_megatron.config import ParallelConfig
    from aspo_megatron.models.family import read_family
    from aspo_megatron.models.hf_config import inverse_frequencies
    from aspo_megatron.plan.as_json import plan_json
    from aspo_megatron.plan.report import make_plan
    from aspo_megatron.plan.text import plan_text

    family = read_family(folder / "model")
    family.check_layout(ParallelConfig(tp=2, sequence_parallel=True))
    plan = make_plan(_config(folder), family)
    _see_plain(plan_text(plan))
    json.dumps(plan_json(plan))
    inverse_frequencies(family)


def inputs(folder: Path) -> None:
    """All that `aspo train` and `aspo eval` check before they start anything."""
    from aspo_megatron.inputs.read import read_inputs

    read_inputs(_config(folder, "data.format=chat"))


def problems(folder: Path) -> None:
    """Problems with tests, as a run with the reward `code` reads them."""
    from aspo_megatron.config import SourceConfig
    from aspo_megatron.data.records import Records
    from aspo_megatron.data.sources.read import read_source

    for answer in ("answer", None):
        source = SourceConfig(
            kind="jsonl", path=str(folder / "problems.jsonl"), prompt_field="question", answer_field=answer
        )
        records: Records = read_source(source, "data.train")
        records.take_identities()
        _check_tests(records)


def _check_tests(records: object) -> None:
    from aspo_megatron.data.records import Records
    from aspo_megatron.data.samples import Problem
    from aspo_megatron.rewards.programs.tests import read_tests

    assert isinstance(records, Records)
    for number in range(len(records)):
        record = records[number]
        try:
            read_tests(Problem(record.id, record.question, (1,), record.answer, record.metadata))
        except ValueError as error:  # which `scorers.check` makes a ConfigError of
            raise UserError(str(error)) from error


def weights(folder: Path) -> None:
    """The weights of a model folder, as a run and `aspo convert` read them."""
    from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron
    from aspo_megatron.checkpoint.fingerprint import weights_fingerprint
    from aspo_megatron.checkpoint.finite import FiniteTensors
    from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
    from aspo_megatron.checkpoint.usable import usable_weights
    from aspo_megatron.models.family import read_family

    source = folder / "model"
    usable_weights(source)
    weights_fingerprint(source)
    with SafetensorsFolder(source) as tensors:
        finite = FiniteTensors(tensors)
        for name in tensors.names():
            finite.read_whole(name)
    with TemporaryDirectory(dir=folder) as out:
        layout = converter_layout(read_family(source), tp=2)
        hf_to_megatron(source, Path(out) / "out", layout, None, lambda count: None)


def converted(folder: Path) -> None:
    """A converted checkpoint, as `aspo convert` and a run that starts from it read it."""
    _to_hf(folder / "converted", folder)
    _config_weights(folder, folder / "converted" / "hf")


def state(folder: Path) -> None:
    """A saved state as `aspo convert` reads it."""
    for one in sorted((folder / "run" / "checkpoints").glob("step-*")):
        _to_hf(one, folder)


def _to_hf(source: Path, folder: Path) -> None:
    from aspo_megatron.checkpoint.convert import bytes_on_disk, megatron_to_hf

    bytes_on_disk(source)
    with TemporaryDirectory(dir=folder) as out:
        megatron_to_hf(source, Path(out) / "hf", None, lambda count: None)


def _config_weights(folder: Path, model: Path) -> None:
    from aspo_megatron.inputs.read import read_inputs

    read_inputs(_config(folder, f"model.path={model}"))


def settings(folder: Path) -> None:
    """A recipe, as all commands read it, and as a batch script."""
    from aspo_megatron.slurm.job import make_job, read_template, render

    job = make_job(folder / "run.yaml", (), (), None, 1)
    _see_plain(render(job, read_template()))


def views(folder: Path) -> None:
    """What `aspo plot` and `aspo samples` show of others' runs."""
    from aspo_megatron.plots.curves import draw_figure, draw_pictures
    from aspo_megatron.plots.page import plot_page
    from aspo_megatron.plots.series import read_series
    from aspo_megatron.plots.text import print_figure

    run = folder / "run"
    _samples(run)
    for path in sorted((run / "eval").glob("*.jsonl")):
        _samples(path)
    series = read_series([run], {"both": [run, folder / "other"]})
    shown = _console()
    print_figure(series, shown)
    _see_plain(_text(shown))
    draw_figure(series)
    _see_plain(plot_page(series, draw_pictures(series)))


def _samples(run: Path) -> None:
    from aspo_megatron.plots.sample_file import read_samples
    from aspo_megatron.plots.sample_page import samples_page
    from aspo_megatron.plots.sample_view import print_samples

    told: list[str] = []
    selection = read_samples(run, warn=told.append)
    shown = _console()
    print_samples(selection, shown)
    _see_plain(_text(shown) + samples_page("Responses", selection) + "".join(told))


def gone_on_with(folder: Path) -> None:
    """What a run reads of its own folder before it goes on in it: settings, summary, what was recorded."""
    from aspo_megatron.config.io import load_config
    from aspo_megatron.launch.run_folder import claimed, is_finished
    from aspo_megatron.metrics.record import Recorder

    run = folder / "run"
    config = load_config(Path("run") / "config.yaml", [f"output_dir={run}"])
    told: list[str] = []
    is_finished(config)
    with claimed(config), Recorder(run, True, 1, None, told.append) as recorder:
        recorder.log(2, {"reward_mean": 0.5})
    _see_plain("".join(told))


def evaluation(folder: Path) -> None:
    """What `aspo eval` and `aspo table` read of an evaluation."""
    from aspo_megatron.evaluation.table import comparison, differences, read_results

    path = folder / "evaluation" / RESPONSES
    results = read_results([str(path), f"other={path}"])
    _see_plain(comparison(results, ["1.5B"]).markdown() + comparison(results, [], passed=True).markdown())
    _see_plain(differences(results, "other").markdown())
    with ResultFile(path, DESCRIPTION) as file:
        file.scores()
        list(file.records())
    _samples(path)


def _config(folder: Path, *more: str) -> RunConfig:
    """A run's configuration with the case's model and problems."""
    from aspo_megatron.config.io import load_config

    source = f"{{kind: jsonl, path: '{folder / 'problems.jsonl'}', prompt_field: question}}"
    words = [f"model.path={folder / 'model'}", f"output_dir={folder / 'none'}", f"data.train={source}"]
    words += ["data.heldout_fraction=0.5", "data.format=raw", "reward.kind=math"]
    return load_config(None, [*words, "rollout.sampling.max_response_tokens=16", *more])


def _console() -> Console:
    from rich.console import Console

    return Console(file=io.StringIO(), width=100)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _see_plain(text: str) -> None:
    """See that nothing in a text is more than text to a terminal."""
    if text != safe(text):
        odd = next(repr(one) for one in text if one != safe(one))
        raise AssertionError(f"{odd} is shown")
