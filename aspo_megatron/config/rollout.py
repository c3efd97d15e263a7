"""Generation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from aspo_megatron.config.base import Section
from aspo_megatron.config.plain import plain, refuse_no_address
from aspo_megatron.config.words import WeightSync


class SamplingConfig(Section):
    """How responses are drawn. Log-probs are those of log_softmax(logits / temperature), before top-p and top-k."""

    max_response_tokens: PositiveInt = Field(1024, description="Length limit of a response.")
    temperature: NonNegativeFloat = Field(1.0, description="0 is greedy (evaluation only).")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Nucleus sampling; training wants 1.")
    top_k: NonNegativeInt = Field(0, description="Keep the k likeliest tokens; 0 keeps all.")
    stop: tuple[str, ...] = Field((), description="Texts that end a response (besides the end-of-sequence token).")


class ServersConfig(Section):
    """SGLang servers: for `aspo serve`, and for a run with rollout.engine=sglang."""

    addresses: tuple[str, ...] = Field(
        (), description="Servers that run already, e.g. `http://node3:30000`; none: the run starts `count` of its own."
    )
    router: str | None = Field(
        None, description="An sglang-router in front of `addresses`, e.g. `http://node1:30000`: generation goes by it."
    )
    count: PositiveInt = Field(1, description="Servers to start on this machine.")
    tp: PositiveInt = Field(1, description="GPUs that share the model in each started server.")
    host: str = Field("127.0.0.1", description="Where started servers listen; the default is for this machine alone.")
    port: NonNegativeInt = Field(0, le=65535, description="Port of the first started server; 0: free ones are taken.")
    python: Path = Field(
        Path(".venv-sglang/bin/python"),
        validate_default=False,  # in the strict validation of JSON a path is a string
        description="Python with SGLang, in an environment of its own (`make sglang-cpu` without a GPU).",
    )
    memory_fraction: float | None = Field(
        None, gt=0.0, lt=1.0, description="Share of a GPU's memory for weights and KV cache; null: SGLang's own choice."
    )
    max_cached_tokens: PositiveInt = Field(65536, description="Tokens in the KV cache of a started server on CPU.")
    extra_args: tuple[str, ...] = Field((), description="Further arguments of `python -m sglang.launch_server`.")
    api_key_file: Path | None = Field(
        None,
        description="File with the key that the servers ask for; null: for those that are started one is made, in "
        "RUN/logs/servers.key.",
    )
    start_timeout_seconds: PositiveFloat = Field(900.0, description="A server that is not ready by then has failed.")
    restarts: NonNegativeInt = Field(3, description="How often a started server that died is started again.")
    concurrency: PositiveInt = Field(256, description="Responses that each rank asks of one server at a time.")
    request_timeout_seconds: PositiveFloat = Field(
        1800.0, description="A response that takes longer is asked of another server."
    )
    attempts: PositiveInt = Field(5, description="How often a response is asked for before the step fails.")
    max_failures: PositiveInt = Field(3, description="Failures in a row after which a server is left out.")
    recovery_minutes: NonNegativeFloat = Field(
        10.0, description="How long a run without any server waits, its state saved, for one to come back."
    )
    sync: Literal["auto", WeightSync] = Field(
        "auto",
        description="How weights get there: by a broadcast (NCCL or gloo); in requests, and by memory that is shared "
        "with servers on this machine (CUDA IPC on a GPU); or by a folder that all machines see (RUN/sync). auto: "
        "`distributed`, but `tensor` for the run's own servers where NCCL cannot connect them with it.",
    )
    bucket_mib: PositiveInt = Field(256, description="Weights are gathered and sent in pieces of about this size.")
    sync_timeout_seconds: PositiveFloat = Field(300.0, description="A server that takes a piece longer is left out.")
    colocate: bool = Field(
        False,
        description="The servers are on the trainer's GPUs: they give up their memory while it trains, see "
        "docs/sglang.md. Not with rollout.overlap.",
    )
    probe_every: NonNegativeInt = Field(
        10,
        description="Syncs between proofs that servers compute as the trainer does, from the first on; 0: none.",
    )
    probe_tolerance: PositiveFloat | None = Field(
        None,
        description="By how much 90 % of a probe's log-probs may differ; null: 1e-4 in float32; in bfloat16 0.2, and "
        "0.5 of a model with experts, or where trainer or servers alone quantise; there the run only warns.",
    )

    _one_line = field_validator("addresses", "router", "host")(plain)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for word in self.extra_args:
            if (option := _set_elsewhere(word)) is not None:
                raise ValueError(f"extra_args: {option}: {_SET_ELSEWHERE[option]}")
        for address in self.addresses:
            refuse_no_address("addresses", address)
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError("addresses: a server is named twice")
        if self.router is not None:
            refuse_no_address("router", self.router)
        if self.router is not None and not self.addresses:
            raise ValueError("router: name the servers behind it in addresses; weights go to them directly")
        return self


_SET_ELSEWHERE = {
    "--api-key": "the run would not know the key; set rollout.servers.api_key_file",
    "--host": "set rollout.servers.host, by which the run finds the servers",
    "--port": "set rollout.servers.port, by which the run finds the servers",
    "--config": "the servers' key is in their one file of settings; give the settings as words here",
}
"""Options that the run itself gives to servers, with what to do instead: a second one would replace the run's."""


def _set_elsewhere(word: str) -> str | None:
    """The option above that an argument sets, which SGLang takes in short, too: `--api-key=a`, `--api-k`; else None."""
    given = word.split("=", 1)[0].strip().replace("_", "-")
    found = [name for name in _SET_ELSEWHERE if len(given) > len("--") and name.startswith(given)]
    return found[0] if found else None


class RolloutConfig(Section):
    """Generation of training responses."""

    engine: Literal["embedded", "sglang"] = Field(
        "embedded", description="`embedded`: inside the training processes; `sglang`: by servers (rollout.servers)."
    )
    servers: ServersConfig = ServersConfig()
    overlap: Literal["none", "wait", "continue"] = Field(
        "none",
        description="Whether the next step's responses are generated while the trainer trains (engine sglang): no; "
        "yes, and a weight sync waits for those in flight; or these continue with the new weights.",
    )
    cut_off: float = Field(
        1.0,
        ge=0.5,
        le=1.0,
        description="Below 1: prompts_per_step / cut_off prompts are asked at a time, and a step trains on the first "
        "prompts_per_step whose responses are complete; the others continue in the next step (engine sglang).",
    )
    prompts_per_step: PositiveInt = Field(64, description="Prompts in one rollout.")
    responses_per_prompt: int = Field(16, ge=2, description="Responses to each prompt (the group).")
    sampling: SamplingConfig = SamplingConfig()
    dynamic_sampling: Literal["off", "drop", "refill"] = Field(
        "off",
        description="Of prompts whose responses all have the same reward: keep them, drop them, or drop them and ask "
        "others until the batch is full (DAPO).",
    )
    max_asks: PositiveInt = Field(10, description="Rounds of asking in a step with `refill`.")
    max_batch_tokens: PositiveInt | None = Field(
        None,
        description="Tokens (prompt and response) the embedded engine holds at once. null: 65,536 on a CPU, on a GPU "
        "those whose keys and values fill half of the memory that is free then, and no more responses than a quarter "
        "of it is enough to draw tokens for.",
    )

    @field_validator("dynamic_sampling", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value

    @property
    def takes_turns(self) -> bool:
        """Whether the engine is on the trainer's GPUs, and generates while the trainer does nothing."""
        return self.engine == "embedded" or self.servers.colocate

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap != "none" and self.engine != "sglang":
            raise ValueError(f"overlap={self.overlap} needs engine sglang, whose servers generate beside the trainer")
        if self.cut_off < 1.0 and self.engine != "sglang":
            raise ValueError(f"cut_off={self.cut_off} needs engine sglang")
        if self.cut_off < 1.0 and self.dynamic_sampling == "refill":
            raise ValueError(f"cut_off={self.cut_off} does not go with dynamic_sampling=refill; take drop or off")
        if self.servers.colocate and self.overlap != "none":
            raise ValueError(
                f"overlap={self.overlap} does not go with servers.colocate, which has servers and trainer take turns"
            )
        return self
