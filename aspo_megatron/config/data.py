"""Problems, and how they become prompts."""

from __future__ import annotations

import datetime
from typing import Any, Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    model_validator,
)

from aspo_megatron.config.base import Section
from aspo_megatron.config.words import OnBad


class SourceConfig(Section):
    """Problems to train or evaluate on."""

    kind: Literal["files", "jsonl", "huggingface", "reasoning_gym"] = Field(
        description="Where problems come from: `files` (JSONL, JSON, CSV or Parquet; `jsonl` is an older name of it), "
        "a dataset of Hugging Face, or a family of reasoning-gym."
    )
    path: str | tuple[str, ...] | None = Field(
        None,
        description="Of files: one, a list of them, a pattern such as `data/*.parquet`, or a folder of them. Or a "
        "Hugging Face dataset's name, file or folder.",
    )
    split: str = Field("train", description="Split of a Hugging Face dataset.")
    subset: str | None = Field(None, description="Configuration name of a Hugging Face dataset.")
    prompt_field: str = Field(
        "prompt",
        description="Field that holds the problem: a text, or a list of messages with `role` and `content`. A dot "
        "leads into a field, e.g. `extra_info.question`. For reasoning-gym: leave it for the `question`, or name a "
        "field of its metadata, e.g. `expression`.",
    )
    answer_field: str | None = Field(
        "answer",
        description="Field with the reference answer, e.g. `reward_model.ground_truth`; null if there is none.",
    )
    family: str | None = Field(None, description="Task family of reasoning-gym, e.g. `chain_sum`.")
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the reasoning-gym family.")
    size: PositiveInt = Field(1000, description="Problems drawn from a reasoning-gym family (before duplicates go).")
    seed: int = Field(0, description="Seed of the reasoning-gym family.")
    limit: PositiveInt | None = Field(None, description="Take only the first so many problems.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "reasoning_gym" and not self.family:
            raise ValueError("kind reasoning_gym needs `family`")
        if self.kind != "reasoning_gym" and not self.path:
            raise ValueError(f"kind {self.kind} needs `path`")
        if self.kind == "huggingface" and not isinstance(self.path, str):
            raise ValueError("kind huggingface takes one path; several files are of kind files")
        return self


class DataConfig(Section):
    """Problems, and how one becomes a prompt."""

    train: SourceConfig = Field(description="Problems to train on. Repeated prompts are dropped.")
    heldout: SourceConfig | None = Field(None, description="Problems to evaluate on; or use heldout_fraction.")
    heldout_fraction: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of the training problems kept apart, chosen by a hash of the prompt."
    )
    format: Literal["raw", "chat"] = Field("chat", description="Plain completion, or the tokenizer's chat template.")
    template: str = Field("{prompt}", description="Text around a problem; `{prompt}` is replaced by it.")
    system: str | None = Field(None, description="System message (format chat).")
    chat_template: str | None = Field(
        None, description="Name of the chat template, where the tokenizer has several; else its `default`."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Variables for the chat template, e.g. `{enable_thinking: false}`."
    )
    date: datetime.date = Field(
        datetime.date(2024, 7, 26),
        description="Day that a chat template is told when it asks for today's: the same on every day, so that prompts "
        "stay what they are.",
    )
    max_prompt_tokens: PositiveInt = Field(2048, description="A problem with a longer prompt cannot be used.")
    on_bad: OnBad = Field(
        "refuse",
        description="What becomes of problems that cannot be used: `refuse` ends before anything is started, with "
        "their number and the first of them; `drop` leaves them out and says how many.",
    )
