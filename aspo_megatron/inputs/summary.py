"""What a run is about to do, in some lines, and what the model is asked, as it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aspo_megatron.config import RunConfig
from aspo_megatron.data.decoding import decode
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.store import ProblemStore
from aspo_megatron.foreign_text import counted, one_line, safe
from aspo_megatron.inputs.read import Inputs
from aspo_megatron.models.counts import model_elements

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_CHARACTERS = 1500
"""Of a prompt that is shown."""


def summary_lines(config: RunConfig, inputs: Inputs, device: str) -> list[str]:
    """The run in lines: model, problems, reward and loss, steps, ranks, folder, and the first prompt.

    Args:
        config: of the run.
        inputs: with all problems; there is at least one to train on.
        device: what the ranks compute on, for people.
    """
    model, rollout, train = config.model, config.rollout, config.train
    weights = ", random weights" if model.init == "random" else ""
    size = f"{model_elements(inputs.family):,} parameters"
    prompts, responses = counted(rollout.prompts_per_step, "prompt"), counted(rollout.responses_per_prompt, "response")
    return [
        f"model:     {one_line(model.path)} ({inputs.family.name}, {size}, {model.dtype}{weights})",
        f"problems:  {_problems(inputs.train, inputs.heldout)}",
        f"reward:    {one_line(config.reward.kind)}; loss: {one_line(config.loss.name)}",
        f"steps:     {train.steps}, each of {prompts} x {responses} ({rollout.engine} engine) and "
        f"{counted(config.updates_per_step, 'update')}",
        f"ranks:     {config.parallel.world_size} on {device} ({_layout(config)})",
        f"folder:    {one_line(config.output_dir)}",
        *prompt_lines(inputs.train[0], inputs.tokenizer),
    ]


def prompt_lines(problem: Problem, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The prompt of a problem as the model gets it, with its special tokens, indented below a line that says so."""
    text = safe(decode(tokenizer, problem.prompt_ids))
    rest = len(text) - _MOST_CHARACTERS
    shown = text if rest <= 0 else f"{text[:_MOST_CHARACTERS]} ... and {rest:,} more characters"
    return [
        f"prompt:    of problem {one_line(problem.id)}, {counted(len(problem.prompt_ids), 'token')}, as the model "
        "receives it:",
        *(f"  | {line}" for line in shown.split("\n")),
    ]


def _problems(train: ProblemStore, heldout: ProblemStore) -> str:
    repeated = train.repeated + heldout.repeated
    dropped = f"; {counted(repeated, 'duplicate')} dropped" if repeated else ""
    return f"{len(train):,} to train on, {len(heldout):,} held out{dropped}"


def _layout(config: RunConfig) -> str:
    parallel = config.parallel
    sizes = {axis: getattr(parallel, axis) for axis in ("tp", "cp", "pp", "vpp", "dp", "ep")}
    split = " ".join(f"{axis}={size}" for axis, size in sizes.items() if size and size > 1)
    return split or "one process"
