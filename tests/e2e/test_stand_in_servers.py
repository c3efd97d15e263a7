"""Runs whose responses come from servers, where SGLang is not installed: its stand-in serves them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from stand_in_python import stand_in_python

from .command import RunFolder, aspo
from .test_sglang import KEY, TRAINER, Serve, figures

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(300)]

SHORT = [*TRAINER, "train.steps=3", "eval.every=0", "loss.entropy_coef=0.001"]  # updates without any reward


def test_a_run_starts_its_own_servers_and_leaves_none(work: Path, tmp_path: Path) -> None:
    own = f"rollout.servers={{python: {stand_in_python(tmp_path)}, count: 1, probe_every: 1}}"
    done = aspo("train", "small.yaml", f"output_dir={tmp_path / 'own'}", *SHORT, own, folder=work)
    assert (done.code, done.stderr) == (0, "")
    run = RunFolder(tmp_path / "own")
    assert figures(run, "sync/servers") == [1.0] * 3
    assert max(figures(run, "engine_log_prob_diff/max")) < 1e-4
    assert max(figures(run, "sync/probe_difference")) < 1e-5
    assert not [p for p in psutil.process_iter(["cmdline"]) if f"{tmp_path}" in " ".join(p.info["cmdline"] or [])]


def test_servers_of_aspo_serve_generate_beside_a_run(work: Path, tmp_path: Path) -> None:
    (work / "key").write_text(KEY)
    serving = Serve(work, f"rollout.servers={{python: {stand_in_python(tmp_path)}, count: 2, api_key_file: key}}")
    try:
        ahead = ["rollout.overlap=continue", "rollout.cut_off=0.8", "rollout.servers.sync=disk"]
        folder = tmp_path / "ahead"
        done = aspo("train", "small.yaml", f"output_dir={folder}", *SHORT, serving.addresses, *ahead, folder=work)
        assert done.code == 0, done.stderr
        run = RunFolder(folder)
        assert figures(run, "sync/servers") == [2.0] * 3
        largest = figures(run, "staleness/max")
        assert largest[0] == 0.0
        assert 0.0 < max(largest) <= 2.0
    finally:
        left = serving.end()
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
