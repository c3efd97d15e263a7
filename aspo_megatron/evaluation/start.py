"""Starts an evaluation: settings and problems of each set, read and checked once, then the ranks that ask them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aspo_megatron.config import ParallelConfig, RunConfig, SourceConfig
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.config.words import ProblemSide
from aspo_megatron.data.sources.files import stem_of
from aspo_megatron.data.sources.read import silent
from aspo_megatron.data.thinking import thinking_of
from aspo_megatron.errors import ConfigError
from aspo_megatron.evaluation import benchmarks
from aspo_megatron.evaluation.job import EvaluationJob, ProblemSet
from aspo_megatron.evaluation.named_model import fetched_folder, label_of
from aspo_megatron.evaluation.results import read_scores, scores_path
from aspo_megatron.folders import LOGS
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch.launcher import run_ranks
from aspo_megatron.launch.outcome import Outcome
from aspo_megatron.launch.run_folder import refuse_links
from aspo_megatron.plan.machine import ThisMachine, usable_cores
from aspo_megatron.streams import say, show


@dataclass(frozen=True)
class EvaluatedSet:
    """A set of problems that was asked. `scores`: what its scores file holds, see `results.ResultFile`."""

    asked: ProblemSet
    scores: dict[str, Any]

    @classmethod
    def read(cls, asked: ProblemSet) -> EvaluatedSet:
        """Of a set that was asked."""
        return cls(asked, read_scores(scores_path(asked.output)))


@dataclass(frozen=True)
class Evaluated:
    """How an evaluation has ended. `model`: its name in tables; `sets`: none if a rank has failed."""

    outcome: Outcome
    model: str
    sets: tuple[EvaluatedSet, ...] = ()

    @property
    def some_failed(self) -> bool:
        """Whether some responses could not be scored."""
        return any(each.scores["failed"] for each in self.sets)


def start_evaluation(
    model: str,
    overrides: Sequence[str],
    *,
    benchmark: str | None,
    problems: Path | None,
    config: Path | None,
    output: Path | None,
    servers: Sequence[str],
    label: str | None,
    processes: int,
    progress: bool = True,
) -> Evaluated:
    """Evaluate a model on benchmarks, on a file of problems, or on a run's held-out problems.

    Args:
        model: Hugging Face model folder, or a name on the Hub.
        overrides: `key=value` words that replace the settings of `config`.
        benchmark: names of benchmarks, see `benchmarks.parse`.
        problems: file of problems.
        config: of a run, whose settings and held-out problems are taken.
        output: file for every response; of benchmarks a folder.
        servers: addresses of SGLang servers that are asked as they are; none: the model is loaded here.
        label: name of the model in tables; None: from its folder.
        processes: how many ask, each their share.
        progress: show how far it is, and the scores.

    Raises:
        UserError: whatever cannot be used, named.
    """
    _check_options(benchmark, problems, config, output)
    wanted = benchmarks.parse(benchmark) if benchmark is not None else []
    threads = max(1, int(usable_cores(ThisMachine())) // processes)
    common = [
        f"model.path={fetched_folder(model)}",
        "model.init=random" if servers else "model.init=pretrained",  # behind a server the weights are not read
        f"parallel={ParallelConfig(dp=processes).model_dump_json()}",
        f"platform.threads_per_rank={threads}",
        "warmup.updates=0",
        "platform.timeout_minutes=1440",  # processes wait for the one with the longest responses
    ]
    if servers:
        common += ["rollout.engine=sglang", f"rollout.servers.addresses={json.dumps(servers)}"]
    name = label or label_of(model)
    with tempfile.TemporaryDirectory(prefix="aspo-eval-") as folder, ExitStack() as handed:
        work = Path(folder)
        if config is None:
            common.append(f"output_dir={folder}")
        tell = show if progress else silent
        prepare = _Preparation(work, config, output, name, bool(servers), common, overrides, handed, tell)
        sets = [prepare.benchmark(one) for one in wanted] if wanted else [prepare.own_problems(problems)]
        job = work / "job.json"
        EvaluationJob(name, bool(servers), tuple(sets)).write(job)
        module, log_dir = "aspo_megatron.evaluation.main", work / LOGS
        outcome = run_ranks(module, [str(job)], processes, threads, log_dir=log_dir, progress=progress)
        return Evaluated(outcome, name, () if outcome.code else tuple(map(EvaluatedSet.read, sets)))


@dataclass(frozen=True)
class _Preparation:
    """What a set of problems needs: its settings, its file of responses, and what the ranks read, checked.

    `live`: servers have the weights. `common`: settings of every set; `overrides` are the user's. `handed`: keeps the
    problems that are handed over. `tell`: shows a line. `said`: warnings, each of which is shown once.
    """

    work: Path
    config: Path | None
    output: Path | None
    model: str
    live: bool
    common: Sequence[str]
    overrides: Sequence[str]
    handed: ExitStack
    tell: Callable[[str], None]
    said: set[str] = field(default_factory=set)

    def benchmark(self, wanted: benchmarks.Wanted) -> ProblemSet:
        """Of a benchmark, whose problems are fetched."""
        problems = self.work / f"{wanted.name}.jsonl"
        settings = [*self.common, *benchmarks.settings(wanted.benchmark, problems, _samples(self.overrides))]
        # The sampling of evaluation is what counts here, under whichever name it is set.
        sampling = [
            text.replace("rollout.", "eval.", 1) for text in self.overrides if text.startswith("rollout.sampling.")
        ]
        own = [text for text in self.overrides if not text.startswith("rollout.sampling.")]
        run = load_config(self.config, [*settings, *sampling, *own])
        if wanted.file is None:
            self.tell(f"{wanted.name}: fetching {wanted.benchmark.dataset} from the Hub, or from its cache")
        found = benchmarks.write_problems(wanted, problems, run.data.on_bad, run.seed)
        if found != wanted.benchmark.problems:
            self.tell(f"{wanted.name}: {found} problems, where the benchmark has {wanted.benchmark.problems}")
        target = self.output or Path("evals") / self.model
        return self._checked(run, wanted.name, "train", target / f"{wanted.name}.jsonl")

    def own_problems(self, problems: Path | None) -> ProblemSet:
        """Of a file of problems, or of a run's held-out ones."""
        settings = list(self.common)
        if problems is not None:
            source = SourceConfig(kind="files", path=str(problems))
            prompt, answer = benchmarks.plain_names(source, "--problems")
            own = {"kind": "files", "path": str(problems), "prompt_field": prompt, "answer_field": answer}
            settings += [f"data.train={json.dumps(own)}", "data.heldout=null"]
            settings += ["data.heldout_fraction=0"]
        run = load_config(self.config, [*settings, *self.overrides])
        name = "held-out" if problems is None else stem_of(problems)
        side: ProblemSide = "heldout" if problems is None else "train"
        if self.output is None:
            return self._checked(run, name, side, self.work / "responses" / f"{name}.jsonl", kept=False)
        return self._checked(run, name, side, self.output)

    def _checked(self, run: RunConfig, name: str, side: ProblemSide, output: Path, *, kept: bool = True) -> ProblemSet:
        """Read all input once before any process starts, and say where it is."""
        from aspo_megatron.inputs.handover import handed_over  # imports torch: late, so that refusals are quick
        from aspo_megatron.inputs.machine import refuse_ranks_beyond
        from aspo_megatron.inputs.read import read_inputs

        # Reading the input checks that the model's context has room for a response, by the length in `rollout`.
        length = {"max_response_tokens": run.eval_sampling.max_response_tokens}
        sampling = run.rollout.sampling.model_copy(update=length)
        run = run.model_copy(update={"rollout": run.rollout.model_copy(update={"sampling": sampling})})
        if run.rollout.engine == "sglang" and not self.live:  # servers' logs and weights are in the run's folder
            refuse_links(run.output_dir)
        crowded = refuse_ranks_beyond(run, evaluates=True)
        inputs = read_inputs(run, weights=not self.live)
        if crowded and crowded not in self.said:
            self.said.add(crowded)
            say(f"warning: {crowded}")
        if name == "held-out" and not inputs.heldout:
            raise ConfigError(f"{one_line(self.config)} has no held-out problems: give --problems FILE")
        thinking = thinking_of(run.data, inputs.tokenizer)
        path = self.work / f"{name}.yaml"
        save_config(run, path)
        there = self.handed.enter_context(handed_over(inputs.train, inputs.heldout))
        return ProblemSet(name, path, side, output, there, kept, thinking)


def _check_options(benchmark: str | None, problems: Path | None, config: Path | None, output: Path | None) -> None:
    if benchmark is None and problems is None and config is None:
        raise ConfigError("nothing to evaluate on: give --benchmark NAME, --problems FILE or --config RUN/config.yaml")
    if benchmark is not None and problems is not None:
        raise ConfigError("--benchmark and --problems are both given: leave one out")
    if benchmark is not None and output is not None and (output.suffix == ".jsonl" or os.path.isfile(output)):
        raise ConfigError(
            f"--output {one_line(output)}: with --benchmark, name a folder; each benchmark gets a file in it"
        )


def _samples(overrides: Sequence[str]) -> int | None:
    """K as the user sets it; what is no number is left for the schema to refuse."""
    given = [text.partition("=")[2] for text in overrides if text.startswith("eval.samples=")]
    return int(given[-1]) if given and given[-1].isdigit() and int(given[-1]) > 0 else None
