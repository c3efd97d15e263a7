"""Configurations that are given in Python, what is refused of them, and how ranks that failed are raised."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.api import ConfigError, RunError, UserError, convert, evaluate, load_config, read_metrics, train
from aspo_megatron.api.outcomes import raise_if_failed
from aspo_megatron.launch.outcome import Outcome

SETTINGS: dict[str, Any] = {
    "output_dir": Path("runs/a"),
    "model": {"path": "somewhere"},
    "data": {"train": {"kind": "jsonl", "path": "a.jsonl"}},
    "eval": {"samples": 4, "pass_k": (1, 4)},
}


def test_a_mapping_is_what_a_file_would_be(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "output_dir: runs/a\nmodel: {path: somewhere}\ndata: {train: {kind: jsonl, path: a.jsonl}}\n"
        "eval: {samples: 4, pass_k: [1, 4]}\n"
    )
    words = ["optimizer.lr=2e-6", "loss.name=grpo"]
    config = load_config(SETTINGS, words)
    assert config == load_config(path, words) == load_config(str(path), words)
    assert (config.optimizer.lr, config.eval.pass_k, config.output_dir) == (2e-6, (1, 4), Path("runs/a"))


def test_a_configuration_is_taken_as_it_is_and_changed() -> None:
    config = load_config(
        SETTINGS | {"data": {"train": {"kind": "jsonl", "path": "a.jsonl"}, "template": r"\${a} {prompt}"}}
    )
    assert config.data.template == "${a} {prompt}"
    assert load_config(config) == config
    assert load_config(config, ["seed=7"]) == config.model_copy(update={"seed": 7})
    assert load_config(SETTINGS | {"eval": config.eval}) == load_config(SETTINGS)


def test_references_in_a_mapping() -> None:
    assert load_config(SETTINGS | {"output_dir": "runs/${seed}", "seed": 5}).output_dir == Path("runs/5")


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "an unknown key": (SETTINGS | {"sed": 3}, [], "sed: unknown key; did you mean seed?"),
    "an unknown override": (SETTINGS, ["optimizer.lrr=3"], "optimizer.lrr: unknown key; did you mean optimizer.lr?"),
    "a value of no kind": (SETTINGS | {"seed": object()}, [], "seed: is a object; give text, a number"),
    "a key that is no text": (SETTINGS | {"eval": {1: 2}}, [], "eval: keys have to be text, not 1"),
    "a wrong value": (SETTINGS | {"seed": "a"}, [], "seed: must be a whole number"),
    "a bad reference": (
        SETTINGS | {"output_dir": "${oc.decode:x}"},
        [],
        "output_dir: only the references ${section.key} and ${oc.env:NAME} are supported; write \\${ for plain text",
    ),
    "one text of overrides": (SETTINGS, "seed=3", "overrides: give a list of texts"),
    "overrides that are numbers": (SETTINGS, [3], "overrides: give a list of texts"),
    "no configuration": (3, [], "the configuration is a int; give a path, a mapping or a RunConfig"),
    "no file": ("nowhere.yaml", [], "nowhere.yaml (in {here}): no such configuration file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, overrides, words = REFUSED[case]
    for function in (load_config, train):
        with pytest.raises(ConfigError) as refused:
            function(config, overrides)
        assert str(refused.value).startswith(words.replace("{here}", str(tmp_path)))
        assert len(str(refused.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_mapping_that_holds_itself() -> None:
    endless: dict[str, Any] = dict(SETTINGS)
    endless["eval"] = endless
    with pytest.raises(ConfigError, match="holds itself"):
        load_config(endless)


def test_other_functions_refuse_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^run/metrics\.jsonl \(in .*\): no such file; is this a run folder\?$"):
        read_metrics("run")
    with pytest.raises(ConfigError, match=r"^nothing to evaluate on: "):
        evaluate("nowhere")
    with pytest.raises(ConfigError, match=r"^processes=0: must be at least 1$"):
        evaluate("nowhere", config="c.yaml", processes=0)
    with pytest.raises(UserError, match=r"nowhere") as refused:
        convert("nowhere", "there")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_what_a_script_defines_itself_is_not_looked_for(tmp_path: Path) -> None:
    config = SETTINGS | {"output_dir": tmp_path / "run", "loss": {"name": "__main__:Mine"}}
    with pytest.raises(ConfigError, match=r"^loss\.name: '__main__:Mine': .*put it into a file of its own"):
        train(config)


def test_a_rank_of_torchrun_is_told_to_use_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="aspo train"):
        train(SETTINGS)


def test_how_ranks_have_ended_is_raised() -> None:
    raise_if_failed(Outcome())
    with pytest.raises(UserError, match=r"^reward\.kind: broken\nand more$"):
        raise_if_failed(Outcome("error: reward.kind: broken\nand more", 2))
    with pytest.raises(KeyboardInterrupt):
        raise_if_failed(Outcome("interrupted by SIGINT", 128 + signal.SIGINT))
    with pytest.raises(RunError, match="ZeroDivisionError"):
        raise_if_failed(Outcome("rank 0 of 1 failed:\nZeroDivisionError", 1))
    with pytest.raises(RunError, match="SIGTERM"):
        raise_if_failed(Outcome("interrupted by SIGTERM", 128 + signal.SIGTERM))
