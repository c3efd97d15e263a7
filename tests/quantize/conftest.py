"""A small model with a run's configuration, as `aspo quantize` is given them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tiny_models import llama_folder

TOKENIZER = Path(__file__).parents[2] / "examples" / "tiny" / "model"
SIZES = {
    "vocab_size": 302,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "eos_token_id": 0,
}
SETTINGS = {
    "data": {
        "train": {
            "kind": "reasoning_gym",
            "family": "chain_sum",
            "params": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
            "prompt_field": "expression",
            "size": 200,
        },
        "heldout_fraction": 0.2,
        "format": "raw",
        "template": "{prompt} =",
    },
    "rollout": {"sampling": {"max_response_tokens": 6}},
    "reward": {"kind": "reasoning_gym", "workers": 1},
    "parallel": {"tp": 2},
}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with config.yaml, the model in hf/, and responses to two of its problems."""
    folder = tmp_path_factory.mktemp("run")
    model = llama_folder(folder / "hf", tied=True, **SIZES)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, model / name)
    settings = {"output_dir": str(folder), "model": {"path": str(model)}, **SETTINGS}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def record(run: Path, problems: list[tuple[str, str, str]]) -> None:
    """Record responses, (problem, question, response), as a run does."""
    lines = [
        {"step": 1, "problem": problem, "question": question, "answer": "1", "response": response, "reward": 0.0}
        for problem, question, response in problems
    ]
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
