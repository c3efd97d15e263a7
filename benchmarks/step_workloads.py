"""What `step.py` has both sides do: the same model folder, prompts, batch, lengths and dtype."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_NEVER = "<jupyter_script>"
"""A token that SmolLM2 does not write: as the end token it makes all responses of one length."""

MIDDLE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 49152,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "torch_dtype": "float32",
}
"""A random model between SmolLM2-135M and -360M: 0.3 billion parameters."""


@dataclass(frozen=True)
class Workload:
    """One reinforcement-learning step: its samples are trained on in two optimizer steps.

    Attributes:
        name: for tables.
        model: `smollm2` or `middle`.
        prompts: problems a step.
        responses: to each.
        tokens: the most tokens of a response.
        uneven: responses end where the model ends them; otherwise all have `tokens` tokens.
    """

    name: str
    model: str
    prompts: int
    responses: int
    tokens: int
    uneven: bool = False

    def __str__(self) -> str:
        ends = "up to " if self.uneven else ""
        return f"{self.name}: {self.model}, {self.prompts} x {self.responses} responses of {ends}{self.tokens} tokens"


WORKLOADS = {
    one.name: one
    for one in (
        Workload("short", "smollm2", prompts=8, responses=8, tokens=8),
        Workload("256", "smollm2", prompts=2, responses=8, tokens=256),
        Workload("1024", "smollm2", prompts=2, responses=2, tokens=1024),
        Workload("uneven", "smollm2", prompts=4, responses=8, tokens=256, uneven=True),
        Workload("middle", "middle", prompts=4, responses=8, tokens=32),
    )
}


@dataclass(frozen=True)
class Task:
    """What a side reads: `model` is a folder, `problems` a JSONL file of prompts."""

    model: str
    problems: str
    prompts: int
    responses: int
    tokens: int
    steps: int
    threads: int
    kl_coef: float
    lr: float

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def prepare(workload: Workload, smollm2: Path, folder: Path, steps: int, threads: int) -> Task:
    """Put the model and the prompts of a workload into `folder`."""
    model = folder / "model"
    model.mkdir(parents=True)
    for path in smollm2.iterdir():
        if path.name != "model.safetensors" or workload.model == "smollm2":
            shutil.copy(path, model)
    if workload.model == "middle":
        _random_model(model)
    if not workload.uneven:
        _never_end(model)
    problems = folder / "problems.jsonl"
    with problems.open("w") as lines:
        for number in range(workload.prompts * steps):
            lines.write(json.dumps({"prompt": _prompt(number, workload.uneven), "answer": str(number)}) + "\n")
    return Task(
        model=str(model.resolve()),
        problems=str(problems.resolve()),
        prompts=workload.prompts,
        responses=workload.responses,
        tokens=workload.tokens,
        steps=steps,
        threads=threads,
        kl_coef=0.001,
        lr=1e-6,
    )


def _prompt(number: int, chat: bool) -> str:
    """About thirty tokens; as a chat, where the model is to end by itself."""
    goods = ("rolls", "pies", "buns", "cakes")[number % 4]
    text = f"A baker made {37 + number} {goods} and sold {12 + number} of them before noon. How many were left?"
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" if chat else f"{text} Answer:"


def _random_model(folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    (folder / "config.json").write_text(json.dumps(MIDDLE, indent=1))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True, attn_implementation="sdpa"
    )
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="sdpa")
    model.save_pretrained(folder)


def _never_end(folder: Path) -> None:
    """Make `_NEVER` the end token, wherever a program may look for it."""
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            _set(folder / name, eos_token_id=tokens[_NEVER])
    _set(folder / "tokenizer_config.json", eos_token=_NEVER)


def _set(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}, indent=1), encoding="utf-8")
