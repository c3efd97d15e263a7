"""Runs to compare, with the files that a training run writes: some losses, some seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aspo_megatron.metrics.record import Recorder

STEPS = 10


def settings(loss: str, seed: int, **changes: Any) -> dict[str, Any]:
    """Of a run; `changes` by section."""
    tree: dict[str, Any] = {
        "output_dir": f"runs/{loss}-{seed}",
        "seed": seed,
        "model": {"path": "start"},
        "loss": {"name": loss, "kl_coef": 0.001},
        "optimizer": {"lr": 1e-6},
        "train": {"steps": STEPS},
        "log": {"wandb": "none"},
    }
    return {key: value | changes.get(key, {}) if isinstance(value, dict) else value for key, value in tree.items()} | {
        key: value for key, value in changes.items() if key not in tree
    }


def make_run(
    folder: Path,
    tree: Mapping[str, Any],
    accuracy: float = 0.5,
    steps: int = STEPS,
    samples: Sequence[Mapping[str, Any]] = (),
    evaluated: Iterable[int] = (0, 5, STEPS),
) -> Path:
    """A run whose held-out accuracy rises to `accuracy`; its other metrics are drawn by seed, alike for all losses."""
    random = np.random.default_rng(int(tree["seed"]))
    evaluated = set(evaluated)
    with Recorder(folder, tensorboard=False) as recorder:
        for step in range(steps + 1):
            line = {} if step == 0 else {
                name: float(random.uniform(0.2, 0.4))
                for name in ("reward/mean", "entropy", "repetition/mean", "grad_norm")
            }  # fmt: skip
            if step in evaluated:
                share = accuracy * (0.5 + 0.5 * step / STEPS)
                line |= {"eval/avg@2": share / 2, "eval/avg@4": share, "eval/pass@1": share, "eval/pass@4": share + 0.1}
            recorder.log(step, line)
        if samples:
            recorder.log_samples(steps, samples)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(tree)))
    return folder


def make_groups(folder: Path, accuracies: Mapping[str, Sequence[float]], **changes: Any) -> list[Path]:
    """A run for every loss and seed, from 1 on, with this final accuracy."""
    return [
        make_run(folder / f"{loss}-{seed}", settings(loss, seed, **changes), accuracy, samples=samples(loss))
        for loss, row in accuracies.items()
        for seed, accuracy in enumerate(row, 1)
    ]


def samples(loss: str) -> list[dict[str, Any]]:
    """Three responses: one pushed up, one down, one not at all."""
    weights = {"aspo": [2.0, 1.5, 0.0, 1.0]}.get(loss, [0.5, 0.8, 0.0, 1.0])
    one = {
        "problem": "p", "question": "q", "answer": "a", "response": "x", "reward": 1.0, "finish_reason": "stop",
        "tokens": ["a", "b", "c", "d"], "log_probs": [-5.0, -1.0, -0.01, -3.0], "weights": weights,
    }  # fmt: skip
    return [one | {"advantage": advantage} for advantage in (1.0, -1.0, 0.0)]


CLEAR = {
    "grpo": [0.30, 0.42, 0.36, 0.51, 0.44, 0.39, 0.47, 0.33],
    "aspo": [0.40, 0.51, 0.47, 0.60, 0.55, 0.48, 0.58, 0.42],
    "dapo": [0.31, 0.40, 0.38, 0.50, 0.45, 0.37, 0.49, 0.32],
}
"""aspo is higher than grpo by about ten points with every seed, and nobody can tell dapo from grpo."""
