"""Only the leader reads problems; the other ranks are given those that they ask, and train on the same."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from forked import Server, fork_ranks, kill

from aspo_megatron.data.prompt_sampler import PromptSampler, SamplerState
from aspo_megatron.data.records import Gathering
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.store import ProblemStore, StoreBuilder, empty_store
from aspo_megatron.data.stream import ProblemStream
from distributed import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

COUNT, PROMPTS = 50, 12


def store() -> ProblemStore:
    gathering = Gathering()
    for number in range(COUNT):
        gathering.add("here", f"question {number}", str(number) if number % 3 else None, {"n": number})
    records = gathering.records("source")
    builder = StoreBuilder(records)
    for number, record in enumerate(records):
        builder.add(number, Problem(record.id, record.question, (number, 1), record.answer, record.metadata))
    return builder.store(repeated=0)


def asked(shared: bool) -> dict[str, Any]:
    """In a rank: what it is given, and what all are."""
    import torch.distributed as dist

    from aspo_megatron.data.split_over_ranks import dealer
    from aspo_megatron.evaluation.evaluator import Evaluator
    from aspo_megatron.inputs.shared import SharedProblems

    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    problems: Any = SharedProblems(store() if rank == 0 else empty_store()) if shared else store()
    sampler = PromptSampler(ProblemStream(problems, seed=3), PROMPTS, 0.7, rank, ranks)
    slots = [sampler.next_batch(last_step=False)[0], sampler.refill(20, 7)[0]]
    sampler.load_state(SamplerState(95, (3, 44, 90, 51, 2)))  # an epoch ends at 100
    slots += [sampler.next_batch(last_step=False)[0], sampler.next_batch(last_step=True)[0]]
    nothing: Any = None
    evaluator = Evaluator(nothing, nothing, 2, 5, rank, ranks)
    requests = evaluator.requests(dealer(problems), list(range(0, COUNT, 7)))
    answered = ProblemStream(dealer(problems).answered(), seed=1)
    found = {
        "slots": slots,
        "requests": [(request.problem, request.group, request.seed) for request in requests],
        "answered": answered.take(40),
        "at": ProblemStream(problems, seed=3).at(77),
        "length": len(problems),
        "digest": problems.digest,
    }
    dist.destroy_process_group()
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_ranks_are_given_what_they_would_have_read(count: int, ranks: Ranks) -> None:
    given, read = ranks.run(count, asked, True), ranks.run(count, asked, False)
    assert given == read
    assert given[0]["length"] == COUNT
    assert given[0]["digest"] == store().digest
    positions = sorted(slot.position for part in given for slot in part["slots"][0])
    assert positions == list(range(18))


# ---- a run ------------------------------------------------------------------------------------------------------

SETTINGS = f"""
output_dir: run
model: {{path: {Path(__file__).parents[2] / "examples" / "tiny" / "model"}, init: random}}
parallel: {{dp: 2}}
platform: {{device: cpu}}
data:
  train: {{kind: jsonl, path: problems.jsonl}}
  heldout_fraction: 0.3
  format: raw
rollout: {{prompts_per_step: 4, responses_per_prompt: 2, sampling: {{max_response_tokens: 2}}}}
reward: {{kind: math}}
warmup: {{updates: 1, batch_size: 2, lr: 1.0e-3}}
loss: {{name: aspo}}
optimizer: {{lr: 1.0e-4}}
train: {{steps: 2, prompts_per_update: 4}}
checkpoint: {{every: 1}}
eval: {{every: 1, samples: 1, pass_k: [1]}}
"""


def rank(path: Path) -> None:
    """What a rank does; it notes how often it opened the file of problems, and how many problems it hashed."""
    from aspo_megatron.config.io import load_config
    from aspo_megatron.data import store
    from aspo_megatron.launch.stop import StopRequest
    from aspo_megatron.train.main import read_here, train

    opened, hashed = [], []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith("problems.jsonl"):
            opened.append(arguments)

    sys.addaudithook(note)
    digested = store.digested
    store.digested = lambda problem: hashed.append(problem) or digested(problem)
    config = load_config(path)
    code = train(config, read_here(config), StopRequest())
    Path(f"noted-{os.environ['RANK']}.json").write_text(json.dumps([code, len(opened), len(hashed)]))


def run_in_ranks(folder: Path) -> list[int | None]:
    from aspo_megatron.config.io import load_config
    from aspo_megatron.launch.run_folder import claimed

    os.chdir(folder)
    with claimed(load_config(folder / "run.yaml")):
        ranks: list[BaseProcess] = fork_ranks(2, rank, folder / "run.yaml")
        for process in ranks:
            process.join(200)
        kill(ranks)
    return [process.exitcode for process in ranks]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


def test_only_the_leader_opens_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(SETTINGS)
    lines = [json.dumps({"prompt": f"{number} + 1 =", "answer": number + 1}) + "\n" for number in range(20)]
    (tmp_path / "problems.jsonl").write_text("".join(lines))
    assert server.run(run_in_ranks, tmp_path) == [0, 0]
    noted = [json.loads((tmp_path / f"noted-{number}.json").read_text()) for number in range(2)]
    assert noted == [[0, 1, 20], [0, 0, 0]]
    states = sorted((tmp_path / "run" / "checkpoints").glob("*/state.json"))
    assert states
    assert len({json.loads(state.read_text())["problems"] for state in states}) == 1
    evaluated = (tmp_path / "run" / "eval" / "step-000002.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in evaluated] == list(range(6))


def test_an_evaluation_needs_no_loss(tmp_path: Path) -> None:
    """It may be of a run whose loss was the user's own, and is not here."""
    from aspo_megatron.config.io import load_config
    from aspo_megatron.inputs.read import read_inputs

    (tmp_path / "run.yaml").write_text(SETTINGS.replace("name: aspo", "name: not_here:Mine"))
    (tmp_path / "problems.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n{"prompt": "1+2", "answer": "3"}\n')
    problems = f"data.train.path={tmp_path / 'problems.jsonl'}"
    run = load_config(tmp_path / "run.yaml", [problems, "data.heldout_fraction=0"])
    read = read_inputs(run, weights=False)
    assert len(read.train) == 2
