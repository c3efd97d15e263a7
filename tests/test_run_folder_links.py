"""A run writes to its own folder alone: what is a link in it, or no file, is refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aspo_megatron.errors import ConfigError
from aspo_megatron.run_folder import refuse_links
from aspo_megatron.writing import write_whole

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
        path.symlink_to({"a link": own, "a link to nowhere": "nowhere", "a link within": "other"}[kind])
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


def test_what_is_left_half_written_is_not_written_through(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("of the user")
    (tmp_path / "config.yaml.partial").symlink_to(own)
    write_whole(tmp_path / "config.yaml", "new")
    assert (own.read_text(), (tmp_path / "config.yaml").read_text()) == ("of the user", "new")
    assert not (tmp_path / "config.yaml").is_symlink()
