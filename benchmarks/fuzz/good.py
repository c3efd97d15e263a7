"""The good folder: a small run, its model with every file that a model may have, converted, evaluated; and problems."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import zlib
from base64 import b64encode
from pathlib import Path

RECIPE = """\
output_dir: run
model: {path: MODEL, init: random}
data:
  train: {kind: reasoning_gym, family: chain_sum, size: 20}
  format: raw
  heldout_fraction: 0.2
warmup: {updates: 1, batch_size: 2}
rollout: {prompts_per_step: 2, responses_per_prompt: 2, sampling: {max_response_tokens: 4}}
loss: {kl_coef: 0.001}
reward: {kind: reasoning_gym}
train: {steps: 1, prompts_per_update: 2}
eval: {every: 1, samples: 1, pass_k: [1]}
slurm: {gpus_per_node: 0, time: "1:00:00", setup: [module load cuda], partition: h100, directives: [--nice=5]}
"""
_TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"
_BYTES_OF_A_FILE = 200_000


def make_good(folder: Path, model: Path) -> None:
    """Make the folder.

    Raises:
        subprocess.CalledProcessError: the run has failed.
    """
    folder.mkdir(parents=True)
    _write_problems(folder / "problems.jsonl")
    (folder / "run.yaml").write_text(RECIPE.replace("MODEL", str(model.resolve())), encoding="utf-8")
    command = [sys.executable, "-m", "aspo_megatron.cli", "train", "run.yaml"]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    (folder / "other").mkdir()
    shutil.copyfile(folder / "run" / "metrics.jsonl", folder / "other" / "metrics.jsonl")
    _write_model(folder / "run" / "hf", folder / "model")
    _convert(folder / "model", folder / "converted")
    _evaluate(folder / "evaluation")


def _write_problems(path: Path) -> None:
    """Two problems, one with packed tests."""
    tests = json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}] * 3)
    packed = b64encode(zlib.compress(pickle.dumps(tests))).decode()
    records = [
        {"question": "Add.", "answer": "3", "id": "a", "public_test_cases": tests, "private_test_cases": packed},
        {"question": "2+2?", "answer": 4, "id": "b", "input_output": {"inputs": ["1\n"], "outputs": ["2\n"]}},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _write_model(source: Path, target: Path) -> None:
    """The run's model in several files, with what older models have beside."""
    import torch

    from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, write_folder
    from aspo_megatron.models.family import read_family

    with SafetensorsFolder(source) as tensors:
        every = {name: tensors.read_whole(name) for name in tensors.names()}
    every["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    write_folder(target, iter(every.items()), read_family(source).hf_config, source, _BYTES_OF_A_FILE)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"chat_template": _TEMPLATE}), encoding="utf-8")
    (target / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    end = config["eos_token"]
    for name, content in (
        ("special_tokens_map.json", {"eos_token": end, "pad_token": {"content": end, "lstrip": False}}),
        ("added_tokens.json", {end: 0}),
        ("generation_config.json", {"eos_token_id": [0, 1], "temperature": 0.6}),
    ):
        (target / name).write_text(json.dumps(content), encoding="utf-8")


def _convert(source: Path, target: Path) -> None:
    from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron
    from aspo_megatron.models.family import read_family

    hf_to_megatron(source, target, converter_layout(read_family(source), tp=2), None, lambda count: None)


def _evaluate(folder: Path) -> None:
    from aspo_megatron.evaluation.results import ResultFile
    from benchmarks.fuzz.readers import DESCRIPTION, RESPONSES

    with ResultFile(folder / RESPONSES, DESCRIPTION) as results:
        for index in range(3):
            common = {"index": index, "problem": f"p{index}", "question": "1+1", "answer": "2", "response": "2"}
            results.append([common | {"reward": 1.0, "tokens": 3, "finish_reason": "stop"}] * DESCRIPTION.samples)
