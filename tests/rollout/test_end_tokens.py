"""Where an engine learns which tokens end a response: all places that a model folder may name them in count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from aspo_megatron.config import SamplingConfig
from tiny_models import llama_folder

from .conftest import Policy, ask, make_embedded, make_tokenizer


def write_json(path: Path, **fields: object) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **fields}))


def make_policy(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Policy:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Policy("llama", folder, model.eval(), tokenizer)


@pytest.mark.parametrize(
    ("in_config", "in_generation_config", "in_tokenizer", "ends"),
    [
        (6, None, None, {6}),
        (None, [7, 8], None, {7, 8}),
        (None, None, "</s>", {2}),
        ([6, 9], 7, "</s>", {2, 6, 7, 9}),
        (None, None, None, set()),
    ],
)  # fmt: skip
def test_end_tokens(
    tmp_path: Path,
    in_config: int | list[int] | None,
    in_generation_config: int | list[int] | None,
    in_tokenizer: str | None,
    ends: set[int],
) -> None:
    folder = llama_folder(tmp_path / "model", tied=True, vocab_size=12)
    write_json(folder / "config.json", eos_token_id=in_config)
    (folder / "generation_config.json").unlink()
    if in_generation_config is not None:
        write_json(folder / "generation_config.json", eos_token_id=in_generation_config)
    tokenizer = make_tokenizer(12)
    tokenizer.eos_token = in_tokenizer
    policy = make_policy(folder, tokenizer)
    engine = make_embedded(policy, 65536)
    engine.update_weights(policy.weights.items(), version=0)
    (group,) = engine.generate(ask([[3, 4]], [200]), SamplingConfig(max_response_tokens=12))
    assert {int(s.response_ids[-1]) for s in group if s.finish_reason == "stop"} == ends
    assert not ends & {int(token) for s in group for token in s.response_ids[:-1]}
