"""Runs to draw, made with the recorder that a training run writes with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aspo_megatron.metrics.record import Recorder

ALL = (
    "reward/mean", "response_tokens/mean", "entropy", "kl_ref", "repetition/mean", "clip/pos_high", "clip/pos_low",
    "clip/neg_low", "clip/neg_high", "clip/dual", "response_ratio/pos", "response_ratio/neg", "grad_norm",
)  # fmt: skip


def make_run(folder: Path, steps: int = 12, names: tuple[str, ...] = ALL, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    with Recorder(folder, tensorboard=False) as recorder:
        recorder.log(0, {"eval/avg@1": 0.4, "eval/avg@8": 0.5})
        for step in range(1, steps + 1):
            recorder.log(step, {name: random.uniform() for name in names})
    return folder


def write_run(folder: Path, metric: str, values: dict[int, float]) -> Path:
    with Recorder(folder, tensorboard=False) as recorder:
        for step, value in values.items():
            recorder.log(step, {metric: value})
    return folder
