"""Problems that the reward or the model cannot take are counted together, on each side, before any rank is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError
from aspo_megatron.inputs.read import read_inputs
from aspo_megatron.train import main

TINY = Path(__file__).parents[2] / "examples" / "tiny" / "model"


def config(folder: Path, *further: str) -> RunConfig:
    """Every third problem of each side has what its reward needs; one more has a prompt that is too long."""
    for side, numbers in (("train", range(9)), ("heldout", range(20, 23))):
        rows: list[dict[str, Any]] = [
            {"prompt": f"{n} + 1 =", "answer": n + 1} | ({} if n % 3 else {"family": "chain_sum"}) for n in numbers
        ]
        rows[0]["prompt"] = rows[0]["prompt"] + "." * 99 * (side == "train")
        (folder / f"{side}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load_config(None, [
        f"model.path={TINY}", "model.init=random", f"output_dir={folder / 'run'}", "data.format=raw",
        f"data.train={{kind: jsonl, path: {folder / 'train.jsonl'}}}",
        f"data.heldout={{kind: jsonl, path: {folder / 'heldout.jsonl'}}}", "data.max_prompt_tokens=50",
        "reward.kind=reasoning_gym", "platform.device=cpu", "rollout.sampling.max_response_tokens=8", *further,
    ])  # fmt: skip


TRAIN = (
    "data.train: 7 of 9 problems cannot be used (not of reasoning-gym: 6, prompt too long: 1); the first: problem "
    "train-0: its prompt has "
)
HELDOUT = (
    "data.heldout: 2 of 3 problems cannot be used (not of reasoning-gym: 2); the first: reward.kind: reasoning_gym "
    "scores problems of reasoning-gym only, which problem heldout-0 "
)


def test_all_are_counted_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for read in (read_inputs, main.read_here):
        with pytest.raises(ConfigError) as raised:
            read(config(tmp_path))
        (line,) = str(raised.value).splitlines()
        assert line.startswith(TRAIN)
        assert line.endswith("Or leave such problems out with data.on_bad=drop")


def test_they_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inputs = read_inputs(config(tmp_path, "data.on_bad=drop"))
    assert [problem.id for problem in inputs.train] == ["train-3", "train-6"]
    assert [problem.id for problem in inputs.heldout] == ["heldout-1"]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.startswith(words) for line, words in zip(lines, (TRAIN, HELDOUT), strict=True)] == [True, True]


def test_a_side_of_which_none_is_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.heldout: 1 of 1 problems cannot be used \(not of reasoning-gym: 1\)"):
        read_inputs(config(tmp_path, "data.on_bad=drop", "data.heldout.limit=1"))
