"""What an update computes and holds: operations as `aspo train --profile` counts them, bytes as `aspo plan` does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from aspo_megatron.config import LossConfig, RunConfig
from aspo_megatron.data.packing import packed_length
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.counts import forward_operations
from aspo_megatron.models.family import Family
from aspo_megatron.plan.hardware import BY_NAME, Gpu
from aspo_megatron.plan.memory.rank import passing, resident
from aspo_megatron.plan.memory.setting import setting_of
from aspo_megatron.plan.memory.workload import GroupLengths, local_batch
from aspo_megatron.train.step_operations import forward_work
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.policies import SINGLE, run_config

BACKWARD = 2
"""Operations of backward for each one of forward."""
_OTHER_CARDS = {"pcie", "nvl"}
"""In a card's name: not the one whose figures are known."""


@dataclass(frozen=True)
class UpdateWork:
    """Of one update over packed samples.

    Attributes:
        responses: tokens of responses.
        tokens: that go through the layers; a prompt's count once.
        operations: floating-point operations, each span's square of attention counted whole.
        unmasked: the same without what a causal mask hides.
    """

    responses: int
    tokens: int
    operations: float
    unmasked: float

    @classmethod
    def of(cls, family: Family, groups: Sequence[Sequence[Sample]]) -> UpdateWork:
        """Of samples (groups that share a prompt)."""
        whole = forward_work(family, groups)
        tokens = sum(packed_length(group) for group in groups)
        seen = forward_operations(family, tokens, whole.tokens, _seen_pairs(groups))
        return cls(whole.tokens, tokens, (1 + BACKWARD) * whole.operations, (1 + BACKWARD) * seen)


def _seen_pairs(groups: Sequence[Sequence[Sample]]) -> int:
    """Of a query's token and a key's token that it sees."""
    pairs = 0
    for group in groups:
        prompt = len(group[0].prompt_ids)
        pairs += _triangle(prompt)
        for inputs in (len(sample.response_ids) - 1 for sample in group):
            pairs += inputs * prompt + _triangle(inputs)
    return pairs


def _triangle(side: int) -> int:
    return side * (side + 1) // 2


@dataclass(frozen=True)
class UpdateMemory:
    """What `aspo plan` says of updates of these samples by one process on a GPU.

    Attributes:
        config: of a run that makes such updates.
        batch: the lengths of each micro-batch, all alike.
    """

    config: RunConfig
    batch: GroupLengths

    @classmethod
    def planned(
        cls, folder: Path, loss: LossConfig, batch: GroupLengths, micro_batches: int, attention: str
    ) -> UpdateMemory:
        """For a bf16 model that recomputes nothing, of `micro_batches` prompts with their responses.

        The loss' KL needs no reference model here: its log-probs are given.
        """
        prompt, responses = batch
        model: dict[str, Any] = {"path": str(folder), "dtype": "bfloat16", "kernels": {"attention": attention}}
        config = run_config(
            folder,
            "bfloat16",
            model=model,
            platform={"device": "cuda"},
            loss=loss.model_dump() | {"kl_coef": 0.0},
            data={"train": {"kind": "jsonl", "path": "none.jsonl"}, "max_prompt_tokens": prompt},
            rollout={
                "prompts_per_step": micro_batches,
                "responses_per_prompt": len(responses),
                "sampling": {"max_response_tokens": max(responses)},
            },
            train={"prompts_per_update": micro_batches, "max_tokens_per_micro_batch": prompt + sum(responses)},
        )
        return cls(config, batch)

    def peak(self, family: Family, memory: int) -> int:
        """Bytes at most, on a GPU that has `memory`: chunks of log-probs go by it."""
        micro_batches = self.config.train.prompts_per_update
        setting = setting_of(self.config, SINGLE)
        setting = replace(setting, micro_batches=micro_batches, scored=micro_batches, gpu_memory=memory)
        more = passing(family, SINGLE, setting, local_batch((self.batch,), 1, 1), 0).peak
        return resident(family, SINGLE, setting, 0).total + more


def known_card(name: str) -> Gpu | None:
    """The planner's figures of a card by the name that its driver gives; None if it has none of that card."""
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    known = [] if words & _OTHER_CARDS else [gpu for short, gpu in BY_NAME.items() if short in words]
    return known[0] if known else None


def card_of(place: Place) -> Gpu | str:
    """The planner's figures of the card that is there, or why there are none."""
    if not place.on_gpu:
        return "needs a GPU"
    name = torch.cuda.get_device_name(place.device)
    return known_card(name) or f"the planner has no figures of this card: {name}"


def show_card_share(sheet: Sheet, place: Place, name: str, rate: float, note: str) -> None:
    """The line of operations a second as a share of the bf16 peak that is published for the card."""
    label = f"{name}: share of the card's peak"
    card = card_of(place)
    if isinstance(card, str):
        sheet.not_done(label, card)
        return
    reference = f"{card.name}: {card.bf16 / 1e12:.0f} TFLOP/s, as published"
    sheet.measured(label, rate / card.bf16, "", reference=reference, note=note)
