"""What one `aspo eval` is to do, on its way from the command to the ranks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aspo_megatron.config import RunConfig
from aspo_megatron.config.words import ProblemSide
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.thinking import Thinking
from aspo_megatron.files import write_whole
from aspo_megatron.reading import read_json

CHAT_VARIABLE = "chat_template_kwargs."
"""Before the name of each in an evaluation's identity."""


@dataclass(frozen=True)
class ProblemSet:
    """A set of problems to ask.

    Attributes:
        name: of the benchmark, or of the problems file.
        config: file with the whole configuration.
        side: which of its problems are asked: `train` (all of a problems file) or `heldout`.
        output: file for the responses.
        problems: where the leader finds them, see `inputs.handover`; None: it reads them itself.
        kept: whether the responses are for the user; else they go with the command.
        thinking: what the prompts ask for, see `data.thinking`.
    """

    name: str
    config: Path
    side: ProblemSide
    output: Path
    problems: Path | None = None
    kept: bool = True
    thinking: Thinking | None = None


@dataclass(frozen=True)
class EvaluationJob:
    """Several sets of problems for one model.

    Attributes:
        model: its name in tables.
        live: servers are asked as they are, and given no weights.
        sets: in their order; their configurations agree in all that concerns the model and the engine.
    """

    model: str
    live: bool
    sets: tuple[ProblemSet, ...]

    def write(self, path: Path) -> None:
        """As JSON."""
        write_whole(path, json.dumps(asdict(self), default=str))

    @classmethod
    def read(cls, path: Path) -> EvaluationJob:
        """From the JSON of `write`."""
        content = read_json(path)
        return cls(content["model"], content["live"], tuple(map(_problem_set, content["sets"])))


def _problem_set(told: Mapping[str, Any]) -> ProblemSet:
    problems = None if told["problems"] is None else Path(told["problems"])
    config, output = Path(told["config"]), Path(told["output"])
    return ProblemSet(told["name"], config, told["side"], output, problems, told["kept"], told["thinking"])


def identity(config: RunConfig, problems: Sequence[Problem], weights: str) -> dict[str, Any]:
    """All that decides what an evaluation gives, by a name that a user knows; short values.

    Args:
        config: of the evaluation.
        problems: those asked; template and tokenizer show in their tokens.
        weights: says which weights answer.
    """
    asked = [(p.question, p.answer, p.metadata) for p in problems]
    sampling = config.eval_sampling.model_dump(mode="json")
    reward = config.reward.model_dump(mode="json", exclude={"workers"})
    return {
        "model": weights,
        "precision": config.model.dtype,
        "engine": config.rollout.engine,
        "problems": f"{len(problems)} ({_digest(asked)})",
        "prompts": _digest([p.prompt_ids for p in problems]),
        # Results from before there were any have none.
        **{f"{CHAT_VARIABLE}{name}": value for name, value in config.data.chat_template_kwargs.items()},
        "samples": config.eval.samples,
        "seed": config.seed,
        **{f"sampling.{name}": value for name, value in sampling.items()},
        "reward.kind": reward.pop("kind"),
        "reward": _digest(reward),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
