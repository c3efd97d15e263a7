"""Bad input: one clear line, exit code 2, and no process started. Nothing of a run folder is made either."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow
import pytest
from pyarrow.parquet import write_table
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from aspo_megatron.cli import entry

from .command import SETTINGS, TINY_MODEL, Finished, aspo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with random weights."""
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path_factory.mktemp("whole") / "model"))
    weights = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).state_dict()
    del weights["lm_head.weight"]  # tied
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def jsonl(path: Path, *records: object) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"data.train={{kind: jsonl, path: {path}, prompt_field: prompt}}"


def truncated_weights(folder: Path, model_folder: Path) -> list[str]:
    path = Path(shutil.copytree(model_folder, folder / "model")) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return ["model.path=model", "model.init=pretrained"]


def missing_tensor(folder: Path, model_folder: Path) -> list[str]:
    config = json.loads((model_folder / "config.json").read_text())
    shutil.copytree(model_folder, folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))
    return ["model.path=model", "model.init=pretrained"]


def quantised(folder: Path, model_folder: Path) -> list[str]:
    config = json.loads((model_folder / "config.json").read_text())
    shutil.copytree(model_folder, folder / "model")
    settings = {"quant_method": "compressed-tensors"}
    (folder / "model" / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return ["model.path=model", "model.init=pretrained"]


def no_answer(folder: Path, model_folder: Path) -> list[str]:
    return [jsonl(folder / "data.jsonl", {"prompt": "1 + 1 =", "answer": "2"}, {"prompt": "?", "solution": "2"})]


def empty_reference(folder: Path, model_folder: Path) -> list[str]:
    records = [{"prompt": "1 + 1 =", "answer": "2"}, {"prompt": "?", "answer": "\\boxed{}"}]
    return [jsonl(folder / "data.jsonl", *records), "data.heldout_fraction=0", "reward.kind=math"]


def asserts(folder: Path, model_folder: Path) -> list[str]:
    records = [{"prompt": "f", "tests": ["assert f(1) == 1"]}, {"prompt": "g", "tests": ["assert g(1) > 0"]}]
    return [
        jsonl(folder / "data.jsonl", *records).replace("prompt_field", "answer_field: null, prompt_field"),
        "data.heldout_fraction=0",
        "reward.kind=code",
    ]


def other_layout(folder: Path, model_folder: Path) -> list[str]:
    row = {"prompt": [{"role": "user", "content": "1 + 1 ="}], "reward_model": {"ground_truth": "2"}}
    write_table(pyarrow.Table.from_pylist([row]), folder / "data.parquet")
    return ["data.train={kind: files, path: data.parquet, prompt_field: prompt}"]


def bad_rows(folder: Path, model_folder: Path) -> list[str]:
    good = {"prompt": "1 + 1 =", "answer": "2"}
    return [jsonl(folder / "data.jsonl", good, {"prompt": ""}, {"prompt": " ", "answer": 1}, good, 5)]


def long_prompt(folder: Path, model_folder: Path) -> list[str]:
    records = [
        {"id": "short", "prompt": "1 + 1 =", "answer": "2"},
        {"id": "endless", "prompt": "1 + " * 200, "answer": "2"},
    ]
    return [jsonl(folder / "data.jsonl", *records), "data.heldout_fraction=0", "reward.kind=math"]


def used_output(folder: Path, model_folder: Path) -> list[str]:
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text("{}\n")
    return []


def output_below_a_file(folder: Path, model_folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["output_dir=file/run"]


def bad_tokenizer(folder: Path, model_folder: Path) -> list[str]:
    shutil.copytree(model_folder, folder / "model")
    (folder / "model" / "tokenizer.json").write_text('{"version": "1.0", "model"')
    return ["model.path=model"]


def mean_loss(folder: Path, model_folder: Path) -> list[str]:
    code = "from aspo_megatron.losses import Loss, LossOutput\n\n\nclass Mean(Loss):\n    def compute(self, inputs):\n"
    (folder / "mean_losses.py").write_text(f"{code}        return LossOutput(inputs.log_probs.mean())\n")
    return ["loss.name=mean_losses:Mean"]


def table(folder: Path, model_folder: Path) -> list[str]:
    (folder / "problems.csv").write_text("question,solution\n1 + 1 =,2\n")
    return ["data.train={kind: files, path: problems.csv, prompt_field: prompt}"]


def misspelt_when(folder: Path, model_folder: Path) -> list[str]:
    data = jsonl(folder / "data.jsonl", *({"prompt": f"{n} + 1 =", "answer": str(n + 1), "level": n} for n in range(9)))
    parts = "{all: {kind: math}, hard: {kind: math, when: {levl: 3}}}"
    return [data, "reward.kind=mixture", f"reward.components={parts}"]


def only(*overrides: str) -> Callable[[Path, Path], list[str]]:
    return lambda folder, model_folder: list(overrides)


CASES: dict[str, tuple[Callable[[Path, Path], list[str]], list[str]]] = {
    "unknown key": (only("optimizer.learning_rat=1"), ["optimizer.learning_rat", "unknown key"]),
    "misspelt key": (only("optimizer.wieght_decay=0"), ["did you mean optimizer.weight_decay?"]),
    "wrong value": (only("train.steps=many"), ["train.steps", "must be a whole number"]),
    "missing model folder": (only("model.path=models/none"), ["model.path", "models/none"]),
    "folder without config.json": (only("model.path=."), ["model.path", "config.json"]),
    "no weights": (only("model.init=pretrained"), [str(TINY_MODEL), "model.safetensors is missing"]),
    "truncated weights": (truncated_weights, ["model/model.safetensors", "truncated"]),
    "tensor missing": (missing_tensor, ["model.layers.", "missing"]),
    "quantised weights": (quantised, ["model", "its weights are quantised"]),
    "tokenizer damaged": (bad_tokenizer, ["model", "tokenizer"]),
    "tp does not divide the heads": (only("parallel.tp=3"), ["parallel.tp=3", "attention heads (4)", "1, 2, 4"]),
    "no data file": (only("data.train={kind: jsonl, path: none.jsonl}"), ["data.train.path", "none.jsonl"]),
    "data without the needed field": (no_answer, ["data.jsonl:2", "'answer'", "prompt, solution", "answer_field"]),
    "data in verl's layout": (other_layout, ["data.parquet row 0", "answer_field=reward_model.ground_truth"]),
    "bad rows": (bad_rows, ["data.train: 3 of 5 problems cannot be used", "data.jsonl:2", "data.on_bad=drop"]),
    "unknown task family": (only("data.train.family=chain_sums"), ["data.train.family", "'chain_sum'"]),
    "prompt longer than the context": (long_prompt, ["problem endless", "context of 256 tokens"]),
    "reference answer that is empty": (
        empty_reference,
        ["1 of 2 problems", "(empty reference answer: 1)", "of problem data-1"],
    ),
    "asserts that are not read": (asserts, ["1 of 2 problems", "problem data-1", "'assert g(1) > 0' is not read"]),
    "unknown loss": (only("loss.name=asop"), ["loss.name", "'asop'", "aspo"]),
    "loss that cannot be imported": (only("loss.name=mine.losses:Mine"), ["loss.name", "mine"]),
    "loss that gives a mean": (mean_loss, ["mean_losses:Mean", "[tokens]", "return the loss of each token"]),
    "table with other columns": (
        table,
        ["problems.csv:2", "question, solution", "Set data.train.prompt_field=question"],
    ),
    "misspelt field of a mixture": (misspelt_when, ["components.hard.when", "'levl'", "did you mean 'level'?"]),
    "unknown hyperparameter": (only("loss.eps_hihg=0.3"), ["loss.eps_hihg", "eps_high"]),
    "unknown reward": (only("reward.kind=reasoning-gym"), ["reward.kind", "'reasoning_gym'"]),
    "reward that cannot be imported": (only("reward.kind=mine.rewards:score"), ["reward.kind", "mine"]),
    "output folder holds another run": (used_output, ["output_dir", "run holds what is left of a run"]),
    "output folder cannot be made": (output_below_a_file, ["output_dir", "file/run"]),
}


AS_COMMANDS = ["unknown key", "truncated weights", "tp does not divide the heads", "unknown reward"]
"""Cases that are run as a user runs them; the others call what the command calls, to spare the time of its start."""


def call_main(argv: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Finished:
    """`aspo` in this process."""
    monkeypatch.setattr(sys, "argv", ["aspo", *argv])
    monkeypatch.setattr(gc, "freeze", lambda: None)  # this process does not end with the command
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert isinstance(ended.value.code, int)
    return Finished(ended.value.code, *capfd.readouterr())


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    tmp_path: Path, model_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of modules of the user's
    (tmp_path / "small.yaml").write_text(SETTINGS)
    prepare, words = CASES[name]
    overrides = prepare(tmp_path, model_folder)
    there = {path.name for path in tmp_path.iterdir()}
    processes = set(psutil.Process().children())
    argv = ["train", "small.yaml", "output_dir=run", *overrides]
    done = aspo(*argv, folder=tmp_path) if name in AS_COMMANDS else call_main(argv, monkeypatch, capfd)
    assert done.code == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert done.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == there
    assert not (tmp_path / "run" / "logs").exists()
    assert set(psutil.Process().children()) <= processes  # those of earlier tests may have ended


def test_no_configuration_file(tmp_path: Path) -> None:
    done = aspo("train", "none.yaml", folder=tmp_path)
    assert (done.code, done.stderr) == (2, f"error: none.yaml (in {tmp_path}): no such configuration file\n")


@pytest.mark.parametrize(("argv", "words"), [
    ([], "nothing to evaluate on: give --benchmark NAME, --problems FILE or --config RUN/config.yaml"),
    (["--problems", "none.jsonl"], "model.safetensors is missing"),
], ids=["nothing to ask", "no weights"])  # fmt: skip
def test_bad_input_of_eval(
    argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done = call_main(["eval", str(TINY_MODEL), *argv], monkeypatch, capfd)
    assert done.code == 2
    (line,) = done.stderr.splitlines()
    assert words in line
