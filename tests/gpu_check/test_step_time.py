"""The section `step_time` runs on the CPU; its figures are those of metrics.jsonl, and its steps give updates."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_megatron.config import RunConfig
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.models.counts import model_elements
from benchmarks.gpu_check import step_time
from benchmarks.gpu_check.lines import Line, Place, Sheet, Status, read_lines
from benchmarks.gpu_check.plan_time import GENERATION, LOG_PROBS, UPDATES
from benchmarks.gpu_check.policies import dense_folder
from benchmarks.gpu_check.qwen3 import SHAPES, SMALL_SHAPES
from benchmarks.step_reward import vowels

from .in_process import cpu, failed, held, not_done

NAME = SMALL_SHAPES[0].name


def lines_in(path: Path) -> dict[str, Line]:
    return {line.name: line for line in read_lines(path)}


def sheet_in(path: Path) -> Sheet:
    return Sheet("section", path, on_gpu=False)


@pytest.mark.distributed
@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_on_the_cpu(tmp_path: Path) -> None:
    step_time.run(sheet_in(tmp_path / "lines"), cpu(tmp_path))
    lines = lines_in(tmp_path / "lines")
    assert failed(lines) == set(), [lines[name].note for name in failed(lines)]
    assert held(lines) == {f"{NAME}: a run of 3 steps", f"{NAME}: least gradient norm"}
    phases = (f"{phase}, measured / planned" for phase in (GENERATION, LOG_PROBS, UPDATES))
    lacking = ("share of the card's peak", "memory of the card in use at most", *phases)
    assert not_done(lines) == {f"{NAME}: {what}" for what in lacking}
    shares = [line.figure for name, line in lines.items() if name.endswith(" / the step")]
    assert len(shares) == 8
    assert math.fsum(share for share in shares if share is not None) == pytest.approx(1.0)
    assert all(share for share in shares)  # every phase is there, and takes time


def test_a_run_that_does_not_begin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = step_time.configuration
    monkeypatch.setattr(step_time, "configuration", lambda *args: real(*args) | {"no_such_key": 1})
    step_time.run(sheet_in(tmp_path / "lines"), cpu(tmp_path))
    lines = lines_in(tmp_path / "lines")
    assert set(lines) == failed(lines) == {f"{NAME}: a run of 3 steps"}
    assert "no_such_key" in lines[f"{NAME}: a run of 3 steps"].note


@pytest.mark.parametrize("left", [1.0, 0.0])
def test_no_run_is_begun_without_time(left: float, tmp_path: Path) -> None:
    step_time.run(sheet_in(tmp_path / "lines"), replace(cpu(tmp_path), seconds=left))
    lines = lines_in(tmp_path / "lines")
    assert not_done(lines) == set(lines) == {f"{NAME}: a step"}
    assert lines[f"{NAME}: a step"].note.endswith("s for the whole section")


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "_SECONDS_OF_A_RUN", 0.0)
    step_time.run(sheet_in(tmp_path / "lines"), replace(cpu(tmp_path), seconds=1.0))
    (line,) = lines_in(tmp_path / "lines").values()
    assert (line.name, line.status) == (f"{NAME}: a step", Status.NOT_DONE)
    assert "not finished after" in line.note


def test_figures(tmp_path: Path) -> None:
    """The first step counts for nothing but its gradient."""
    phases = {"generate": 4.0, "reward": 0.5, "old_log_probs": 1.0, "reference_log_probs": 1.0, "update": 2.0}
    row: dict[str, Any] = {"response_tokens/mean": 10.0, "grad_norm": 0.5, "seconds/step": 10.0}
    row |= {f"seconds/{phase}": seconds for phase, seconds in phases.items()}
    batch = step_time.Batch(prompts=2, prompt_tokens=5, responses=3, response_tokens=10)
    slow = {name: 7 * value for name, value in row.items()}
    rate = step_time.show_steps(sheet_in(tmp_path / "lines"), "M", [slow, row], batch, 50.0)
    assert rate == 5.0
    lines = lines_in(tmp_path / "lines")
    figures = {name.removeprefix("M: "): line.figure for name, line in lines.items()}
    assert figures == {
        "least gradient norm": 0.5,
        "a step": 10.0,
        "response tokens": 6.0,
        "generate / the step": 0.4,
        "reward / the step": 0.05,
        "old log probs / the step": 0.1,
        "reference log probs / the step": 0.1,
        "update / the step": 0.2,
        "samples / the step": 0.0,
        "sync / the step": 0.0,
        "the rest / the step": pytest.approx(0.15),
    }
    assert "15 response tokens/s" in lines["M: generate / the step"].note
    step_time.show_steps(sheet_in(tmp_path / "still"), "M", [row, row | {"grad_norm": 0.0}, row], batch, 50.0)
    assert failed(lines_in(tmp_path / "still")) == {"M: least gradient norm"}


def test_run_is_one_that_can_be_had(tmp_path: Path) -> None:
    """Enough prompts of the named length, two updates a step; its operations are those of all phases."""
    batch = step_time.BATCH
    family = SHAPES[0].family(tmp_path / "model", small=False)
    content = step_time.configuration(tmp_path, batch, "cpu")
    config = RunConfig.model_validate(content)
    assert config.mini_batches == 2
    assert config.has_reference
    prompts = [json.loads(row)["prompt"] for row in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert {len(prompt) for prompt in prompts} == {512}
    assert len(set(prompts)) == len(prompts) == 3 * batch.prompts
    small = step_time.Batch(prompts=2, prompt_tokens=40, responses=2, response_tokens=30)
    operations = step_time.operations_of(step_time.configuration(tmp_path, small, "cpu"), family, small)
    layers = model_elements(family) - family.vocab_size * family.hidden_size
    once = 2 * layers * (2 * 40 + 4 * 29) + 2 * family.vocab_size * family.hidden_size * 4 * 30
    assert operations == pytest.approx((1 + 1 + 0.5 + 3) * once, rel=0.02)  # attention is little here


def test_every_token_has_letters_and_rewards_differ(tmp_path: Path) -> None:
    dense_folder(tmp_path / "model", small=True, vocab_size=5000)
    step_time.write_tokenizer(tmp_path / "model", 5000)
    tokenizer = load_tokenizer(tmp_path / "model")
    assert len(tokenizer) == 5000
    assert tokenizer.encode("a word", add_special_tokens=False) == tokenizer.encode("a word")
    assert len(tokenizer.encode("some words")) == 10  # a letter a token, as prompts are counted
    texts = [tokenizer.decode(torch.randint(257, 5000, (20,)).tolist()) for _ in range(8)]
    assert {len(text) for text in texts} == {80}
    assert len({vowels(None, text) for text in texts}) > 1


def test_larger_models_say_what_they_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(step_time, "show", lambda sheet, place, shape, *rest: begun.append(shape.name))
    place = Place(torch.device("cpu"), False, 0, tmp_path, 1000.0)
    step_time.run(sheet_in(tmp_path / "lines"), place)
    assert begun == ["Qwen3-0.6B", "Qwen3-1.7B"]
    lines = lines_in(tmp_path / "lines")
    assert set(lines) == not_done(lines) == {"Qwen3-4B: a step", "Qwen3-8B: a step"}
    assert "67 GiB" in lines["Qwen3-4B: a step"].note
    assert "137 GiB" in lines["Qwen3-8B: a step"].note


def test_memory_is_what_the_card_had_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([100 * 2**30, 70 * 2**30, 90 * 2**30])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (next(free), 0))
    seen = step_time.Free(Place(torch.device("cuda:0"), False, 1, tmp_path, 1.0))
    seen.look()
    seen.look()
    seen.show(sheet_in(tmp_path / "lines"), "memory")
    (line,) = lines_in(tmp_path / "lines").values()
    assert (line.figure, line.unit) == (30.0, "GiB")
