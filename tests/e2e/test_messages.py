"""What a newcomer gets wrong, and the whole line that is answered: which key or folder it is about, and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .command import SETTINGS, TINY_MODEL
from .test_bad_input import call_main

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which the commands run: settings, models, and what is left of two runs."""
    (tmp_path / "run.yaml").write_text(f"output_dir: out\n{SETTINGS}")
    (tmp_path / "flat.yaml").write_text("output_dir: out\nmodel.path: m\n")
    (tmp_path / "twice.yaml").write_text("output_dir: out\nseed: 1\noutput_dir: other\n")
    (tmp_path / "tabs.yaml").write_text("output_dir: out\nmodel:\n\tpath: m\n")
    (tmp_path / "afile").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x")
    odd = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 96, "intermediate_size": 192}
    shutil.copytree(TINY_MODEL, tmp_path / "odd")
    config = json.loads((TINY_MODEL / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, **odd, "head_dim": 16}))
    for name in ("done", "begun"):
        (tmp_path / name / "checkpoints" / "step-000004").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "step-000004" / "manifest.json").write_text("{}")
        (tmp_path / name / "config.yaml").write_text("output_dir: done\n")
    shutil.copytree(TINY_MODEL, tmp_path / "done" / "hf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = ["train", "run.yaml"]
TRAINED = "done is the folder of a run; its trained model is done/hf"
SAVED = "begun is the folder of a run; its last saved state is begun/checkpoints/step-000004"
LINES = {
    "a dotted key in a file": (
        ["train", "flat.yaml"],
        "model.path: a key with a dot; in a file its dots are levels: model: {path: ...}",
    ),
    "a key given twice": (
        ["train", "twice.yaml"],
        "twice.yaml, line 3, column 1: the key output_dir is given twice here; keep one of them",
    ),
    "tabs": (["train", "tabs.yaml"], "tabs.yaml, line 3, column 1: not YAML: a tab; lines are indented by spaces"),
    "no such file": (["train", "none.yaml"], "none.yaml (in {folder}): no such configuration file"),
    "no such model": ([*TRAIN, "model.path=none"], "model.path: there is no folder none (in {folder})"),
    "an empty folder name": ([*TRAIN, "output_dir="], "output_dir: is empty; name a folder"),
    "a file as folder": ([*TRAIN, "output_dir=afile"], "output_dir: afile is a file; choose a folder"),
    "a folder with something in it": (
        [*TRAIN, "output_dir=full"],
        "output_dir: full holds files of something else; choose a new or an empty folder",
    ),
    "a setting of the rollouts": (
        [*TRAIN, "max_response_tokens=64"],
        "max_response_tokens: unknown key; did you mean rollout.sampling.max_response_tokens or "
        "eval.sampling.max_response_tokens?",
    ),
    "a section of two": (
        [*TRAIN, "sampling.temperature=1"],
        "sampling: unknown key; did you mean rollout.sampling or eval.sampling?",
    ),
    "a hyperparameter": ([*TRAIN, "loss.eps_high=wide"], 'loss.eps_high: must be a number, not "wide"'),
    "a setting written as an option": (
        [*TRAIN, "--optimizer.lr=1e-5"],
        "--optimizer.lr=1e-5: a setting is written without dashes: optimizer.lr=1e-5",
    ),
    "an option that is a setting": (
        [*TRAIN, "--output_dir", "there"],
        "--output_dir: a setting is written without dashes: output_dir=VALUE",
    ),
    "a mixture of nothing": (
        [*TRAIN, "reward.kind=mixture", "reward.components={}"],
        "reward: components: a mixture needs some: components: {NAME: {kind: math, weight: 1.0}}",
    ),
    "parts of what is no mixture": (
        [*TRAIN, "reward.components={a: {kind: math, weight: 1}}"],
        "reward: components: reasoning_gym has none; they need kind: mixture",
    ),
    "a size of nothing": (["check", "--layouts", "tp=0"], "layout 'tp=0': tp must be greater than 0, not 0"),
    "a layout that does not fit together": (
        ["check", "--layouts", "sp"],
        "layout 'sp': sequence_parallel needs tp > 1",
    ),
    "a time limit": (
        ["slurm", "run.yaml", "--time", "soon"],
        "slurm.time: 'soon' is no time limit as Slurm writes it: minutes, hours:minutes:seconds, days-hours or "
        "UNLIMITED",
    ),
    "tp that fits some sizes": (
        [*TRAIN, "model.path=odd", "parallel.tp=5"],
        "parallel.tp=5 does not divide the model's attention heads (6); possible values: 1, 3, 6",
    ),
    "tp that fits the heads": (
        [*TRAIN, "model.path=odd", "parallel.tp=2"],
        "parallel.tp=2 and the model's 3 key-value heads: one must divide the other; possible values: 1, 3, 6",
    ),
    "a run as model": ([*TRAIN, "model.path=done"], f"model.path: {TRAINED}"),
    "a run to evaluate": (["eval", "done", "--problems", "p.jsonl"], f"model.path: {TRAINED}"),
    "a run that is not done as model": ([*TRAIN, "model.path=begun"], f"model.path: {SAVED}"),
    "a run as checkpoint": (
        ["convert", "megatron-to-hf", "done", "there"],
        "done is the folder of a run; its last saved state is done/checkpoints/step-000004",
    ),
    "states as checkpoint": (
        ["convert", "megatron-to-hf", "begun/checkpoints", "there"],
        "begun/checkpoints is of a run; its last saved state is begun/checkpoints/step-000004",
    ),
    "no such problems": (
        [*TRAIN, "data.train={kind: files, path: none.csv}"],
        "data.train.path: none.csv does not exist (in {folder}); give a JSONL, JSON, CSV or Parquet file",
    ),
    "no such run": (["plot", "none"], "none/metrics.jsonl (in {folder}): no such file; is this a run folder?"),
    "no such responses": (
        ["samples", "none"],
        "none/samples.jsonl (in {folder}): no such file; is this a run folder, and was log.samples_per_step above 0?",
    ),
    "no such checkpoint": (["convert", "megatron-to-hf", "none", "there"], "there is no folder none (in {folder})"),
}


@pytest.mark.parametrize("name", LINES)
def test_the_whole_line(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    argv, line = LINES[name]
    done = call_main(argv, monkeypatch, capfd)
    expected = f"error: {line.replace('{folder}', str(folder))}\n"
    assert (done.code, done.stdout, done.stderr) == (2, "", expected)
