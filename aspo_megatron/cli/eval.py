"""`aspo eval`: avg@K and pass@K of a model, on benchmarks, on a file of problems, or on a run's held-out problems."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show

if TYPE_CHECKING:
    from aspo_megatron.config import RunConfig
    from aspo_megatron.config.words import ProblemSide
    from aspo_megatron.evaluation.benchmarks import Wanted
    from aspo_megatron.evaluation.job import EvalJob

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
SOME_FAILED_CODE = 3
"""Exit code of an evaluation in which some responses could not be scored."""

_GENERIC = re.compile(r"hf|exports|step-\d+")


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Hugging Face model folder, e.g. RUN/hf, or a name on the Hub, ORG/NAME."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="NAME[=FILE],...", help="Benchmarks, as the paper has them; docs/evaluation.md."),
    ] = None,
    problems: Annotated[Path | None, typer.Option(help="JSONL, JSON or Parquet file: `prompt` and `answer`.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's config.yaml: its settings, its held-out problems.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File for every response; of benchmarks a folder, evals/MODEL if none is given."),
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Ask this SGLang server as it is; may be repeated. MODEL has its tokenizer."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Name of the model in tables; else from its folder.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes; each holds the model and asks its share.")] = 1,
) -> None:
    """Evaluate a model: avg@K and pass@K with confidence intervals; every response is kept for reading.

    With an output the same command goes on where it was killed. `aspo table` compares the results of several models.
    Exit code 3 says that some responses could not be scored; they count as wrong.

    \b
      aspo eval deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --benchmark aime24,amc23,math500
      aspo eval runs/aspo/hf --benchmark aime24=aime24.jsonl eval.samples=16
      aspo eval runs/aspo/hf --benchmark aime24 --server http://node3:30000 --server http://node4:30000
      aspo eval runs/quickstart/hf --config runs/quickstart/config.yaml
      aspo eval MODEL --problems problems.jsonl eval.samples=16 eval.pass_k=[1,16] data.format=chat

    \b
    Settings that matter: eval.samples (K), eval.pass_k, eval.sampling.*, data.format, data.template, reward.kind.
    """
    from aspo_megatron.config import ParallelConfig
    from aspo_megatron.evaluation import benchmarks
    from aspo_megatron.evaluation.job import EvalPlan
    from aspo_megatron.launch.launcher import launch

    _check_options(benchmark, problems, config, output)
    wanted = benchmarks.parse(benchmark) if benchmark is not None else []
    threads = max(1, (os.cpu_count() or 1) // processes)
    common = [
        f"model.path={model_folder(model)}",
        "model.init=random" if server else "model.init=pretrained",  # behind a server the weights are not read
        f"parallel={ParallelConfig(dp=processes).model_dump_json()}",
        f"platform.threads_per_rank={threads}",
        "warmup.updates=0",
        "platform.timeout_minutes=1440",  # processes wait for the one with the longest responses
    ]
    if server:
        common += ["rollout.engine=sglang", f"rollout.servers.addresses={json.dumps(server)}"]
    name = label or label_of(model)
    with tempfile.TemporaryDirectory(prefix="aspo-eval-") as folder, ExitStack() as handed:
        work = Path(folder)
        if config is None:
            common.append(f"output_dir={folder}")
        files = _Files(work, config, output, name, bool(server), handed)
        if wanted:
            jobs = [files.benchmark(one, common, overrides or []) for one in wanted]
        else:
            jobs = [files.problems(problems, common, overrides or [])]
        plan = work / "plan.json"
        EvalPlan(name, bool(server), tuple(jobs)).write(plan)
        code = launch("aspo_megatron.evaluation.main", [str(plan)], processes, threads, log_dir=work / "logs")
        raise typer.Exit(code or _failed_code(jobs))


@dataclass(frozen=True)
class _Files:
    """Where the command puts what the ranks read, and where the results go.

    `live`: servers have the weights. `handed`: keeps the problems that are handed over.
    """

    work: Path
    config: Path | None
    output: Path | None
    model: str
    live: bool
    handed: ExitStack

    def benchmark(self, wanted: Wanted, common: Sequence[str], overrides: Sequence[str]) -> EvalJob:
        """Prepare a benchmark's problems and settings."""
        from aspo_megatron.config.io import load_config
        from aspo_megatron.evaluation import benchmarks
        from aspo_megatron.evaluation.job import EvalJob

        problems = self.work / f"{wanted.name}.jsonl"
        settings = [*common, *benchmarks.settings(wanted.benchmark, problems, _samples(overrides))]
        # The sampling of evaluation is what counts here, under whichever name it is set.
        sampling = [text.replace("rollout.", "eval.", 1) for text in overrides if text.startswith("rollout.sampling.")]
        own = [text for text in overrides if not text.startswith("rollout.sampling.")]
        run = load_config(self.config, [*settings, *sampling, *own])
        if wanted.file is None:
            show(f"{wanted.name}: fetching {wanted.benchmark.dataset} from the Hub, or from its cache")
        found = benchmarks.write_problems(wanted, problems, run.data.on_bad)
        if found != wanted.benchmark.problems:
            show(f"{wanted.name}: {found} problems, where the benchmark has {wanted.benchmark.problems}")
        target = self.output or Path("evals") / self.model
        read, there = self._checked(run, wanted.name)
        return EvalJob(wanted.name, read, "train", target / f"{wanted.name}.jsonl", there)

    def problems(self, problems: Path | None, common: Sequence[str], overrides: Sequence[str]) -> EvalJob:
        """Prepare a file of problems, or a run's held-out ones."""
        from aspo_megatron.config import SourceConfig
        from aspo_megatron.config.io import load_config
        from aspo_megatron.data.sources.files import stem_of
        from aspo_megatron.evaluation import benchmarks
        from aspo_megatron.evaluation.job import EvalJob

        settings = list(common)
        if problems is not None:
            source = SourceConfig(kind="files", path=str(problems))
            prompt, answer = benchmarks.plain_names(source, "--problems")
            own = {"kind": "files", "path": str(problems), "prompt_field": prompt, "answer_field": answer}
            settings += [f"data.train={json.dumps(own)}", "data.heldout=null"]
            settings += ["data.heldout_fraction=0"]
        run = load_config(self.config, [*settings, *overrides])
        name = "held-out" if problems is None else stem_of(problems)
        read, there = self._checked(run, name)
        side: ProblemSide = "heldout" if problems is None else "train"
        if self.output is None:
            return EvalJob(name, read, side, self.work / "responses" / f"{name}.jsonl", there, kept=False)
        return EvalJob(name, read, side, self.output, there)

    def _checked(self, run: RunConfig, name: str) -> tuple[Path, Path | None]:
        """Read all input once before any process starts; where the configuration is, and where the problems are."""
        from aspo_megatron.config.io import save_config
        from aspo_megatron.inputs.handover import handed_over
        from aspo_megatron.inputs.read import read_inputs
        from aspo_megatron.launch.run_folder import refuse_links

        # Reading the input checks that the model's context has room for a response, by the length in `rollout`.
        length = {"max_response_tokens": run.eval_sampling.max_response_tokens}
        sampling = run.rollout.sampling.model_copy(update=length)
        run = run.model_copy(update={"rollout": run.rollout.model_copy(update={"sampling": sampling})})
        if run.rollout.engine == "sglang" and not self.live:  # servers' logs and weights are in the run's folder
            refuse_links(run.output_dir)
        inputs = read_inputs(run, weights=not self.live)
        if name == "held-out" and not inputs.heldout:
            raise ConfigError(f"{one_line(self.config)} has no held-out problems: give --problems FILE")
        path = self.work / f"{name}.yaml"
        save_config(run, path)
        return path, self.handed.enter_context(handed_over(inputs.train, inputs.heldout))


def _check_options(benchmark: str | None, problems: Path | None, config: Path | None, output: Path | None) -> None:
    if benchmark is None and problems is None and config is None:
        raise ConfigError("nothing to evaluate on: give --benchmark NAME, --problems FILE or --config RUN/config.yaml")
    if benchmark is not None and problems is not None:
        raise ConfigError("--benchmark and --problems are both given: leave one out")
    if benchmark is not None and output is not None and (output.suffix == ".jsonl" or os.path.isfile(output)):
        raise ConfigError(f"--output {one_line(output)}: of benchmarks it is a folder, with a file for each")


def _samples(overrides: Sequence[str]) -> int | None:
    """K as the user sets it; what is no number is left for the schema to refuse."""
    given = [text.partition("=")[2] for text in overrides if text.startswith("eval.samples=")]
    return int(given[-1]) if given and given[-1].isdigit() and int(given[-1]) > 0 else None


def label_of(model: str) -> str:
    """A model's name in tables: the last part of its path that says something, with those after it."""
    parts = [part for part in Path(model).parts if part not in ("/", "..", ".")]
    kept: list[str] = []
    for part in reversed(parts):
        kept.insert(0, part)
        if not _GENERIC.fullmatch(part):
            break
    kept = [part for part in kept if part not in ("hf", "exports")] or kept
    return "-".join(kept) or "model"


def _failed_code(jobs: Sequence[EvalJob]) -> int:
    """The exit code of an evaluation that went through: whether all responses could be scored."""
    from aspo_megatron.evaluation.results import read_scores, scores_path

    failed = sum(read_scores(scores_path(job.output))["failed"] for job in jobs)
    return SOME_FAILED_CODE if failed else 0


def model_folder(model: str) -> Path:
    """The folder of a model; one that is named as on the Hub, `ORG/NAME[@REVISION]`, is fetched into its cache.

    Raises:
        ConfigError: it cannot be fetched.
    """
    path = Path(os.path.expanduser(model))
    if os.path.exists(path) or not _HUB_NAME.fullmatch(model):
        return path
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    try:
        # The library raises errors of a dozen kinds (network, name, access, disk); all mean the same here.
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"],
            )
        )
    except Exception as error:
        reason = one_line(" ".join(str(error).split())[:300])
        raise ConfigError(f"{one_line(model)}: no such folder, and the Hub does not give it ({reason})") from error
