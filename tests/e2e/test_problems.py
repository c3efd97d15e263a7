"""The command reads problems once: none of its ranks opens their file, which may be gone by then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .command import SETTINGS, RunFolder, aspo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

REWARD = """
import os

if os.path.exists("problems.jsonl"):  # the command imports this when it has read them
    os.rename("problems.jsonl", "problems.gone")


def score(problem, response):
    return float(problem.metadata["level"])
"""


def test_ranks_need_no_file_of_problems(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SETTINGS)
    (tmp_path / "my_reward.py").write_text(REWARD)
    lines = [json.dumps({"prompt": f"{n} + 1", "answer": n + 1, "level": n % 2}) + "\n" for n in range(20)]
    (tmp_path / "problems.jsonl").write_text("".join(lines))
    settings = [
        "output_dir=run",
        "data.train={kind: jsonl, path: problems.jsonl, prompt_field: prompt}",
        "reward.kind=my_reward:score",
        "parallel={dp: 2}",
        "warmup={updates: 2, batch_size: 6, lr: 1e-3}",
        "train.steps=1",
    ]
    done = aspo("train", "small.yaml", *settings, folder=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert (tmp_path / "problems.gone").exists()
    run = RunFolder(tmp_path / "run")
    assert 0.0 < run.metrics()[-1]["reward/mean"] < 1.0
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert {sample["answer"] for sample in samples} <= {str(n + 1) for n in range(20)}
