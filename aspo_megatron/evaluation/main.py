"""What one rank of `aspo eval` does: `python -m aspo_megatron.evaluation.main JOB.json`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_megatron.checkpoint.fingerprint import weights_fingerprint
from aspo_megatron.checkpoint.hf.folder import hf_shapes
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.store import ProblemStore
from aspo_megatron.errors import ConfigError
from aspo_megatron.evaluation.job import EvaluationJob, ProblemSet, identity
from aspo_megatron.evaluation.progress import EvalProgress
from aspo_megatron.evaluation.results import EvaluationDescription, ResultFile, scores_path
from aspo_megatron.evaluation.scores import Scores
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.inputs.read import open_weights, read_as_rank
from aspo_megatron.inputs.shared import SharedProblems
from aspo_megatron.inputs.summary import prompt_lines
from aspo_megatron.launch import garbage
from aspo_megatron.parallel.grid.exchange import from_leader
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rollout.build import own_servers, rollout_engine, servers_elsewhere
from aspo_megatron.rollout.engine import RolloutEngine
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.streams import show

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RESPONSES_AT_ONCE = 256


@dataclass(frozen=True)
class _Task:
    """A set of problems with what it reads. `results`: the leader's file, None elsewhere, as is the `first` problem."""

    asked: ProblemSet
    config: RunConfig
    tokenizer: PreTrainedTokenizerBase
    problems: SharedProblems
    first: Problem | None
    results: ResultFile | None


def run_job(job: EvaluationJob) -> None:
    """Evaluate a model on all sets of problems; the leader prints the scores and keeps every response."""
    configs = [load_config(each.config) for each in job.sets]
    first = configs[0]
    leader = os.environ.get("RANK", "0") == "0"
    inputs = [
        read_as_rank(config, leader=leader, handed=each.problems, weights=not job.live)
        for each, config in zip(job.sets, configs, strict=True)
    ]
    with (
        process_grid(
            first.parallel, first.platform, first.seed, servers_elsewhere=servers_elsewhere(first)
        ) as topology,
        ExitStack() as stack,
    ):
        garbage.started()
        topology.rank_status.phase("load model")
        device = topology.platform.device
        servers = stack.enter_context(own_servers(first, device, show))
        engine = stack.enter_context(
            rollout_engine(first, inputs[0].family, inputs[0].tokenizer, device, servers, show)
        )
        weights = _adopt(engine) if job.live else ""
        tasks = []
        for each, config, read in zip(job.sets, configs, inputs, strict=True):
            held = (read.train if each.side == "train" else read.heldout).first(config.eval.max_problems)
            problems = SharedProblems(held)
            results = None
            if topology.is_leader:
                if each.kept:  # else nobody will ask whose they are
                    weights = weights or weights_fingerprint(config.model.path)
                results = stack.enter_context(_open(job, each, config, held, weights))
            first_problem = held[0] if topology.is_leader and len(held) else None
            tasks.append(_Task(each, config, read.tokenizer, problems, first_problem, results))
        left = from_leader([task.results is None or not task.results.complete for task in tasks])
        if any(left) and not job.live:
            source = open_weights(first, inputs[0].family)
            tensors = ((name, source.read_whole(name)) for name in hf_shapes(first.model.path))
            engine.update_weights(tensors, version=0)
        for task, unfinished in zip(tasks, left, strict=True):
            topology.rank_status.phase(f"evaluation of {task.asked.name}")
            if unfinished:
                _evaluate(task, engine, topology)
            if task.results:
                _report(task, task.results)


def _adopt(engine: RolloutEngine) -> str:
    if not isinstance(engine, SGLangEngine):
        raise ConfigError("--server needs rollout.engine=sglang")
    return f"served as version {engine.adopt()}"


def _open(job: EvaluationJob, asked: ProblemSet, config: RunConfig, problems: ProblemStore, weights: str) -> ResultFile:
    description = EvaluationDescription(
        asked.name,
        job.model,
        len(problems),
        config.eval.samples,
        config.eval.pass_k,
        identity(config, problems, weights),
        asked.thinking,
    )
    return ResultFile(asked.output, description)


def _evaluate(task: _Task, engine: RolloutEngine, topology: Topology) -> None:
    """Ask what is left."""
    from aspo_megatron.evaluation.evaluator import Evaluator, evaluate_into

    config, tokenizer, problems = task.config, task.tokenizer, task.problems
    sampling = config.eval_sampling
    rank, world_size = topology.rank, topology.world_size
    with RewardPool(config.reward) as rewards, ExitStack() as stack:
        progress = None
        if task.results:
            for line in prompt_lines(task.first, tokenizer) if task.first else ():
                show(line)
            progress = stack.enter_context(EvalProgress(task.asked.name, len(task.results.right), len(problems)))

        def tell(done: int, scores: Scores) -> None:
            if progress:
                progress.update(done, scores)

        evaluator = Evaluator(rewards, tokenizer, config.eval.samples, config.seed, rank, world_size)
        at_once = _at_once(config, world_size)
        evaluate_into(task.results, engine, evaluator, problems, sampling, at_once, tell)


def _at_once(config: RunConfig, processes: int) -> int:
    """Problems that are asked at a time: enough to keep every process, or every server, busy."""
    servers = config.rollout.servers
    parties = processes if config.rollout.engine == "embedded" else len(servers.addresses) or servers.count
    return config.eval.chunk or max(1, _RESPONSES_AT_ONCE // config.eval.samples) * parties


def _report(task: _Task, results: ResultFile) -> None:
    found = results.scores()
    each = f"{counted(len(task.problems), 'problem')}, {counted(found.samples, 'response')} each"
    show(f"{one_line(task.asked.name)}: {each}; 95 % confidence intervals")
    for name, estimate in found.named().items():
        show(f"{name:>10}  {estimate}")
    if results.failed:
        some = f"{counted(results.failed, 'response')} could not be scored, and so count as wrong"
        show(f"    failed  {some}; the first: {one_line(results.first_failure)}")
    if task.asked.kept:
        show(f"responses   {one_line(results.path)}")
        show(f"scores      {one_line(scores_path(results.path))}")


if __name__ == "__main__":
    run_job(EvaluationJob.read(Path(sys.argv[1])))
