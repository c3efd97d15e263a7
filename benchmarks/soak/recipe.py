"""The run that is disturbed, a small model from nothing on two ranks, and how its end is compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.checkpoint.torch_dist.verification import verify_files
from aspo_megatron.errors import CheckpointError

_ROOT = Path(__file__).parents[2]

_SETTINGS = """\
model: {{path: {model}, init: random}}
parallel: {{tp: 2, sequence_parallel: true}}
platform: {{device: cpu}}
data:
  train:
    kind: reasoning_gym
    family: chain_sum
    params: {{min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}}
    prompt_field: expression
    size: 400
  heldout_fraction: 0.2
  format: raw
  template: "{{prompt}} ="
rollout:
  prompts_per_step: 4
  responses_per_prompt: 4
  sampling: {{max_response_tokens: 4, stop: ["+"]}}
reward: {{kind: reasoning_gym, workers: 2}}
warmup: {{updates: 12, batch_size: 48, lr: 3.0e-3}}
loss: {{name: aspo, kl_coef: 0.01}}
optimizer: {{lr: 1.0e-3, schedule: linear, weight_decay: 0.0}}
train: {{steps: {steps}, prompts_per_update: 2, max_tokens_per_micro_batch: 400}}
eval: {{every: {eval_every}, samples: 1, pass_k: [1], max_problems: 8}}
checkpoint: {{every: 3, keep: 2, export_every: {eval_every}}}
log: {{samples_per_step: 4}}
"""

_TIMES = ("seconds/", "tokens_per_second")


def write_recipe(path: Path, steps: int) -> None:
    """The configuration, without `output_dir`."""
    model = _ROOT / "examples" / "tiny" / "model"
    path.write_text(_SETTINGS.format(model=model, steps=steps, eval_every=max(2, steps // 4)), encoding="utf-8")


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file that the run may be writing."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # a block that was lost; the run sets it aside when it goes on
            continue
    return found


def saved_step(run: Path) -> int:
    """The step of the state that `latest` names, every file of which is whole; 0: none.

    Raises:
        CheckpointError: it is not there or not whole.
    """
    latest = run / "checkpoints" / "latest"
    if not latest.exists():
        return 0
    folder = latest.with_name(latest.read_text().strip())
    verify_files(folder, read_manifest(folder))
    return int(folder.name.removeprefix("step-"))


def differences(run: Path, whole: Path) -> list[str]:
    """What a finished run has otherwise than the one that nobody disturbed, times left out; one line each."""
    found = []
    ours, theirs = (_figures(path / "metrics.jsonl") for path in (run, whole))
    if [line["step"] for line in ours] != [line["step"] for line in theirs]:
        found.append(f"metrics.jsonl has steps {[line['step'] for line in ours]}")
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
            found.append(f"metrics.jsonl, step {other['step']}: {', '.join(keys)}")
            break
    exports_when_asked_to_stop = {name for name in _files(run) - _files(whole) if name.startswith("exports/")}
    for name in sorted((_files(run) | _files(whole)) - exports_when_asked_to_stop):
        if _digest(run / name) != _digest(whole / name):
            found.append(f"{name}: {'other content' if (run / name).exists() else 'missing'}")
    if _summary(run) != _summary(whole):
        found.append("summary.json: other figures")
    found += leftovers(run)[:1]
    try:
        if saved_step(run) != saved_step(whole):
            found.append(f"the last state is that of step {saved_step(run)}, not {saved_step(whole)}")
    except (CheckpointError, OSError) as error:
        found.append(f"the last state: {error}")
    return found


def unexplained(differences: Sequence[str], said: str) -> list[str]:
    """Those that the run, which `said` so much, did not warn of: nothing makes up for an export, or the last state."""
    warnings = [line for line in said.splitlines() if line.startswith("warning: ") and "; the run continues" in line]
    return [line for line in differences if not any(_explains(warning, line) for warning in warnings)]


def _explains(warning: str, difference: str) -> bool:
    export = re.match(r"(exports/step-\d+)/.*: missing$", difference)
    if export:
        return f"/{export[1]}: could not be written" in warning
    state = re.match(r"the last state is that of step \d+, not (\d+)$", difference)
    return state is not None and f"/checkpoints/step-{int(state[1]):06d} was not saved" in warning


def leftovers(run: Path) -> list[str]:
    """What is half-written or half-removed; one line each."""
    left = [path for path in run.rglob("*") if path.name.endswith((".partial", ".removed"))]
    return [f"{path.relative_to(run)}: half-written, and left there" for path in left]


def _figures(path: Path) -> list[dict[str, Any]]:
    return [{key: v for key, v in line.items() if not key.startswith(_TIMES)} for line in whole_lines(path)]


def _files(run: Path) -> set[str]:
    """The files that must be the same byte for byte."""
    folders = ("hf/*", "eval/*", "exports/*/*.safetensors", "samples.jsonl")
    return {str(path.relative_to(run)) for pattern in folders for path in run.glob(pattern)} - {"hf/README.md"}


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _summary(run: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((run / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    return {key: value for key, value in content.items() if key != "seconds"}


def processes_of(launcher: int) -> dict[str, list[psutil.Process]]:
    """The processes of a run that goes on, by what they are: `launcher`, `rank 0`, `rank 1`, `worker`."""
    found: dict[str, list[psutil.Process]] = {}
    try:
        top = psutil.Process(launcher)
        found["launcher"] = [top]
        for process in top.children(recursive=True):
            try:
                words, rank = process.cmdline(), process.environ().get("RANK")
            except psutil.Error:
                continue
            if "aspo_megatron.launch.rank" in words:
                found[f"rank {rank}"] = [process]
            elif any("spawn_main" in word or "rewards" in word for word in words):
                found.setdefault("worker", []).append(process)
            else:
                found.setdefault("other", []).append(process)
    except psutil.NoSuchProcess:
        pass
    return found
