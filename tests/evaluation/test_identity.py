"""What makes two evaluations the same: all that decides what comes out, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from aspo_megatron.checkpoint.fingerprint import weights_fingerprint
from aspo_megatron.config.io import load_config
from aspo_megatron.data.samples import Problem
from aspo_megatron.evaluation.job import EvaluationJob, ProblemSet, identity

PROBLEMS = [Problem("a", "1 + 1", (1, 2), "2", {"level": "easy"}), Problem("b", "2 + 2", (3, 4), "4")]


def of(*overrides: str, problems: list[Problem] = PROBLEMS, weights: str = "w") -> dict[str, Any]:
    required = ["output_dir=x", "model.path=x", "data.train={kind: jsonl, path: x}"]
    return identity(load_config(None, [*required, *overrides]), problems, weights)


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("seed=2", {"seed"}),
        ("eval.samples=4", {"samples"}),
        ("rollout.sampling.temperature=0.5", {"sampling.temperature"}),
        ("eval.sampling={temperature: 1.0, max_response_tokens: 9}", {"sampling.max_response_tokens"}),
        ("reward.kind=reasoning_gym", {"reward.kind"}),
        ("reward.code.tolerance=0", {"reward"}),
        ("model.dtype=bfloat16", {"precision"}),
        ("rollout.engine=sglang", {"engine"}),
        ("data.chat_template_kwargs={enable_thinking: false}", {"chat_template_kwargs.enable_thinking"}),
        ("data.chat_template_kwargs={}", set()),
        ("reward.workers=9", set()),
        ("eval={pass_k: [1], chunk: 3, every: 7}", set()),
        ("platform.threads_per_rank=4", set()),
    ],
)
def test_settings(override: str, keys: set[str]) -> None:
    before, after = of(), of(override)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == keys


def test_problems_prompts_and_weights() -> None:
    def differing(**other: Any) -> set[str]:
        before, after = of(), of(**other)
        return {key for key in before if before[key] != after[key]}

    first, second = PROBLEMS
    assert differing(problems=[second, first]) == {"problems", "prompts"}
    assert differing(problems=[first]) == {"problems", "prompts"}
    another_template = Problem("a", "1 + 1", (9, 1, 2), "2", {"level": "easy"})
    assert differing(problems=[another_template, second]) == {"prompts"}
    another_answer = Problem("a", "1 + 1", (1, 2), "3", {"level": "easy"})
    assert differing(problems=[another_answer, second]) == {"problems"}
    assert differing(weights="v") == {"model"}


def test_weights_are_told_apart_wherever_they_are(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(200_000, dtype=torch.float32), "b": torch.ones(7)}
    for name in ("one", "moved", "trained"):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(name)
    save_file({**tensors, "a": tensors["a"] + 1e-3}, tmp_path / "trained" / "model.safetensors")
    one, moved, trained = (weights_fingerprint(tmp_path / name) for name in ("one", "moved", "trained"))
    assert one == moved
    assert len({one, trained}) == 2


def test_a_job_comes_back_as_it_was(tmp_path: Path) -> None:
    sets = (
        ProblemSet("aime24", Path("a.yaml"), "train", Path("out/a.jsonl")),
        ProblemSet("x", Path("b"), "heldout", Path("x.jsonl"), Path("/proc/7/fd/3"), kept=False, thinking="off"),
    )
    job = EvaluationJob("mine", live=True, sets=sets)
    job.write(tmp_path / "job.json")
    assert EvaluationJob.read(tmp_path / "job.json") == job
