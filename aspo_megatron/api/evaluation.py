"""An evaluation from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from aspo_megatron.api.configuration import checked_words
from aspo_megatron.errors import ConfigError
from aspo_megatron.evaluation.scores import Estimate

if TYPE_CHECKING:
    from aspo_megatron.evaluation.start import Evaluated, EvaluatedSet

__all__ = ["Estimate", "EvaluationResult", "SetResult", "evaluate"]


@dataclass(frozen=True)
class SetResult:
    """What a model has made of one set of problems.

    Attributes:
        name: Of the benchmark or of the file of problems; `held-out` for those of a run.
        problems: How many there are.
        samples: K, the responses to each.
        average: avg@K, the mean share of right responses, 0 to 1, with its 95 % confidence interval.
        pass_at: pass@k by k, the estimated chance that one of k responses is right, 0 to 1, with its interval.
        right: Right responses to each problem, 0 to K.
        failed: Responses that could not be scored; they count as wrong.
        responses: File with every response, a line of JSON each; None if no `output` was given.
    """

    name: str
    problems: int
    samples: int
    average: Estimate
    pass_at: Mapping[int, Estimate]
    right: tuple[int, ...]
    failed: int
    responses: Path | None

    @property
    def accuracy(self) -> float:
        """The value of avg@K, 0 to 1."""
        return self.average.value


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation says of a model.

    Attributes:
        model: Its name in tables.
        sets: A result for each set of problems, by its name, in the order in which they were asked.
        folder: Where responses and scores are; None if no `output` was given.
    """

    model: str
    sets: Mapping[str, SetResult]
    folder: Path | None

    @property
    def accuracy(self) -> float:
        """avg@K, 0 to 1; of several sets the mean of theirs, each with the same weight."""
        return sum(each.accuracy for each in self.sets.values()) / len(self.sets)


def evaluate(
    model: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    benchmark: str | None = None,
    problems: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    servers: Sequence[str] = (),
    label: str | None = None,
    processes: int = 1,
    progress: bool = True,
) -> EvaluationResult:
    """Evaluate a model, as `aspo eval` does: avg@K and pass@K with confidence intervals.

    One of `benchmark`, `problems` and `config` has to be given. Errors name arguments as the options of the command,
    `--benchmark`. About scripts, threads and Ctrl-C, see [`train`][aspo_megatron.api.train].

    Args:
        model: Hugging Face folder, such as `TrainResult.model`, or a name on the Hub, `ORG/NAME`.
        overrides: Settings, e.g. `["eval.samples=16", "eval.pass_k=[1,16]"]`.
        benchmark: Names, perhaps with files of their problems: `"aime24,math500=math500.jsonl"`.
        problems: File of problems: JSONL, JSON, CSV or Parquet with `prompt` and `answer`.
        config: A run's config.yaml, whose settings are taken, and its held-out problems where no others are given.
        output: File for every response, from which a killed call goes on; of benchmarks a folder, else evals/MODEL.
        servers: Addresses of SGLang servers that are asked as they are; none: the model is loaded here.
        label: Name of the model in tables; None: from its folder.
        processes: How many hold the model and ask, each its share of the problems.
        progress: Show on stdout what the command shows.

    Returns:
        The scores of each set of problems.

    Raises:
        UserError: Whatever cannot be used, named: `ConfigError` a setting or argument, `CheckpointError` a model.
        RunError: A process has failed.

    Example:
        ```python
        result = evaluate("runs/mine/hf", ["eval.samples=4"], config="runs/mine/config.yaml")
        print(result.accuracy, result.sets["held-out"].average)
        ```
    """
    from aspo_megatron.evaluation.start import start_evaluation

    _check(servers, processes)
    done = start_evaluation(
        os.fspath(model),
        checked_words(overrides),
        benchmark=benchmark,
        problems=_path(problems),
        config=_path(config),
        output=_path(output),
        servers=servers,
        label=label,
        processes=processes,
        progress=progress,
    )
    return _model_result(done)


def _check(servers: Sequence[str], processes: int) -> None:
    if processes < 1:
        raise ConfigError(f"processes={processes}: must be at least 1")
    if isinstance(servers, str):
        raise ConfigError("servers: give a list of addresses")


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def _model_result(done: Evaluated) -> EvaluationResult:
    from aspo_megatron.api.outcomes import raise_if_failed

    raise_if_failed(done.outcome)
    sets = {each.asked.name: _result(each) for each in done.sets}
    folders = [each.responses.parent for each in sets.values() if each.responses]
    return EvaluationResult(done.model, MappingProxyType(sets), folders[0] if folders else None)


def _result(found: EvaluatedSet) -> SetResult:
    scores = found.scores
    estimates = {name: Estimate(**each) for name, each in scores["scores"].items()}
    return SetResult(
        name=found.asked.name,
        problems=scores["problems"],
        samples=scores["samples"],
        average=estimates[f"avg@{scores['samples']}"],
        pass_at=MappingProxyType(
            {int(name.removeprefix("pass@")): each for name, each in estimates.items() if name.startswith("pass@")}
        ),
        right=tuple(scores["right"]),
        failed=scores["failed"],
        responses=found.asked.output if found.asked.kept else None,
    )
