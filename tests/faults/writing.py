"""What a run writes besides its states, with a fault at each system call in turn. Runs in the preloaded process."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from aspo_megatron.checkpoint.hf.folder import write_folder
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import UserError
from aspo_megatron.evaluation.evaluator import Evaluation
from aspo_megatron.evaluation.results import EvaluationDescription, ResponseRecord, ResultFile, read_scores, scores_path
from aspo_megatron.evaluation.scores import Scores
from aspo_megatron.folders import METRICS_FILE, SAMPLES_FILE
from aspo_megatron.launch.run_folder import claimed
from aspo_megatron.metrics.record import Recorder, read_metrics
from benchmarks.soak.injection import Faults

from .saving import Swept, first_line, quiet

STEPS = 4

Act = Callable[[Path, Path], None]


def record(run: Path, model: Path) -> None:
    """Log what is not yet safe, as a run that goes on from its last state; `safe` is beside the run folder."""
    safe = run.with_name("safe")
    begin = int(safe.read_text()) if safe.exists() else 0
    with Recorder(run, tensorboard=True, after_step=begin) as recorder:
        for step in range(begin + 1, STEPS + 1):
            recorder.log(step, {"reward/mean": step / 7, "loss": float("nan")})
            recorder.log_samples(step, [{"text": f"{number}" * 40} for number in range(3)])
            recorder.flush()
            safe.write_text(str(step))


def recorded(run: Path, model: Path) -> str | None:
    lines = read_metrics(run / METRICS_FILE)
    if [line["step"] for line in lines] != list(range(1, STEPS + 1)):
        return f"metrics of steps {[line['step'] for line in lines]}"
    if any(line["reward/mean"] != line["step"] / 7 for line in lines):
        return "other metrics"
    samples = [json.loads(line)["step"] for line in (run / SAMPLES_FILE).read_text().splitlines()]
    return None if samples == [step for step in range(1, STEPS + 1) for _ in range(3)] else f"samples of {samples}"


def evaluation() -> Evaluation:
    records = [{"index": number, "response": "x" * 2000, "reward": 1.0} for number in range(60)]
    return Evaluation(Scores.of([1] * 60, 1, [1]), records)


def write_evaluation(run: Path, model: Path) -> None:
    evaluation().write(run / "eval" / "step-000001.jsonl")


def evaluated(run: Path, model: Path) -> str | None:
    path = run / "eval" / "step-000001.jsonl"
    if not path.exists():
        return None
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        return f"half of it under its name: {error}"
    return None if lines == list(evaluation().records) else f"{len(lines)} of 60 lines under its name"


DESCRIPTION = EvaluationDescription("problems", "model", 3, 2, (1,), {"model": "digest"})


def answer(run: Path, model: Path) -> None:
    """As `aspo eval` does: on the leader, going on with what is there."""
    with ResultFile(run / "answers.jsonl", DESCRIPTION) as results:
        for index in range(len(results.right), DESCRIPTION.problems):
            results.append([answer_of(index, number) for number in range(DESCRIPTION.samples)])


def answer_of(index: int, number: int) -> ResponseRecord:
    return {"index": index, "response": f"{number}" * 2000, "reward": 1.0, "tokens": 9, "finish_reason": "stop"}


def answered(run: Path, model: Path) -> str | None:
    lines = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    numbers = product(range(DESCRIPTION.problems), range(DESCRIPTION.samples))
    if lines != [answer_of(index, number) for index, number in numbers]:
        return f"{len(lines)} of {DESCRIPTION.problems * DESCRIPTION.samples} answers, or other ones"
    return None if read_scores(scores_path(run / "answers.jsonl"))["complete"] else "not said to be complete"


def export(run: Path, model: Path) -> None:
    tensors = ((f"tensor-{number}", torch.full((3000,), float(number))) for number in range(4))
    config = json.loads((model / "config.json").read_text())
    write_folder(run / "hf", tensors, config, tokenizer_from=model, max_shard_bytes=13_000, card="words", replace=True)


def exported(run: Path, model: Path) -> str | None:
    from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder

    if not (run / "hf").exists():
        return None
    with SafetensorsFolder(run / "hf") as source:
        if sorted(source.names()) != [f"tensor-{number}" for number in range(4)]:
            return f"tensors {source.names()}"
        for number in range(4):
            if not (source.read_whole(f"tensor-{number}") == number).all():
                return f"tensor-{number} has other values"
    there = {path.name for path in (run / "hf").iterdir()}
    return None if {"README.md", "config.json"} <= there else f"only {sorted(there)}"


def claim(run: Path, model: Path) -> None:
    with claimed(load_config(None, [f"output_dir={run}", f"model.path={model}", *_DATA])):
        pass


def is_claimed(run: Path, model: Path) -> str | None:
    if not (run / "config.yaml").exists():
        return None
    return None if load_config(run / "config.yaml", []).output_dir == run else "another config.yaml"


_DATA = ["data.train={kind: jsonl, path: none.jsonl}", "platform.device=cpu"]

PARTS: dict[str, tuple[Act, Callable[[Path, Path], str | None]]] = {
    "record": (record, recorded),
    "evaluation": (write_evaluation, evaluated),
    "answers": (answer, answered),
    "export": (export, exported),
    "config": (claim, is_claimed),
}
"""By name: what writes under the run folder, and what is wrong with what is there; of `REPEATED`, once repeated."""

REPEATED = ("record", "answers")
"""Those that are half done under their name, and are gone on with."""


def sweep_part(part: str, kind: str, times: int, work: Path, model: Path) -> Swept:
    """Write in a new folder, with the fault at each of the calls in turn; then write once more, without one."""
    log = work / "said.log"
    calls, met, wrong = 0, 0, []
    number = 0
    while number <= calls:
        run = work / f"run-{number}" / "run"
        run.mkdir(parents=True)
        process = get_context("fork").Process(target=disturbed, args=(part, kind, times, number, run, model, log))
        process.start()
        process.join(60)
        told = run.with_name("told")
        failed, count, problem = json.loads(told.read_text()) if told.exists() else (1, 0, None)
        calls = calls or count
        met += failed > 0
        if process.exitcode not in (0, -signal.SIGKILL):
            problem = f"exit code {process.exitcode}"
        problem = problem or again(part, run, model)
        if problem:
            wrong.append(f"call {number} of {calls}: {problem}")
        shutil.rmtree(run.parent)
        number += 1
    return Swept(calls, met, wrong)


def disturbed(part: str, kind: str, times: int, number: int, run: Path, model: Path, log: Path) -> None:
    quiet(log)
    faults = Faults()
    faults.watch(run)
    faults.arm(number, kind, times if number else 0)
    problem = None
    try:
        PARTS[part][0](run, model)
    except UserError as error:
        problem = None if len(str(error).splitlines()) == 1 else f"more than a line: {error}"
    except BaseException as error:
        problem = f"raised {first_line(error)}"
    failed, count = faults.failed, faults.count
    faults.disarm()
    run.with_name("told").write_text(json.dumps([failed, count, problem]))
    os._exit(0)


def again(part: str, run: Path, model: Path) -> str | None:
    """What is wrong with what was left, and with what comes of doing it again."""
    act, check = PARTS[part]
    try:
        problem = check(run, model) if part not in REPEATED else None
        if problem is None:
            act(run, model)
            problem = check(run, model)
    except BaseException as error:
        problem = f"again: {first_line(error)}"
    return problem
