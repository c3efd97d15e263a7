"""Odd tokenizer files: one line that names folder and reason, whatever transformers or Rust makes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.data import tokenizer as tokenizers_module
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.errors import CheckpointError, ConfigError, UserError
from aspo_megatron.inputs.read import read_inputs

from .folders import TINY, change_json, copy_of_tiny, the_line

WHOLE: dict[str, Any] = json.loads((TINY / "tokenizer.json").read_text())
SPLIT: dict[str, Any] = {"type": "Split", "behavior": "Isolated", "invert": False}


def tokenizer(**parts: object) -> bytes:
    """tokenizer.json with other parts."""
    return json.dumps({**WHOLE, **parts}).encode()


def model(**parts: object) -> bytes:
    return tokenizer(model={**WHOLE["model"], **parts})


def settings(**fields: object) -> bytes:
    """tokenizer_config.json with other fields."""
    return json.dumps({**json.loads((TINY / "tokenizer_config.json").read_text()), **fields}).encode()


def token(**fields: object) -> bytes:
    known = {"id": 0, "content": "x", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return tokenizer(added_tokens=[{**known, "special": True, **fields}])


FILES: dict[str, tuple[str, bytes]] = {
    "empty": ("tokenizer.json", b""),
    "no JSON": ("tokenizer.json", b"{"),
    "an empty object": ("tokenizer.json", b"{}"),
    "a list": ("tokenizer.json", b"[]"),
    "null": ("tokenizer.json", b"null"),
    "100000 deep": ("tokenizer.json", b"[" * 100_000),
    "no UTF-8": ("tokenizer.json", b'{"version": "\xff"}'),
    "no model": ("tokenizer.json", tokenizer(model=None)),
    "an unknown model": ("tokenizer.json", tokenizer(model={"type": "Own", "vocab": {}})),
    "a vocabulary of texts": ("tokenizer.json", model(vocab={"a": "b"})),
    "an id of 10^12": ("tokenizer.json", model(vocab={"a": 10**12})),
    "an id below zero": ("tokenizer.json", model(vocab={"a": -1})),
    "added tokens a number": ("tokenizer.json", tokenizer(added_tokens=5)),
    "an added token without a text": ("tokenizer.json", token(content=None)),
    "an added token of 10^12": ("tokenizer.json", token(id=10**12)),
    "an added token without an id": ("tokenizer.json", tokenizer(added_tokens=[{"content": "x"}])),
    "a pattern that is none": ("tokenizer.json", tokenizer(pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a"}})),
    "an unknown step": ("tokenizer.json", tokenizer(pre_tokenizer={"type": "Own"})),
    "an unknown normaliser": ("tokenizer.json", tokenizer(normalizer={"type": "Precompiled"})),
    "settings a list": ("tokenizer_config.json", b"[]"),
    "settings a text": ("tokenizer_config.json", b'"a"'),
    "settings 100000 deep": ("tokenizer_config.json", b'{"a":' * 100_000),
    "settings without end": ("tokenizer_config.json", b"{"),
    "settings no UTF-8": ("tokenizer_config.json", b'{"a": "\xff"}'),
    "end token a number": ("tokenizer_config.json", settings(eos_token=5)),
    "end token a list": ("tokenizer_config.json", settings(eos_token=["a"])),
    "end token an object": ("tokenizer_config.json", settings(eos_token={"a": {"b": 1}})),
    "special tokens a number": ("tokenizer_config.json", settings(extra_special_tokens=5)),
    "added tokens a list": ("tokenizer_config.json", settings(added_tokens_decoder=[1])),
    "added tokens of no number": ("tokenizer_config.json", settings(added_tokens_decoder={"a": {"content": "x"}})),
    "added tokens that are none": ("tokenizer_config.json", settings(added_tokens_decoder={"1": 5})),
    "a template that is a number": ("tokenizer_config.json", settings(chat_template=5)),
    "templates without a name": ("tokenizer_config.json", settings(chat_template=[{"template": "x"}])),
    "a template of numbers": ("tokenizer_config.json", settings(chat_template=[{"name": "default", "template": 5}])),
    "a side that is none": ("tokenizer_config.json", settings(padding_side="middle")),
    "special tokens map": ("special_tokens_map.json", b"[1]"),
    "added tokens file": ("added_tokens.json", b'{"a": "b"}'),
    "a template in no UTF-8": ("chat_template.jinja", b"\xff"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_odd_tokenizer_is_one_line(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    file, content = FILES[name]
    (folder / file).write_bytes(content)
    if name in ("special tokens map", "added tokens file"):  # transformers reads them where settings name no tokens
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError) as raised:
        load_tokenizer(folder)
    the_line(raised.value, str(folder))
    said = capfd.readouterr()
    assert "panicked" not in said.err
    assert "Traceback" not in said.err


def test_a_tokenizer_that_is_loaded_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many added tokens is looked for among all the others."""
    monkeypatch.setattr(tokenizers_module, "_SECONDS", 1.0)
    folder = copy_of_tiny(tmp_path / "model")
    many = {str(1000 + number): {"content": f"<{number}>"} for number in range(100_000)}
    change_json(
        folder / "tokenizer_config.json", added_tokens_decoder=many, extra_special_tokens=list(map(str, range(50_000)))
    )
    with pytest.raises(CheckpointError) as raised:
        load_tokenizer(folder)
    the_line(raised.value, str(folder), "takes longer than 1 s")


def test_a_pipe_is_no_tokenizer(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(folder)
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a regular file"):
        load_tokenizer(folder)


ADDED = [*WHOLE["added_tokens"], {**WHOLE["added_tokens"][0], "id": 257, "content": "1 + 1"}]
LARGE_IDS: dict[str, Callable[[Path], object]] = {
    "of another model": lambda folder: change_json(folder / "config.json", vocab_size=100),
    "that an added token has": lambda folder: change_json(folder / "tokenizer.json", added_tokens=ADDED),
}


def run_with(folder: Path, where: Path) -> RunConfig:
    (where / "problems.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    return load_config(None, [
        f"model.path={folder}", "model.init=random", f"output_dir={where / 'run'}", "data.format=raw",
        f"data.train={{kind: jsonl, path: {where / 'problems.jsonl'}}}", "reward.kind=math", "platform.device=cpu",
        "rollout.sampling.max_response_tokens=8", "model.dtype=float32",
    ])  # fmt: skip


@pytest.mark.parametrize("name", LARGE_IDS)
def test_tokens_that_the_model_does_not_know_are_one_line(tmp_path: Path, name: str) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    LARGE_IDS[name](folder)
    config = run_with(folder, tmp_path)
    with pytest.raises(ConfigError) as raised:
        read_inputs(config)
    the_line(raised.value, "problem problems-0: token ", "is beyond the model's vocabulary (")


def test_weights_that_others_hold_are_not_looked_at(tmp_path: Path) -> None:
    """Behind servers, which are asked as they are, a model may be larger than this machine."""
    folder = copy_of_tiny(tmp_path / "model")
    change_json(folder / "config.json", hidden_size=8192, num_hidden_layers=1000, num_attention_heads=64, head_dim=128)
    config = run_with(folder, tmp_path)
    assert len(read_inputs(config, weights=False).train) == 1
    with pytest.raises(UserError, match="and the machine has"):
        read_inputs(config)


def test_random_weights_of_a_quantised_model_are_refused(tmp_path: Path) -> None:
    """What a run exports has this config.json, and would be read as if it were quantised."""
    folder = copy_of_tiny(tmp_path / "model")
    change_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    config = run_with(folder, tmp_path)
    assert len(read_inputs(config, weights=False).train) == 1
    with pytest.raises(CheckpointError, match="its weights are quantised; give the folder"):
        read_inputs(config)
