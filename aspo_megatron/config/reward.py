"""From responses to advantages."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from aspo_megatron.config.base import Section
from aspo_megatron.config.words import Baseline, KlEstimator, SandboxChoice, Scale

FieldValue = str | bool | int | float
"""What a field of a problem may be asked to be."""


class CodeConfig(Section):
    """How the reward `code` runs programs, see docs/rewards.md. Limits hold for each test."""

    sandbox: SandboxChoice = Field(
        "auto",
        description="How programs are shut off from the machine; `auto`: by namespaces, else by Landlock, else the run "
        "ends. `rlimits` leaves the machine's files readable: for models that are trusted.",
    )
    score: Literal["all", "fraction"] = Field(
        "all", description="1 if all tests pass and 0 otherwise, or the share that passes."
    )
    tests_field: str | None = Field(
        None, description="Field of the data that holds the tests; null: the answer, or one of the usual names."
    )
    max_tests: PositiveInt | None = Field(None, description="Only the first so many tests of a problem.")
    seconds_per_test: PositiveFloat = Field(6.0, description="Time, and CPU time, of one test.")
    memory_mib: int = Field(1024, ge=128, description="Address space of a program.")
    output_mib: PositiveInt = Field(16, description="A program that writes more fails.")
    files_mib: PositiveInt = Field(16, description="All files of a program; only `namespaces` lets it write any.")
    threads: PositiveInt = Field(32, description="Threads of a program; it cannot start processes.")
    packages: bool = Field(True, description="Let programs import the packages installed beside this one, e.g. numpy.")
    tolerance: NonNegativeFloat = Field(
        1e-6, description="Error, absolute or relative, allowed where a test expects a number that is no integer."
    )


class RewardComponent(Section):
    """One part of the reward `mixture`, under a name of its own."""

    kind: str = Field(description="As `reward.kind`, but no mixture.")
    weight: float = Field(1.0, description="What its value is multiplied with.")
    when: dict[str, FieldValue | tuple[FieldValue, ...]] = Field(
        default_factory=dict,
        description="Only for problems whose fields have these values, e.g. `{source: [aime, amc], level: 3}`; empty: "
        "all.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="As `reward.options`.")
    code: CodeConfig | None = Field(None, description="As `reward.code`, and that one if null.")


class RewardConfig(Section):
    """What a response is worth. Scoring runs in worker processes with a time limit."""

    kind: str = Field(
        "math",
        description="`math`, `code`, `choice`, `reasoning_gym`, `mixture` (of `components`), or "
        "`package.module:function` with (problem, response, **options) -> float.",
    )
    workers: PositiveInt = Field(2, description="Worker processes on the machine.")
    timeout_seconds: PositiveFloat = Field(
        10.0, description="A response whose scoring takes longer gets reward 0. All tests of a program share it."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of your own function.")
    code: CodeConfig = CodeConfig()
    components: dict[str, RewardComponent] = Field(
        default_factory=dict, description="Parts of a mixture, by names of your own."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "mixture" and not self.components:
            raise ValueError("components: a mixture needs some: components: {NAME: {kind: math, weight: 1.0}}")
        if self.components and self.kind != "mixture":
            raise ValueError(f"components: {self.kind} has none; they need kind: mixture")
        for name, component in self.components.items():
            if component.kind == "mixture":
                raise ValueError(f"components.{name}: a mixture cannot be a part of a mixture")
        return self


class ShapingConfig(Section):
    """What a response is worth beside its reward, and what becomes of long ones."""

    overlong_tokens: NonNegativeInt = Field(
        0, description="Last tokens before max_response_tokens over which the worth of a response falls; 0: none do."
    )
    overlong_penalty: NonNegativeFloat = Field(1.0, description="How far it falls (DAPO's soft over-long penalty).")
    mask_truncated: bool = Field(False, description="Leave responses that were cut at the limit out of the loss.")
    kl_coef: NonNegativeFloat = Field(
        0.0,
        description="KL in the reward: a response's KL to the starting model, summed over its tokens, times this is "
        "taken off its worth. `loss.kl_coef` has the KL in the loss.",
    )
    kl_estimator: KlEstimator = Field("k1", description="Estimator of the KL in the reward.")


class AdvantageConfig(Section):
    """From rewards to advantages. GRPO: group and group; docs/loss.md has the others."""

    baseline: Baseline = Field(
        "group",
        description="What a reward is compared with: the mean of its prompt's responses (GRPO), of the others of them "
        "(RLOO), or of all (REINFORCE++).",
    )
    scale: Scale = Field(
        "group",
        description="What it is divided by: the standard deviation of the group (GRPO) or of the batch (REINFORCE++), "
        "the group's mean (MaxRL, for rewards of 0 and 1), or nothing (Dr. GRPO, RLOO).",
    )
