"""A run that starts from a megatron checkpoint, as the same run from the Hugging Face folder it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from .command import RunFolder, aspo
from .conftest import Train

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.mark.thorough
def test_the_run_is_the_same(work: Path, train: Train, first: RunFolder, tp1: RunFolder) -> None:
    done = aspo("convert", "hf-to-megatron", first.path / "hf", "megatron", "--tp", "2", "--pp", "2", folder=work)
    assert (done.code, done.stderr) == (0, "")
    greedy = "eval={samples: 1, pass_k: [1], sampling: {temperature: 0, max_response_tokens: 4}}"
    run = train("from-checkpoint", "model.path=megatron", "model.init=pretrained", greedy)
    assert [line["step"] for line in run.metrics()] == [line["step"] for line in tp1.metrics()]
    for line in run.metrics():
        assert run.step(line["step"]) == tp1.step(line["step"])
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (run.path / "hf" / name).read_bytes() == (tp1.path / "hf" / name).read_bytes(), name
    assert "base_model: megatron" in (run.path / "hf" / "README.md").read_text()
