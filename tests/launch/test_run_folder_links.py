"""A run writes to its own folder alone: what is a link in it, or no file, is refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from plots.made_runs import make_run
from typer.testing import CliRunner

from aspo_megatron.checkpoint.states.folders import publish, tidy
from aspo_megatron.cli import eval, serve
from aspo_megatron.cli.views import plot
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile
from aspo_megatron.files import write_whole
from aspo_megatron.launch.run_folder import claimed, refuse_links
from aspo_megatron.models import tiny
from aspo_megatron.plots.figures import config_differences
from aspo_megatron.plots.sample_file import read_samples
from aspo_megatron.plots.series import read_series
from aspo_megatron.rollout.sglang import serving

FILES = (
    "metrics.jsonl", "samples.jsonl", "metrics.jsonl.damaged", "config.yaml", ".lock", "summary.json", "curves.png",
    "eval/step-000004.jsonl", "logs/rank0.log", "tensorboard/x", "eval", "exports", "hf", "logs", "wandb",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["a link", "a link to nowhere", "a link within", "a pipe"])
def test_what_is_no_file_of_the_run(tmp_path: Path, name: str, kind: str) -> None:
    own = tmp_path / "own"
    own.write_text("of the user")
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    refuse_links(tmp_path / "run")
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"a link": str(own), "a link to nowhere": "nowhere", "a link within": "other"}[kind])
    with pytest.raises(ConfigError, match=rf"output_dir: .*{path.name}: (a link|not a regular file)"):
        refuse_links(tmp_path / "run")
    assert own.read_text() == "of the user"


def test_links_that_nothing_is_written_through(tmp_path: Path) -> None:
    for name in ("wandb", "disk", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    (tmp_path / "run" / "best").symlink_to("exports/step-000010")
    (tmp_path / "run" / "wandb").mkdir()
    (tmp_path / "run" / "wandb" / "latest-run").symlink_to("run-1")
    refuse_links(tmp_path / "run")
    refuse_links(tmp_path / "there is none")


def linked_run(tmp_path: Path) -> tuple[Path, Path]:
    """A run's folder whose `checkpoints` leads to another."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    disk.mkdir()
    (run / "checkpoints").symlink_to(disk)
    return run, disk


@pytest.mark.parametrize(
    "name", ["step-000001/k", "notes.partial", "step-000007.removed/k", "latest", "thesis.partial/a.txt", ".hidden"]
)
def test_states_of_somebody_else_are_not_reached_by_a_link(tmp_path: Path, name: str) -> None:
    run, disk = linked_run(tmp_path)
    (disk / name).parent.mkdir(exist_ok=True)
    (disk / name).write_text("of the user")
    for claim in (None, tmp_path / "another run"):
        if claim:
            (disk / "of-run").write_text(f"{claim}\n")
        with pytest.raises(ConfigError, match=r"^output_dir: .*run/checkpoints leads to .*disk, .* does not say"):
            refuse_links(run)
    (disk / "of-run").write_text(f"{run}\n")
    refuse_links(run)
    assert (disk / name).read_text() == "of the user"


def test_a_run_says_whose_states_are_where_its_link_leads(tmp_path: Path) -> None:
    run, disk = linked_run(tmp_path)
    config = load_config(None, [f"output_dir={run}", "model.path=m", "data.train={kind: jsonl, path: p}"])
    for _ in range(2):
        with claimed(config):
            assert (disk / "of-run").read_text() == f"{run}\n"
        (disk / "step-000001").mkdir(exist_ok=True)
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "checkpoints").symlink_to(disk)
    with pytest.raises(ConfigError, match="does not say"):
        refuse_links(tmp_path / "stranger")


@pytest.mark.parametrize(
    "name", ["notes.partial", "thesis.partial/a.txt", "step-x.partial", "old.removed", "a.step-000001.removed"]
)
def test_only_names_that_a_run_makes_are_tidied_away(tmp_path: Path, name: str) -> None:
    states = tmp_path / "checkpoints"
    for one in (name, "step-000003.removed/k", "step-000004.partial/k", "latest.partial"):
        (states / one).parent.mkdir(parents=True, exist_ok=True)
        (states / one).write_text("x")
    tidy(tmp_path, print)
    assert publish(tmp_path, 5, 1) is None
    assert sorted(path.name for path in states.iterdir()) == sorted(["latest", Path(name).parts[0]])


def test_what_is_left_half_written_is_not_written_through(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("of the user")
    (tmp_path / "config.yaml.partial").symlink_to(own)
    write_whole(tmp_path / "config.yaml", "new")
    assert (own.read_text(), (tmp_path / "config.yaml").read_text()) == ("of the user", "new")
    assert not (tmp_path / "config.yaml").is_symlink()


APP = typer.Typer()
APP.command("serve")(serve.serve)
APP.command("eval")(eval.evaluate)
APP.command("plot")(plot.plot)


def small_run(folder: Path) -> Path:
    """A run's folder, whose servers are its own, and its configuration beside it."""
    folder.mkdir()
    config = folder.with_suffix(".yaml")
    data = "{train: {kind: jsonl, path: p.jsonl}}"
    config.write_text(
        f"output_dir: {folder}\nmodel: {{path: {folder / 'model'}}}\ndata: {data}\nrollout: {{engine: sglang}}\n"
    )
    return config


@pytest.mark.parametrize("command", ["serve", "eval"])
@pytest.mark.parametrize("name", ["logs/server0.log", "logs", "sync"])
def test_servers_write_to_the_folder_alone(tmp_path: Path, command: str, name: str) -> None:
    own, config = tmp_path / "own", small_run(tmp_path / "run")
    own.write_text("of the user")
    path = tmp_path / "run" / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(own)
    words = [str(config)] if command == "serve" else [str(tmp_path / "model"), "--config", str(config)]
    with pytest.raises(ConfigError, match=rf"^output_dir: .*{name}: a link"):
        CliRunner().invoke(APP, [command, *words], catch_exceptions=False)
    assert own.read_text() == "of the user"


@pytest.mark.parametrize("name", ["a.jsonl", "a.scores.json"])
def test_results_are_no_links(tmp_path: Path, name: str) -> None:
    own = tmp_path / "own"
    own.write_text("")
    (tmp_path / name).symlink_to(own)
    with pytest.raises(ConfigError, match=rf"^--output: .*{name}: a link"):
        ResultFile(tmp_path / "a.jsonl", EvaluationDescription("a", "b", 2, 1, (1,), {}))
    assert own.read_text() == ""
    assert {path.name for path in tmp_path.iterdir()} == {"own", name}


@pytest.mark.parametrize("name", ["curves.png", "curves.html"])
def test_curves_are_no_links(tmp_path: Path, name: str) -> None:
    own, run = tmp_path / "own", make_run(tmp_path / "run", names=("entropy",))
    own.write_text("of the user")
    (run / name).symlink_to(own)
    with pytest.raises(ConfigError, match=rf"^--out: .*{name}: a link"):
        CliRunner().invoke(APP, ["plot", str(run)], catch_exceptions=False)
    assert own.read_text() == "of the user"


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "samples.jsonl"])
def test_what_is_shown_of_a_run_is_its_own(tmp_path: Path, name: str) -> None:
    """A stranger's link would put a file of the user's into a page that is passed on."""
    runs = [make_run(tmp_path / run, names=("entropy",)) for run in "ab"]
    secret = tmp_path / name
    secret.write_text("github.com: {oauth_token: gho_SECRET}\n")
    (runs[0] / name).unlink(missing_ok=True)
    (runs[0] / name).symlink_to(secret)
    (runs[1] / "config.yaml").write_text("github.com: {oauth_token: x}\n")
    read = read_samples if name == "samples.jsonl" else lambda run: config_differences(read_series([run, runs[1]], {}))
    with pytest.raises(UserError, match=rf"a/{name}: a link out of its folder"):
        read(runs[0])
    secret.rename(runs[0] / "kept")
    (runs[0] / name).unlink()
    (runs[0] / name).symlink_to("kept")
    if name == "config.yaml":
        assert "gho_SECRET" in str(read(runs[0]))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "."])
def test_a_tiny_model_is_no_link(tmp_path: Path, name: str) -> None:
    own, folder = tmp_path / "own", tmp_path / "model"
    own.mkdir() if name == "." else own.write_text("of the user")
    if name != ".":
        folder.mkdir()
    (folder / name).symlink_to(own)
    with pytest.raises(ConfigError, match=r"^model\.path: .*: a link"):
        tiny._write_model(folder, {})
    assert list(own.iterdir()) == [] if name == "." else own.read_text() == "of the user"


def test_addresses_are_not_written_through_a_link(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("of the user")
    for name in ("addresses", f"addresses.{os.getpid()}.partial"):
        (tmp_path / name).symlink_to(own)
    serving._write_lines(tmp_path / "addresses", ["a", "b"])
    assert (own.read_text(), (tmp_path / "addresses").read_text()) == ("of the user", "a\nb\n")
    with pytest.raises(UserError, match=r"own/addresses: cannot be written"):
        serving._write_lines(own / "addresses", ["a"])
