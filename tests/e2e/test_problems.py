"""The command reads problems once: none of its ranks opens their file, which may be gone by then. Bad ones are told."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow.parquet import write_table

from .command import SETTINGS, RunFolder, aspo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

REWARD = """
import os
import numpy

def score(problem, response):
    if os.path.exists("problems.parquet"):  # the command tries this when it has read them
        os.rename("problems.parquet", "problems.gone")
    return numpy.asarray(problem.metadata["level"])
"""


@pytest.mark.thorough
def test_ranks_need_no_file_of_problems(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SETTINGS)
    (tmp_path / "my_reward.py").write_text(REWARD)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{n} + 1"}],
            "reward_model": {"ground_truth": str(n + 1)},
            "level": n % 2,
        }
        for n in range(20)
    ]
    rows.append({**rows[0], "prompt": []})
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "problems.parquet")
    settings = [
        "output_dir=run",
        "data.train={kind: files, path: problems.parquet, prompt_field: prompt}",
        "data.train.answer_field=reward_model.ground_truth",
        "data.on_bad=drop",
        "reward.kind=my_reward:score",
        "parallel={dp: 2}",
        "warmup={updates: 2, batch_size: 6, lr: 1e-3}",
        "train.steps=1",
    ]
    done = aspo("train", "small.yaml", *settings, folder=tmp_path)
    assert done.code == 0, done
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "data.train: 1 of 21 problems cannot be used (no question: 1); the first: problems.parquet row 20"
    )
    assert line.endswith("Left out, as data.on_bad=drop says")
    assert (tmp_path / "problems.gone").exists()
    run = RunFolder(tmp_path / "run")
    assert 0.0 < run.metrics()[-1]["reward/mean"] < 1.0
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert {sample["answer"] for sample in samples} <= {str(n + 1) for n in range(20)}
