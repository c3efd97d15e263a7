"""`aspo check`: the same two updates in several layouts, compared figure by figure with one process."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from aspo_megatron import losses
from aspo_megatron.check.main import CheckSpec
from aspo_megatron.checkpoint.convert import megatron_to_hf
from aspo_megatron.checkpoint.hf.folder import RandomTensors, hf_shapes, write_folder
from aspo_megatron.checkpoint.usable import usable_weights
from aspo_megatron.config import ParallelConfig
from aspo_megatron.config.wording import reason_in_words
from aspo_megatron.config.words import Recompute
from aspo_megatron.errors import ConfigError
from aspo_megatron.folders import model_folder
from aspo_megatron.launch.launcher import launch
from aspo_megatron.models.family import Family
from aspo_megatron.plan.layouts import candidates

ONE_PROCESS = "one process"
HUGGING_FACE = "hugging face"
_SIZES = ("tp", "pp", "vpp", "cp", "dp", "ep", "etp")
_FLAGS = {"sp": "sequence_parallel", "distopt": "distributed_optimizer"}
_RECOMPUTE: dict[str, Recompute] = {f"recompute={word}": word for word in get_args(Recompute) if word != "none"}
_MORE_LAYOUTS = ("tp=2", "tp=2,sp,recompute=full", "dp=2", "dp=2,ep=2")
_SMALL = {
    "vocab_size": 515,  # not a multiple of any tp
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
BUILT_IN: dict[str, dict[str, Any]] = {
    "qwen2": _SMALL | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3-moe": _SMALL
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "head_dim": 24,
        "num_experts": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 16,
        "norm_topk_prob": True,
    },
}
"""config.json of the small models that `aspo check` makes itself, by name."""


@dataclass(frozen=True)
class Tolerances:
    """`figure`: of loss and gradient norm, relative. `gradient`: of a parameter, relative to its largest gradient.

    `weight`: absolute, after two updates. A loss whose terms cancel out is held to `least_loss` at best.
    """

    figure: float = 1e-5
    gradient: float = 2e-5
    weight: float = 1e-6
    least_loss: float = 1e-6


@dataclass(frozen=True)
class CheckRow:
    """One layout. Differences are from one process; `weight_difference` is None for Hugging Face.

    `loss` and `grad_norm` are the first update's, the norm before clipping. `failed`: which figures are too far off:
    loss, grad norm, gradients, weights.
    """

    layout: str
    loss: float
    grad_norm: float
    gradient_difference: float
    gradient_name: str
    weight_difference: float | None
    failed: tuple[str, ...]
    passed: bool


@dataclass(frozen=True)
class CheckResult:
    """What the ranks of a row wrote: loss and norm of each update, the first's gradients, weights after both.

    Gradients are those that the weights are updated with, after clipping. Hugging Face makes one update, no weights.
    """

    loss: list[float]
    grad_norm: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class CheckedLayout:
    """What a row runs with."""

    parallel: ParallelConfig
    recompute: Recompute = "none"


def parse_layout(text: str) -> CheckedLayout:
    """A layout such as `tp=2,pp=2,sp,recompute=full`.

    Raises:
        ConfigError: names the part that is wrong.
    """
    settings: dict[str, Any] = {}
    recompute: Recompute = "none"
    for part in text.split(","):
        key, _, value = part.partition("=")
        if part in _FLAGS:
            settings[_FLAGS[part]] = True
        elif key in _SIZES and value.isdigit():
            settings[key] = int(value)
        elif part in _RECOMPUTE:
            recompute = _RECOMPUTE[part]
        else:
            known = ", ".join([*(f"{size}=N" for size in _SIZES), *_FLAGS, *_RECOMPUTE])
            raise ConfigError(f"layout {text!r}: {part!r} is not one of {known}")
    try:
        return CheckedLayout(ParallelConfig.model_validate(settings), recompute)
    except ValidationError as error:
        first = error.errors()[0]
        what = " ".join(["", *map(str, first["loc"]), reason_in_words(first)])
        raise ConfigError(f"layout {text!r}:{what}") from error


def layout_text(layout: CheckedLayout) -> str:
    """What `parse_layout` reads as this layout; of one process it is empty."""
    set_values = layout.parallel.model_dump(exclude_defaults=True)
    parts = [f"{name}={set_values[name]}" for name in _SIZES if name in set_values]
    parts += [flag for flag, name in _FLAGS.items() if name in set_values]
    if layout.recompute != "none":
        parts.append(f"recompute={layout.recompute}")
    return ",".join(parts)


def layouts_for(family: Family, most_ranks: int) -> list[str]:
    """The default layouts: what `aspo plan` can print for two and four ranks, and options that it does not weigh."""
    planned = [CheckedLayout(parallel) for ranks in (2, 4) for parallel in candidates(family, ranks)]
    more = []
    for text in _MORE_LAYOUTS:
        try:
            family.check_layout((layout := parse_layout(text)).parallel)
        except ConfigError:
            continue
        more.append(layout)
    return [layout_text(each) for each in (*planned, *more) if each.parallel.world_size <= most_ranks]


def make_built_in(name: str, folder: Path) -> Path:
    """A small random model of `BUILT_IN` with tied embeddings; norms and biases are random too."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(BUILT_IN[name]), encoding="utf-8")
    shapes = hf_shapes(folder)
    random = RandomTensors(shapes, std=0.1, seed=0)
    noise = torch.Generator().manual_seed(0)
    tensors = (
        (name, random.read_whole(name) + 0.1 * torch.randn(shape, generator=noise) * (len(shape) == 1))
        for name, shape in shapes.items()
    )
    model = folder / "model"
    write_folder(model, tensors, BUILT_IN[name], tokenizer_from=folder)
    return model


def model_of(path: Path, work: Path) -> Path:
    """The Hugging Face folder at `path`; that of a megatron checkpoint is made in `work`.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    if model_folder(path) == path:
        return path
    megatron_to_hf(path, work / "model", None, lambda count: None)
    return work / "model"


def run_check(
    model: Path,
    layouts: Sequence[str],
    work: Path,
    *,
    loss: str,
    aggregation: str,
    device: str,
    tolerances: Tolerances,
) -> Iterable[CheckRow]:
    """The rows of the table, each as soon as it is known; the first two are one process and Hugging Face.

    Args:
        model: Hugging Face folder.
        layouts: as `parse_layout` reads them.
        work: a folder for what the ranks write.
        loss: name of the policy loss.
        aggregation: of the loss.
        device: `auto`, `cpu` or `cuda`.
        tolerances: what passes.

    Raises:
        UserError: the model, a layout or the loss cannot be used.
    """
    family = usable_weights(model)
    losses.build(loss, {})
    parsed = [(text, parse_layout(text)) for text in layouts]
    for _, layout in parsed:
        family.check_layout(layout.parallel)

    def run(name: str, layout: CheckedLayout | None) -> CheckResult:
        stem = work / name.replace(" ", "-")
        spec = CheckSpec(
            model=str(model),
            parallel=layout.parallel.model_dump() if layout else {},
            recompute=layout.recompute if layout else "none",
            loss=loss,
            aggregation=aggregation,
            device=device,
            common=str(work / "common.safetensors"),
            result=f"{stem}.safetensors",
        )
        processes = layout.parallel.world_size if layout else 1
        stem.with_suffix(".json").write_text(json.dumps(asdict(spec)), encoding="utf-8")
        code = launch("aspo_megatron.check.main", [f"{stem}.json"], processes, 1, log_dir=work / f"logs-{stem.name}")
        if code:
            raise SystemExit(code)
        return read_result(Path(spec.result))

    expected = run(ONE_PROCESS, CheckedLayout(ParallelConfig()))
    yield CheckRow(ONE_PROCESS, expected.loss[0], expected.grad_norm[0], 0.0, "", 0.0, (), passed=True)
    yield compare(HUGGING_FACE, run(HUGGING_FACE, None), expected, tolerances)
    for text, layout in parsed:
        yield compare(text, run(text, layout), expected, tolerances)


def compare(layout: str, got: CheckResult, want: CheckResult, tolerances: Tolerances) -> CheckRow:
    """A row of the table. Every parameter must be there; NaN passes nowhere."""
    failed = []
    if not _near(got.loss, want.loss, tolerances.figure, tolerances.least_loss):
        failed.append("loss")
    if not _near(got.grad_norm, want.grad_norm, tolerances.figure, 0.0):
        failed.append("grad norm")
    gradient, name = _worst_gradient(got.gradients, want.gradients)
    if not gradient <= tolerances.gradient:
        failed.append("gradients")
    weight = None
    if got.weights:
        differences = [float((got.weights[name] - tensor).abs().max()) for name, tensor in want.weights.items()]
        weight = next((each for each in differences if math.isnan(each)), max(differences))
        if not weight <= tolerances.weight:
            failed.append("weights")
    return CheckRow(layout, got.loss[0], got.grad_norm[0], gradient, name, weight, tuple(failed), passed=not failed)


def _near(got: list[float], want: list[float], relative: float, least: float) -> bool:
    """Whether the figure of each update that both have made is near enough."""
    return all(
        abs(ours - theirs) <= max(relative * abs(theirs), least)
        for ours, theirs in zip(got, want[: len(got)], strict=True)
    )


def _worst_gradient(got: dict[str, Tensor], want: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference and its parameter; of those with NaN the first."""
    alone = sorted(got.keys() ^ want.keys())
    if alone:
        return math.inf, f"only on one side: {alone[0]}"
    relative = {name: _relative(got[name], gradient) for name, gradient in want.items()}
    worst = max(relative, key=lambda name: (math.isnan(relative[name]), relative[name]))
    return relative[worst], worst


def _relative(got: Tensor, want: Tensor) -> float:
    """Largest difference, relative to the largest of `want`; where all of `want` is 0 (an unused expert), 0 or inf."""
    difference, scale = float((got - want).abs().max()), float(want.abs().max())
    return difference / scale if scale else (0.0 if difference == 0.0 else math.inf)


def read_result(path: Path) -> CheckResult:
    """What a rank wrote to `CheckSpec.result`."""
    gradients: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        for key in file.keys():  # noqa: SIM118 (not a dict)
            kind, _, name = key.partition(":")
            (gradients if kind == "gradient" else weights)[name] = file.get_tensor(key)
    return CheckResult(json.loads(metadata["loss"]), json.loads(metadata["grad_norm"]), gradients, weights)
