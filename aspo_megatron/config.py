"""The one configuration schema: it serves the command line, the run folder and the reference in docs/.

Every model refuses unknown keys. Only `loss` admits more: the hyperparameters of the chosen loss, which that
loss declares and checks itself (`aspo_megatron.losses.build`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]


class Section(BaseModel):
    """A part of the configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class KernelsConfig(Section):
    """What the model computes with, see docs/gpu.md. The defaults take what is installed; null leaves the choice."""

    layers: Literal["auto", "transformer_engine", "local"] = Field(
        "auto", description="Whose layers: Transformer Engine's (`auto`: on a GPU that has it), or megatron's own."
    )
    fusion: bool | None = Field(
        None,
        description="Activation, and residual after dropout, as one kernel each of torch.compile; rotary positions by "
        "Transformer Engine. null: on a GPU.",
    )
    gradient_fusion: bool | None = Field(
        None,
        description="Layers add a weight's gradient to megatron's buffer themselves: needs Transformer Engine or "
        "NVIDIA Apex. null: where these are.",
    )
    grouped_gemm: bool | None = Field(
        None, description="A rank's experts as one grouped product (Transformer Engine). null: where it is."
    )
    fp8: Literal["none", "e4m3", "hybrid"] = Field(
        "none", description="Products of the layers in FP8; `hybrid`: gradients in e5m2. The log-prob stays as it is."
    )
    fp8_recipe: Literal["delayed", "tensorwise", "blockwise", "mxfp8"] = Field(
        "delayed", description="How FP8 is scaled; `blockwise` needs Hopper, `mxfp8` Blackwell."
    )
    log_prob: Literal["auto", "eager", "compiled"] = Field(
        "auto",
        description="How a chunk's logits are worked on: by plain PyTorch, or by kernels of torch.compile. `auto`: "
        "compiled on a GPU with Triton, else eager, which is faster on a CPU.",
    )


class ModelConfig(Section):
    """The policy that is trained, and its starting weights."""

    path: Path = Field(
        description="Hugging Face model folder: config.json, tokenizer, safetensors weights; or a megatron checkpoint "
        "of `aspo convert` or of a run."
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained", description="Read the folder's weights, or draw random ones for its config.json."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of the weights in forward and backward; the optimizer is fp32 always."
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none",
        description="What backward computes again to save memory: nothing; attention and feed-forward of each layer; "
        "or all of each layer.",
    )
    kernels: KernelsConfig = KernelsConfig()


class PlatformConfig(Section):
    """Where the ranks run."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes CUDA if there is a GPU.")
    threads_per_rank: PositiveInt = Field(
        1, description="CPU threads of each rank; 2 ranks x 2 threads stall on 2 cores."
    )
    timeout_minutes: PositiveFloat = Field(
        10.0, description="A collective that waits longer ends the run; more for long rollouts."
    )


class ParallelConfig(Section):
    """How the model and the batch are split. Ranks needed: tp x cp x dp x pp."""

    tp: PositiveInt = Field(1, description="Tensor parallelism: ranks that share each layer; must divide the heads.")
    pp: PositiveInt = Field(1, description="Pipeline parallelism: ranks that hold different layers.")
    vpp: PositiveInt = Field(1, description="Virtual stages: runs of layers that each pipeline rank holds (pp > 1).")
    pp_layers: tuple[PositiveInt, ...] | None = Field(
        None, description="Layers of each of the pp x vpp stages, in the model's order; null: as even as it goes."
    )
    cp: PositiveInt = Field(1, description="Context parallelism: ranks that share the tokens of each micro-batch.")
    dp: PositiveInt = Field(1, description="Data parallelism: replicas of the model.")
    ep: PositiveInt = Field(
        1,
        description="Expert parallelism: ranks that hold different experts, out of a stage's tp x cp x dp ranks.",
    )
    etp: PositiveInt | None = Field(
        None, description="Tensor parallelism inside each expert; null: tp. ep x etp must divide tp x cp x dp."
    )
    sequence_parallel: bool = Field(False, description="Split norms and residuals over the tp ranks by token.")
    distributed_optimizer: bool = Field(False, description="Split the optimizer state over the dp ranks.")
    overlap_grad_reduce: bool = Field(
        False, description="Sum gradients over the dp ranks while backward of the last micro-batch goes on."
    )

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def expert_tp(self) -> int:
        """Ranks that share each expert."""
        return self.etp or self.tp

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sequence_parallel and self.tp == 1:
            raise ValueError("sequence_parallel needs tp > 1")
        if self.vpp > 1 and self.pp == 1:
            raise ValueError("vpp > 1 needs pp > 1")
        if self.pp_layers is not None and len(self.pp_layers) != self.pp * self.vpp:
            raise ValueError(f"pp_layers has {len(self.pp_layers)} numbers for pp x vpp = {self.pp * self.vpp} stages")
        if (self.ep > 1 or self.etp is not None) and self.tp * self.cp * self.dp % (self.ep * self.expert_tp):
            raise ValueError(
                f"ep x etp = {self.ep * self.expert_tp} does not divide tp x cp x dp = {self.tp * self.cp * self.dp}"
            )
        return self


class SourceConfig(Section):
    """Problems to train or evaluate on."""

    kind: Literal["jsonl", "huggingface", "reasoning_gym"] = Field(description="Where problems come from.")
    path: str | None = Field(None, description="JSONL file, or a Hugging Face dataset's name or folder.")
    split: str = Field("train", description="Split of a Hugging Face dataset.")
    subset: str | None = Field(None, description="Configuration name of a Hugging Face dataset.")
    prompt_field: str = Field(
        "prompt",
        description="Field that holds the problem's text. For reasoning-gym: leave it for the `question`, or name "
        "a field of its metadata, e.g. `expression`.",
    )
    answer_field: str | None = Field("answer", description="Field with the reference answer; null if there is none.")
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
    max_prompt_tokens: PositiveInt = Field(2048, description="A longer prompt is an error that names the problem.")


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
    host: str = Field("127.0.0.1", description="Where started servers listen. Beyond loopback, set api_key_file.")
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
    api_key_file: Path | None = Field(None, description="File with the key that the servers ask for.")
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
    sync: Literal["distributed", "tensor", "disk"] = Field(
        "distributed",
        description="How weights get there: by a broadcast (NCCL or gloo); in requests, and by memory that is shared "
        "with servers on this machine (CUDA IPC on a GPU); or by a folder that all machines see (RUN/sync).",
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
        None, description="Largest mean difference of a probe's log-probs; null: 1e-4 in float32, 0.05 in bfloat16."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for address in self.addresses:
            if not address.startswith(("http://", "https://")):
                raise ValueError(f"addresses: {address!r} does not begin with http:// or https://")
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError("addresses: a server is named twice")
        if self.router is not None and not self.router.startswith(("http://", "https://")):
            raise ValueError(f"router: {self.router!r} does not begin with http:// or https://")
        if self.router is not None and not self.addresses:
            raise ValueError("router: name the servers behind it in addresses; weights go to them directly")
        return self


class RolloutConfig(Section):
    """Generation of training responses."""

    engine: Literal["embedded", "sglang"] = Field(
        "embedded", description="`embedded`: inside the training processes; `sglang`: by servers (rollout.servers)."
    )
    servers: ServersConfig = ServersConfig()
    overlap: Literal["none", "wait", "continue"] = Field(
        "none",
        description="Whether the next step's responses are generated while the trainer trains (engine sglang): no; "
        "yes, and a weight sync waits for those in flight; or these go on with the new weights.",
    )
    cut_off: float = Field(
        1.0,
        ge=0.5,
        le=1.0,
        description="Below 1: prompts_per_step / cut_off prompts are asked at a time, and a step trains on the first "
        "prompts_per_step whose responses are complete; the others go on in the next step (engine sglang).",
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
    max_batch_tokens: PositiveInt = Field(65536, description="Tokens (prompt and response) the engine holds at once.")

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


class CodeConfig(Section):
    """How the reward `code` runs programs, see docs/rewards.md. Limits hold for each test."""

    sandbox: Literal["auto", "namespaces", "landlock", "rlimits"] = Field(
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
    when: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict,
        description="Only for problems whose fields have these values, e.g. `{source: [aime, amc]}`; empty: all.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="As `reward.options`.")
    code: CodeConfig | None = Field(None, description="As `reward.code`, and that one if null.")


class RewardConfig(Section):
    """What a response is worth. Scoring runs in worker processes with a time limit."""

    kind: str = Field(
        "math",
        description="`math`, `code`, `reasoning_gym`, `mixture` (of `components`), or `package.module:function` with "
        "(problem, response, **options) -> float.",
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
        if (self.kind == "mixture") != bool(self.components):
            raise ValueError("kind mixture and `components` go together: give both or neither")
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
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="Estimator of the KL in the reward.")


class AdvantageConfig(Section):
    """From rewards to advantages. GRPO: group and group; docs/loss.md has the others."""

    baseline: Literal["group", "leave-one-out", "batch"] = Field(
        "group",
        description="What a reward is compared with: the mean of its prompt's responses (GRPO), of the others of them "
        "(RLOO), or of all (REINFORCE++).",
    )
    scale: Literal["group", "batch", "none"] = Field(
        "group",
        description="Standard deviation that it is divided by: the group's (GRPO), the batch's (REINFORCE++), or none "
        "(Dr. GRPO, RLOO).",
    )


class LossConfig(BaseModel):
    """The policy loss. Further keys are hyperparameters of the loss named, see `aspo losses`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field("aspo", description="Name of the loss; `aspo losses` lists them.")
    aggregation: Aggregation = Field("token-mean", description="How per-token losses become one number.")
    kl_coef: NonNegativeFloat = Field(0.001, description="Weight of the KL to the starting model; 0 switches it off.")
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k3", description="Estimator of that KL.")
    kl_tokens: Literal["all", "low-entropy"] = Field(
        "all",
        description="Where that KL counts; `low-entropy`: at tokens at or below the 0.8-quantile of their response's "
        "entropies, as ASPO's released code has it.",
    )
    entropy_coef: float = Field(0.0, description="Weight of an entropy bonus.")
    rollout_correction: Literal["none", "tis", "icepop"] = Field(
        "none",
        description="Weight of a token for what the engine's probability p differs from the trainer's pi_old, "
        "k = pi_old / p: none, min(k, max), or k inside min..max and 0 outside.",
    )
    rollout_ratio_min: NonNegativeFloat = Field(0.5, description="The min of `icepop`.")
    rollout_ratio_max: PositiveFloat = Field(2.0, description="The max of `tis` and `icepop`.")
    router_aux_coef: NonNegativeFloat = Field(
        0.0,
        description="Weight of the load-balancing loss of a mixture of experts; it is computed in each micro-batch.",
    )

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keys beyond the ones above; the loss checks them."""
        return dict(self.model_extra or {})


class OptimizerConfig(Section):
    """Adam of megatron-core."""

    lr: PositiveFloat = Field(1e-6, description="Learning rate after the warm-up.")
    min_lr: NonNegativeFloat = Field(0.0, description="Learning rate at the end of a decaying schedule.")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="Course after the warm-up.")
    warmup_updates: NonNegativeInt = Field(0, description="Optimizer updates over which lr rises from 0.")
    weight_decay: NonNegativeFloat = Field(0.1, description="Decoupled weight decay.")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="Decay of the first moment.")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="Decay of the second moment.")
    eps: PositiveFloat = Field(1e-8, description="Adam's epsilon.")
    clip_grad: NonNegativeFloat = Field(1.0, description="Limit of the global gradient norm; 0 switches it off.")
    offload: bool = Field(
        False, description="Keep Adam's moments in the host's memory except while an update is made (on a GPU)."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr} is above lr={self.lr}")
        return self


class TrainConfig(Section):
    """The training loop."""

    steps: PositiveInt = Field(100, description="Rollouts. Each is followed by epochs x mini-batches updates.")
    prompts_per_update: PositiveInt = Field(16, description="Prompts in one optimizer update (the mini-batch).")
    epochs: PositiveInt = Field(1, description="Passes over each rollout.")
    max_tokens_per_micro_batch: PositiveInt = Field(16384, description="Token budget of a packed micro-batch.")
    log_prob_chunk: PositiveInt | None = Field(
        None,
        description="Response tokens whose logits exist at the same time; null: what fits in 256 MiB (1 GiB on a GPU).",
    )
    old_log_probs: Literal["recompute", "rollout"] = Field(
        "recompute", description="Take pi_old from a trainer pass, or from the engine that generated."
    )


class WarmupConfig(Section):
    """Supervised training on the reference answers before RL, for models that start from nothing."""

    updates: NonNegativeInt = Field(0, description="Supervised updates; 0 for none.")
    batch_size: PositiveInt = Field(64, description="Problems in one supervised update.")
    lr: PositiveFloat = Field(1e-3, description="Learning rate of the supervised updates.")
    response: str = Field(
        "{answer}", description="Text to imitate; `{answer}` is replaced by the reference answer, the end is added."
    )


class EvalConfig(Section):
    """Evaluation on the held-out problems: before, during and after training."""

    every: NonNegativeInt = Field(10, description="Steps between evaluations; 0: only before and after.")
    samples: PositiveInt = Field(1, description="Responses to each problem (K of avg@K).")
    pass_k: tuple[PositiveInt, ...] = Field((1,), description="The k of pass@k; none may exceed `samples`.")
    sampling: SamplingConfig | None = Field(None, description="Sampling for evaluation; null: that of the rollouts.")
    max_problems: PositiveInt | None = Field(None, description="Only the first so many held-out problems.")
    chunk: PositiveInt | None = Field(
        None,
        description="Problems that `aspo eval` asks at a time and then writes, which is what a kill can cost; null: as "
        "many as make 256 responses for each process or server.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(k > self.samples for k in self.pass_k):
            raise ValueError(f"pass_k {list(self.pass_k)} needs at least that many `samples`, not {self.samples}")
        return self


class LogConfig(Section):
    """What a run writes besides metrics.jsonl, which is always there."""

    tensorboard: bool = Field(True, description="Write TensorBoard events to RUN/tensorboard/.")
    wandb: Literal["none", "online", "offline"] = Field(
        "none", description="Log to Weights & Biases (`pip install wandb`); `offline` into RUN/wandb/ for `wandb sync`."
    )
    wandb_project: str = Field("aspo-megatron", description="Project there.")
    samples_per_step: NonNegativeInt = Field(4, description="Responses of each step kept in RUN/samples.jsonl.")
    profile_step: NonNegativeInt = Field(
        0, description="Step whose time and memory are written to RUN/profile/ (`--profile`); 0: none."
    )


class CheckpointConfig(Section):
    """Training state, from which a killed run goes on, and models exported while training."""

    every: NonNegativeInt = Field(
        10, description="Steps between saves of the training state; 0: none, except when a signal stops the run."
    )
    keep: PositiveInt = Field(2, description="Saved states to keep; the oldest goes when a new one is complete.")
    async_save: bool = Field(True, description="Write the state while training goes on, from a copy in host memory.")
    export_every: NonNegativeInt = Field(
        0, description="Steps between Hugging Face folders in RUN/exports/; 0: none but RUN/hf at the end."
    )


class SlurmConfig(Section):
    """The job that `aspo slurm` makes of a run, see docs/slurm.md. Computes nothing: a run may go on with others."""

    nodes: PositiveInt | None = Field(None, description="Nodes of the job; null: as many as the ranks need.")
    gpus_per_node: NonNegativeInt = Field(8, description="GPUs of a node, each for a rank; 0: ranks on CPUs.")
    server_nodes: NonNegativeInt = Field(
        0, description="Further nodes of the job: each has rollout.servers.count SGLang servers, which the run uses."
    )
    server_directives: tuple[str, ...] = Field(
        (),
        description="Options of sbatch for the server nodes alone, e.g. `--partition=inference`, `--gpus-per-node=4`: "
        "the job is then a heterogeneous one.",
    )
    servers_of: Path | None = Field(
        None, description="Folder of a job of slurm/serve.sbatch: the run waits for its servers and uses them."
    )
    cpus_per_task: PositiveInt = Field(8, description="CPU cores of each rank.")
    time: str = Field(
        "24:00:00",
        pattern=r"^(\d+-)?\d+(:\d+){0,2}$",
        description="Time limit, as Slurm writes it: `minutes`, `hours:minutes:seconds`, `days-hours`.",
    )
    save_seconds: PositiveInt = Field(300, description="So long before the time limit the run saves its state.")
    partition: str | None = Field(None, description="Partition; null: the cluster's default.")
    account: str | None = Field(None, description="Account; null: the user's default.")
    qos: str | None = Field(None, description="Quality of service; null: the default.")
    constraint: str | None = Field(None, description="Features that the nodes must have.")
    directives: tuple[str, ...] = Field((), description="Further options of sbatch, e.g. `--mem=0`, `--exclusive`.")
    setup: tuple[str, ...] = Field((), description="Shell lines run first, e.g. `module load cuda`.")
    venv: Path | None = Field(None, description="Virtual environment of the ranks; null: that of `aspo slurm`.")
    container: str | None = Field(None, description="Image with aspo inside; null: none.")
    container_runtime: Literal["pyxis", "apptainer"] = Field("pyxis", description="What runs the image.")
    mounts: tuple[str, ...] = Field((), description="Folders that the container sees, `FROM:TO`.")
    log_dir: Path = Field(Path("slurm-logs"), validate_default=False, description="Folder of the jobs' logs.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("directives", "server_directives"):
            for line in self.model_dump()[key]:
                if not line.startswith("--"):
                    raise ValueError(f"{key}: {line!r} is no option of sbatch; they begin with --")
        if self.server_directives and not self.server_nodes:
            raise ValueError("server_directives: are for server_nodes, of which there are none")
        if self.server_nodes and self.servers_of:
            raise ValueError("server_nodes, servers_of: the servers are on nodes of this job or of another, not both")
        return self


class RunConfig(Section):
    """A whole run. `output_dir`, `model.path` and `data.train` have no default."""

    output_dir: Path = Field(description="The run folder. One that holds this same run is gone on with.")
    seed: int = Field(1, description="Seed of everything random; the same seed gives the same curve.")
    model: ModelConfig
    platform: PlatformConfig = PlatformConfig()
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    shaping: ShapingConfig = ShapingConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    warmup: WarmupConfig = WarmupConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    slurm: SlurmConfig = SlurmConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rollout.prompts_per_step % self.train.prompts_per_update:
            raise ValueError(
                f"rollout.prompts_per_step={self.rollout.prompts_per_step} is not a multiple of "
                f"train.prompts_per_update={self.train.prompts_per_update}"
            )
        if self.loss.rollout_correction != "none" and self.train.old_log_probs == "rollout":
            raise ValueError(
                f"loss.rollout_correction={self.loss.rollout_correction} compares the trainer's log-probs with the "
                "engine's: train.old_log_probs must be recompute"
            )
        if self.rollout.sampling.temperature == 0:
            raise ValueError("rollout.sampling.temperature=0: greedy responses of a group are all the same")
        return self
