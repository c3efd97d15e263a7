"""`aspo eval`: avg@K and pass@K of a model, on benchmarks, on a file of problems, or on a run's held-out problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.launch.outcome import told

SOME_FAILED_CODE = 3
"""Exit code of an evaluation in which some responses could not be scored."""


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
        typer.Option(metavar="NAME[=FILE],...", help="Benchmarks, as in the paper; see docs/evaluation.md."),
    ] = None,
    problems: Annotated[Path | None, typer.Option(help="JSONL, JSON, CSV or Parquet file: `prompt`, `answer`.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's config.yaml: its settings, its held-out problems.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File for all responses; for benchmarks a folder, by default evals/MODEL."),
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Use this running SGLang server; may be repeated. MODEL has the tokenizer."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Name of the model in tables; by default from its folder.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes; each holds the model and takes its share.")] = 1,
) -> None:
    """Evaluate a model: avg@K and pass@K with confidence intervals; all responses are kept for reading.

    With --output or --benchmark, the same command resumes where it was killed. `aspo table` compares the results of
    several models. Exit code 3 means that some responses could not be scored; they count as wrong.

    \b
      aspo eval deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --benchmark aime24,amc23,math500
      aspo eval runs/aspo/hf --benchmark aime24=aime24.jsonl eval.samples=16
      aspo eval runs/aspo/hf --benchmark aime24 --server http://node3:30000 --server http://node4:30000
      aspo eval runs/quickstart/hf --config runs/quickstart/config.yaml
      aspo eval MODEL --problems problems.jsonl eval.samples=16 eval.pass_k=[1,16] data.format=chat

    \b
    Settings that matter: eval.samples (K), eval.pass_k, eval.sampling.*, data.format, data.template, reward.kind.
    """
    from aspo_megatron.evaluation.start import start_evaluation

    done = start_evaluation(
        model,
        overrides or [],
        benchmark=benchmark,
        problems=problems,
        config=config,
        output=output,
        servers=server or [],
        label=label,
        processes=processes,
    )
    raise typer.Exit(told(done.outcome) or (SOME_FAILED_CODE if done.some_failed else 0))
