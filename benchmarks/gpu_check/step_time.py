"""A whole step of training through the product: generation by the embedded engine, rewards, log-probs, two updates.

A run of `aspo train` of a dense model of the sizes of Qwen3, in bf16 with random weights, on one GPU. Its metrics.jsonl
gives the seconds of a step and the share of each phase; the first step, which makes the kernels, is left out. Random
weights hardly ever end a response, so that all have the greatest length: generation takes as many passes as it can.
Operations are those of `aspo train --profile`; memory is what the card has less while the run lasts.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from aspo_megatron.config import RunConfig
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.family import Family
from aspo_megatron.train.step_operations import work_of
from benchmarks.gpu_check.commands import REPOSITORY, Command
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.plan_time import GENERATION, LOG_PROBS, UPDATES, show_beside_plan
from benchmarks.gpu_check.policies import random_groups, words
from benchmarks.gpu_check.qwen3 import SHAPES, SMALL_SHAPES, Shape
from benchmarks.gpu_check.update_work import show_card_share

_TOKENIZER = REPOSITORY / "examples" / "tiny" / "model"
_STEPS = 3
_MOST_PARAMETERS = 2e9
"""Of a model that one GPU trains and generates with."""
_POLL_SECONDS = 0.05
_SECONDS_OF_A_RUN = 45.0
"""At most, about: with less time left, none is begun."""
_STATE_BYTES = 18
"""Of a parameter: bf16 weight, fp32 gradient, fp32 weight, Adam's two moments."""
LONGEST = 1.0
"""Mean length of a response, as a share of the longest: random weights hardly ever end one."""
_PHASES = ("generate", "reward", "old_log_probs", "reference_log_probs", "update", "samples", "sync")


@dataclass(frozen=True)
class Batch:
    """Of a step: problems with as many tokens each, and responses; two optimizer updates are made of them."""

    prompts: int
    prompt_tokens: int
    responses: int
    response_tokens: int


BATCH = Batch(prompts=16, prompt_tokens=512, responses=8, response_tokens=256)
SMALL_BATCH = Batch(prompts=4, prompt_tokens=12, responses=4, response_tokens=8)


def run(sheet: Sheet, place: Place) -> None:
    """The shapes that one GPU trains and generates with, the small one first; why the others are not done."""
    deadline = time.monotonic() + place.seconds
    for number, shape in enumerate(SMALL_SHAPES if place.small else SHAPES):
        folder = place.work / f"step-{number}"
        family = shape.family(folder / "model", small=place.small)
        if model_elements(family) > _MOST_PARAMETERS:
            sheet.not_done(f"{shape.name}: a step", lack_of(family))
        elif time.monotonic() + _SECONDS_OF_A_RUN > deadline:
            sheet.not_done(f"{shape.name}: a step", f"no time: {place.seconds:.0f} s for the whole section")
        else:
            with sheet.part(f"{shape.name}: a step"):
                show(sheet, place, shape, family, folder, deadline)


def lack_of(family: Family) -> str:
    """What a step of a larger model would take."""
    state = _STATE_BYTES * model_elements(family) / 2**30
    return (
        f"needs SGLang servers on another GPU, as the recipes of its size have them: weights, gradients and Adam's "
        f"state alone are {state:.0f} GiB, and the embedded engine takes another copy of the weights"
    )


def show(sheet: Sheet, place: Place, shape: Shape, family: Family, folder: Path, deadline: float) -> None:
    """Train some steps; the lines of a shape."""
    batch = SMALL_BATCH if place.small else BATCH
    write_tokenizer(folder / "model", family.vocab_size)
    content = configuration(folder, batch, place.device.type)
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "aspo_megatron.cli", "train", str(folder / "run.yaml")]
    began = time.monotonic()
    free = Free(place)
    with Command(command, folder / "output.txt") as training:
        while (code := training.wait(_POLL_SECONDS)) is None and time.monotonic() < deadline:
            free.look()
        said = training.last_lines()
    if code is None:
        sheet.not_done(f"{shape.name}: a step", f"no time: not finished after {time.monotonic() - began:.0f} s")
        return
    path = folder / "run" / "metrics.jsonl"
    rows = [json.loads(row) for row in path.read_text().splitlines()] if code == 0 else []
    steps = [row for row in rows if "seconds/step" in row]
    note = said if code else f"{time.monotonic() - began:.0f} s from its start to its end"
    done = len(steps) == _STEPS
    if sheet.holds(f"{shape.name}: a run of {_STEPS} steps", done, reference="exit code 0, metrics.jsonl", note=note):
        rate = show_steps(sheet, shape.name, steps, batch, operations_of(content, family, batch))
        show_card_share(sheet, place, shape.name, rate, "")
        show_beside_plan(
            sheet, place, shape.name, phases_of(steps), (RunConfig.model_validate(content), family, LONGEST)
        )
        free.show(sheet, f"{shape.name}: memory of the card in use at most")


def phases_of(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of the phases that the plan has, medians of all steps but the first."""
    parts = {
        GENERATION: ("generate",),
        LOG_PROBS: ("old_log_probs", "reference_log_probs"),
        UPDATES: ("update",),
    }
    return {name: sum(median_of(steps, f"seconds/{part}") for part in keys) for name, keys in parts.items()}


def median_of(steps: list[dict[str, Any]], key: str) -> float:
    """Of all steps but the first."""
    return statistics.median(float(row.get(key, 0.0)) for row in steps[1:])


def operations_of(content: dict[str, Any], family: Family, batch: Batch) -> float:
    """Of a step with responses of the greatest length, in all phases."""
    group = (batch.prompt_tokens, (batch.response_tokens,) * batch.responses)
    groups = random_groups(family.vocab_size, [group] * batch.prompts)
    config = RunConfig.model_validate(content)
    later = groups[config.train.prompts_per_update :]  # the first update's own log-probs are its old ones
    return sum(phase.operations for phase in work_of(config, family, groups, later).values())


class Free:
    """Memory of the card that nobody has, while a run lasts."""

    def __init__(self, place: Place) -> None:
        """Begin."""
        self._device = place.device if place.on_gpu else None
        self._first = self._least = self._now()

    def _now(self) -> int:
        return 0 if self._device is None else int(torch.cuda.mem_get_info(self._device)[0])

    def look(self) -> None:
        """Once more."""
        self._least = min(self._least, self._now())

    def show(self, sheet: Sheet, name: str) -> None:
        """A line."""
        if self._device is None:
            sheet.not_done(name, "needs a GPU")
        else:
            sheet.measured(name, (self._first - self._least) / 2**30, "GiB", note="with what PyTorch keeps for later")


def show_steps(sheet: Sheet, name: str, steps: list[dict[str, Any]], batch: Batch, operations: float) -> float:
    """The figures of all steps but the first: medians. Gives operations a second."""
    median = partial(median_of, steps)
    updated = min(float(row.get("grad_norm", 0.0)) for row in steps)
    sheet.at_least(f"{name}: least gradient norm", updated, 1e-9, reference="a step without an update is none")
    samples = batch.prompts * batch.responses
    taken, tokens = median("seconds/step"), samples * median("response_tokens/mean")
    what = f"{batch.prompts} prompts of {batch.prompt_tokens} tokens, {batch.responses} responses to each"
    sheet.measured(f"{name}: a step", taken, "s", note=f"{what}, {tokens:.0f} response tokens")
    sheet.measured(f"{name}: response tokens", tokens / taken, "tokens/s")
    known = 0.0
    for phase in _PHASES:
        part = median(f"seconds/{phase}")
        known += part
        speed = f", {tokens / part:.4g} response tokens/s" if part else ""
        label = f"{name}: {phase.replace('_', ' ')} / the step"
        sheet.measured(label, part / taken, "", reference="the step", note=f"{part:.4g} s{speed}")
    sheet.measured(f"{name}: the rest / the step", 1 - known / taken, "", reference="the step")
    return operations / taken


def configuration(folder: Path, batch: Batch, device: str) -> dict[str, Any]:
    """Of the run, whose problems are written beside it."""
    problems = folder / "problems.jsonl"
    count = batch.prompts * _STEPS
    letters = " ".join(words(count * batch.prompt_tokens // 4))
    size = batch.prompt_tokens
    prompts = [letters[number * size : (number + 1) * size] for number in range(count)]
    problems.write_text("".join(json.dumps({"prompt": text, "answer": ""}) + "\n" for text in prompts))
    return {
        "output_dir": str(folder / "run"),
        "model": {"path": str(folder / "model"), "init": "random", "dtype": "bfloat16"},
        "platform": {"device": device},
        "data": {
            "train": {"kind": "jsonl", "path": str(problems), "prompt_field": "prompt"},
            "format": "raw",
            "max_prompt_tokens": size,
        },
        "rollout": {
            "prompts_per_step": batch.prompts,
            "responses_per_prompt": batch.responses,
            "sampling": {"max_response_tokens": batch.response_tokens, "temperature": 1.0},
        },
        "reward": {"kind": "benchmarks.step_reward:vowels", "workers": 1},
        "loss": {"name": "aspo", "kl_coef": 0.001},
        "optimizer": {"lr": 1e-6},
        "train": {"steps": _STEPS, "prompts_per_update": batch.prompts // 2, "max_tokens_per_micro_batch": 16384},
        "eval": {"every": 0},
        "checkpoint": {"every": 0},
        "log": {"tensorboard": False},
    }


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A token for each letter, and words for all others, so that every token of a response has letters."""
    content = json.loads((_TOKENIZER / "tokenizer.json").read_text())
    tokens: dict[str, int] = content["model"]["vocab"]
    tokens |= {f"{_word(number)}": number for number in range(len(tokens), vocabulary)}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text((_TOKENIZER / "tokenizer_config.json").read_text())


def _word(number: int) -> str:
    """Four letters, different for numbers below 26^4."""
    return "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))
