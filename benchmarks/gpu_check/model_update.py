"""One update of a model with random weights, the same on every device: its loss, its gradients, how far they are off.

`python -m benchmarks.gpu_check.model_update TASK` makes it on the CPU, for what a GPU is held against.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aspo_megatron import losses
from aspo_megatron.config import LossConfig
from aspo_megatron.launch.rank import ignore_warnings_of_libraries
from aspo_megatron.parallel.grid.topology import Topology
from benchmarks.gpu_check.policies import Weights, adam, build, one_rank, ragged_groups

_TEMPERATURE = 0.9
_MOST_TOKENS = 1024
LOSS = LossConfig(name="aspo", kl_coef=0.05, entropy_coef=0.01)
"""Every term of the objective. No ratio of it is near a bound, see `made`: a rounding would decide on which side."""


@dataclass(frozen=True)
class Task:
    """What the CPU is to compute: folders of the models, tokens of a micro-batch, threads, and where results go."""

    dense: str
    experts: str
    tokens: int
    small: bool
    threads: int
    out: str


@dataclass(frozen=True)
class Made:
    """An update's loss, gradient norm, and gradients by Hugging Face name, fp32."""

    loss: float
    grad_norm: float
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Expected:
    """What the CPU found: both models in fp32; and by parameter the error that bf16 makes of the dense one's.

    None is what it has not computed yet.
    """

    dense: Made | None
    experts: Made | None
    bf16_errors: dict[str, float] | None


def made(folder: Path, topology: Topology, dtype: str, weights: Weights, tokens: int, *, small: bool) -> Made:
    """An update of the folder's model on the topology's device.

    It is the first of its step, so that each ratio is 1.
    """
    from aspo_megatron.parallel.update.objective import PolicyObjective
    from aspo_megatron.parallel.update.passes import PassLimits
    from aspo_megatron.parallel.update.step import aggregation_of, update

    model = build(folder, topology, dtype, weights)
    optimizer = adam(model)
    objective = PolicyObjective(losses.build(LOSS.name, {}), LOSS, on_policy=True)
    limits = PassLimits(tokens, None, _TEMPERATURE)
    groups = ragged_groups(folder, small=small)
    result = update(model, optimizer, groups, objective, aggregation_of(LOSS, _MOST_TOKENS), limits)
    gradients = {name: tensor.to("cpu", copy=True) for name, tensor in optimizer.hf_gradients(model)}
    return Made(result.loss, result.grad_norm, gradients)


def worst(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest difference of a gradient relative to its parameter's largest, and whose it is."""
    return _largest({name: _relative(got[name], gradient) for name, gradient in _all_of(got, want).items()})


def rms_errors(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> dict[str, float]:
    """By parameter: root mean square of the error of its gradient, relative to the gradient's."""
    exact = _all_of(got, want)
    return {name: float((got[name] - gradient).norm() / gradient.norm()) for name, gradient in exact.items()}


def worst_ratio(errors: Mapping[str, float], own: Mapping[str, float]) -> tuple[float, str]:
    """The largest of `errors` as a multiple of `own`, and whose it is."""
    return _largest({name: errors[name] / error for name, error in own.items()})


def start_on_cpu(task: Task) -> list[str]:
    """The command that computes `task`."""
    return [sys.executable, "-m", __spec__.name, json.dumps(asdict(task))]


def read(task: Task) -> Expected:
    """What that command has found until now."""
    out = Path(task.out)

    def figures(name: str) -> Any:
        path = out / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def of(name: str) -> Made | None:
        numbers = figures(name)
        if numbers is None:
            return None
        loss, grad_norm = numbers
        return Made(loss, grad_norm, load_file(out / f"{name}.safetensors"))

    return Expected(of("dense"), of("experts"), figures("bf16"))


def compute(task: Task) -> None:
    """Make the updates on the CPU, and write what each is. The one in bf16, for which not every CPU is made, last."""
    out = Path(task.out)
    out.mkdir(parents=True)
    dense = Path(task.dense)
    with one_rank(torch.device("cpu"), task.threads) as topology:

        def in_fp32(name: str, path: Path, weights: Weights) -> Made:
            exact = made(path, topology, "float32", weights, task.tokens, small=task.small)
            save_file(exact.gradients, out / f"{name}.safetensors")
            _put(out / f"{name}.json", [exact.loss, exact.grad_norm])
            return exact

        weights = Weights(dense)
        exact = in_fp32("dense", dense, weights)
        in_fp32("experts", Path(task.experts), Weights(Path(task.experts)))
        rounded = made(dense, topology, "bfloat16", weights, task.tokens, small=task.small)
        _put(out / "bf16.json", rms_errors(rounded.gradients, exact.gradients))


def _put(path: Path, figures: object) -> None:
    """Whole, or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(figures))
    partial.rename(path)


def _all_of(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if got.keys() != want.keys():
        raise ValueError(f"gradients of other parameters: {sorted(got.keys() ^ want.keys())}")
    return want


def _relative(got: Tensor, want: Tensor) -> float:
    difference, scale = float((got - want).abs().max()), float(want.abs().max())
    return difference / scale if scale else (0.0 if difference == 0.0 else math.inf)  # an expert without tokens


def _largest(values: Mapping[str, float]) -> tuple[float, str]:
    """NaN is larger than any number."""
    name = max(values, key=lambda name: math.inf if math.isnan(values[name]) else values[name])
    return values[name], name


if __name__ == "__main__":
    ignore_warnings_of_libraries()
    compute(Task(**json.loads(sys.argv[1])))
