"""Metrics in Weights & Biases, without a network."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from aspo_megatron.errors import UserError
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.metrics.wandb_run import WandbRun


def test_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"log.wandb is online, but the package `wandb` is not installed: pip"):
        WandbRun(tmp_path, "online", "project", {})


def test_offline_run_holds_all_metrics_and_goes_on_under_its_name(tmp_path: Path) -> None:
    for steps in ((0, 1, 2), (2, 3)):
        wandb = WandbRun(tmp_path, "offline", "project", {"seed": 1})
        with Recorder(tmp_path, tensorboard=False, wandb=wandb) as recorder:
            for step in steps:
                recorder.log(step, {"reward/mean": step / 4})
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert {path.stem for path in files} == {f"run-{(tmp_path / 'wandb-id').read_text()}"}
    for values, path in zip((("0.25", "0.5"), ("0.5", "0.75")), files, strict=True):
        wanted = [b"reward/mean", *(value.encode() for value in values)]
        deadline = time.monotonic() + 60.0  # wandb's own process writes when it comes to it
        while not all(text in path.read_bytes() for text in wanted) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [text for text in wanted if text not in path.read_bytes()] == []
