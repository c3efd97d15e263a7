"""What the command says when a signal has ended its ranks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config.io import load_config
from aspo_megatron.launch.outcome import Outcome
from aspo_megatron.train import start


@pytest.mark.parametrize(
    ("newest", "outcome", "said"),
    [
        (
            "step-000010",
            Outcome("interrupted by SIGINT", 130),
            "interrupted by SIGINT; the last saved state is step-000010; to resume: aspo train {}/config.yaml",
        ),
        (
            "",
            Outcome("interrupted by SIGHUP", 129),
            "interrupted by SIGHUP; no state is saved yet; to resume: aspo train {}/config.yaml",
        ),
        ("step-000010", Outcome("rank 0 failed", 1), "rank 0 failed"),
        ("step-000010", Outcome(), ""),
    ],
)
def test_an_interrupted_run_says_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: str, outcome: Outcome, said: str
) -> None:
    run = tmp_path / "run"

    def ranks(*_: Any, **__: Any) -> Outcome:
        (run / "checkpoints").mkdir()
        if newest:
            (run / "checkpoints" / "latest").write_text(f"{newest}\n")
        return outcome

    monkeypatch.setattr(start, "run_ranks", ranks)
    monkeypatch.setattr(start, "_problems_read", lambda *_: contextlib.nullcontext([]))
    config = load_config(None, [f"output_dir={run}", "model.path=m", "data.train={kind: jsonl, path: p}"])
    ended = start.train_with_own_ranks(config)
    assert (ended.text, ended.code) == (said.format(run), outcome.code)
