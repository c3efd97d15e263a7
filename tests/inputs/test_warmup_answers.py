"""The answers that a warm-up imitates: a tokenizer that fails with one is a line before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aspo_megatron.cli.app import app
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.inputs.read import read_inputs
from aspo_megatron.inputs.warmup_answers import check_imitations, imitated
from aspo_megatron.train import main

TINY = Path(__file__).parents[2] / "examples" / "tiny" / "model"
WHOLE: dict[str, Any] = json.loads((TINY / "tokenizer.json").read_text())
GOES_BACK = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def spoil(model: Path, **parts: object) -> None:
    (model / "tokenizer.json").write_text(json.dumps({**WHOLE, **parts}))


def arguments(folder: Path, answers: list[str], *further: str) -> list[str]:
    """Overrides of a run on problems with these answers."""
    lines = [json.dumps({"prompt": f"{number} + 0 =", "answer": answer}) for number, answer in enumerate(answers)]
    (folder / "problems.jsonl").write_text("\n".join(lines))
    return [
        f"model.path={folder / 'model'}", "model.init=random", f"output_dir={folder / 'run'}", "data.format=raw",
        f"data.train={{kind: jsonl, path: {folder / 'problems.jsonl'}}}", "reward.kind=math", "platform.device=cpu",
        "rollout.sampling.max_response_tokens=8", "warmup.updates=2", "warmup.batch_size=3", *further,
    ]  # fmt: skip


BAD = ["1"] * 4 + ["a" * 40 + "!"]


def test_an_answer_that_the_tokenizer_fails_with_is_one_line(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(model, pre_tokenizer=GOES_BACK)
    given = arguments(tmp_path, BAD)
    monkeypatch.setenv("RANK", "0")
    words = "the tokenizer fails: PanicException"
    with pytest.raises(UserError, match=words) as raised:
        main.read_here(load_config(None, given))
    assert "the answer to problem problems-" in str(raised.value)
    (tmp_path / "run.yaml").write_text("{}")
    monkeypatch.delenv("RANK")
    result = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), *given])
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == str(raised.value)
    assert "panicked" not in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("further", ["warmup.updates=0", "warmup.response=7"])
def test_answers_that_are_not_imitated_are_not_tried(tmp_path: Path, model: Path, further: str) -> None:
    spoil(model, pre_tokenizer=GOES_BACK)
    config = load_config(None, arguments(tmp_path, BAD, further))
    inputs = read_inputs(config)
    check_imitations(config, inputs.train, inputs.tokenizer, inputs.family.vocab_size)


def test_a_token_that_the_model_does_not_know_is_one_line(tmp_path: Path, model: Path) -> None:
    added = {**WHOLE["added_tokens"][0], "id": 257, "content": "seven"}
    spoil(model, added_tokens=[*WHOLE["added_tokens"], added])
    given = arguments(tmp_path, ["1", "1", "seven"])
    config = load_config(None, given)
    words = r"1 of 3 .*; the first: the answer to problem problems-2: token seven \(257\) is beyond .* \(257\)"
    with pytest.raises(ConfigError, match=words):
        read_inputs(config)
    dropping = load_config(None, [*given, "data.on_bad=drop"])
    inputs = read_inputs(dropping)
    assert [problem.answer for problem in inputs.train] == ["1", "1"]
    check_imitations(dropping, inputs.train, inputs.tokenizer, inputs.family.vocab_size)
    assert len(read_inputs(load_config(None, [*given, "warmup.updates=0"])).train) == 3


def test_an_end_token_that_the_model_does_not_know_is_one_line(tmp_path: Path, model: Path) -> None:
    """A warm-up puts it after each answer."""
    spoil(model, added_tokens=[{**WHOLE["added_tokens"][0], "id": 257, "content": "<end>"}])
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<end>", "pad_token": "<end>"}))
    config = load_config(None, arguments(tmp_path, ["1"]))
    inputs = read_inputs(config)
    with pytest.raises(UserError, match=r"the end of answers: token <end> \(257\) is beyond"):
        check_imitations(config, inputs.train, inputs.tokenizer, inputs.family.vocab_size)


def test_a_prompt_with_a_token_that_the_model_does_not_know_ends_the_command(tmp_path: Path, model: Path) -> None:
    """Before any rank is started."""
    spoil(model, added_tokens=[*WHOLE["added_tokens"], {**WHOLE["added_tokens"][0], "id": 257, "content": "<tool>"}])
    given = arguments(tmp_path, ["1", "2"], "warmup.updates=0", "data.template='<tool>{prompt}'")
    (tmp_path / "run.yaml").write_text("{}")
    result = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), *given])
    assert isinstance(result.exception, ConfigError)
    (line,) = str(result.exception).splitlines()
    assert line.startswith("data.train: 2 of 2 problems cannot be used (token beyond the vocabulary: 2); the first: ")
    assert "problem problems-0: token <tool> (257) is beyond the model's vocabulary (257)" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("updates", [1, 2, 5])
def test_those_are_tried_that_the_warm_up_takes(
    tmp_path: Path, model: Path, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each of them once: nothing is tried in a second epoch."""
    config = load_config(None, arguments(tmp_path, [str(number) for number in range(7)], f"warmup.updates={updates}"))
    inputs = read_inputs(config)
    tried: list[str] = []
    from aspo_megatron.data.tokenize_prompts import PromptMaker

    whole = PromptMaker.ids

    def noted(self: PromptMaker, texts: list[str], names: list[str]):
        tried.extend(texts)
        return whole(self, texts, names)

    monkeypatch.setattr(PromptMaker, "ids", noted)
    check_imitations(config, inputs.train, inputs.tokenizer, inputs.family.vocab_size)
    stream = imitated(inputs.train, config.seed)
    taken = [problem.answer for _ in range(updates) for problem in stream.take(3)]
    assert tried == taken[:7]
