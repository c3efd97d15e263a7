"""`aspo train RECIPE --tiny`: a recipe on a CPU, with a model of the same architecture scaled down.

A transformation of the configuration and of the model's config.json; what runs then is an ordinary run. Kept: family,
tied embeddings, norms of heads, experts, ratio of heads to key-value heads, loss, advantages, optimizer, recomputation,
and the layout as far as four ranks allow.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import CheckpointError, UserError
from aspo_megatron.files import refuse_link
from aspo_megatron.folders import packaged
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.models.family import Family, read_family
from aspo_megatron.reading import read_json
from aspo_megatron.streams import show

RANKS = 4
"""The most that a tiny run starts."""

_TOKENIZER = packaged("recipes/examples/tiny/model")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_AXES = ("tp", "cp", "dp", "pp")
_GIVEN_UP = ("dp", "cp", "pp", "tp")
"""Which axis goes first where not all of them can be 2."""

_REPLACED: dict[str, dict[str, Any]] = {
    "platform": {"device": "cpu", "threads_per_rank": 1},
    "data": {
        "train": {
            "kind": "reasoning_gym",
            "family": "chain_sum",
            "params": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
            "prompt_field": "expression",
            "size": 200,
        },
        "heldout_fraction": 0.2,
        "format": "raw",
        "template": "{prompt} =",
        "max_prompt_tokens": 32,
    },
    "reward": {"kind": "reasoning_gym"},
    "rollout": {
        "prompts_per_step": 8,
        "responses_per_prompt": 4,
        "sampling": {"max_response_tokens": 8},
    },
    "warmup": {},
    "eval": {"every": 0, "max_problems": 8},
}
"""Sections that a tiny run has anew; keys that are not named have their defaults."""
_CHANGED: dict[str, Any] = {
    "model.init": "random",
    "model.dtype": "float32",
    "train.steps": 2,
    "train.prompts_per_update": 4,
    "train.max_tokens_per_micro_batch": 96,
    "train.log_prob_chunk": None,
    "train.old_log_probs": "recompute",
    "loss.entropy_coef": 0.001,  # so that there are updates, though a random model gets no reward
    "shaping.overlong_tokens": 0,
    "checkpoint.every": 2,
    "checkpoint.export_every": 0,
}
_NEVER_KEPT = ("output_dir", "model.path", "rollout.engine", "rollout.servers")


def tiny_run(path: Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, list[str]]:
    """A recipe's tiny form; its model folder is written beside the run folder, without weights.

    Args:
        path: the recipe's YAML file. Where its `model.path` is not there yet, the folder `model` beside it is read.
        overrides: `key=value` words. One that sets what would be made tiny wins, except for the folder and the engine.

    Returns:
        the configuration, and lines that tell what was changed.

    Raises:
        UserError: the recipe cannot be read, or the folder not written.
    """
    run = load_config(path, overrides)
    family = read_family(model_shape(run, path, overrides))
    parallel = tiny_layout(run.parallel, bool(family.num_experts))
    folder = run.output_dir.with_name(f"{run.output_dir.name}-tiny")
    model = folder.with_name(f"{folder.name}-model")
    settings = run.model_dump() | {"output_dir": folder, "parallel": parallel.model_dump()}
    settings |= {name: dict(section) for name, section in _REPLACED.items()}
    for key, value in {"model.path": model, **_CHANGED}.items():
        _set(settings, key, value)
    for key in (override.partition("=")[0] for override in overrides):
        if not key.startswith((*_NEVER_KEPT, "parallel")):
            _set(settings, key, _get(run.model_dump(), key))
    config = RunConfig.model_validate(settings)
    sizes = tiny_sizes(family, parallel)
    _write_model(model, sizes)
    return config, _changes(run, config, family, sizes)


def tiny_form(path: Path, overrides: Sequence[str]) -> RunConfig:
    """`tiny_run`, which says what it has changed.

    Raises:
        UserError: as `tiny_run`.
    """
    config, changes = tiny_run(path, overrides)
    show("\n".join(changes))
    return config


def model_shape(run: RunConfig, path: Path, overrides: Sequence[str]) -> Path:
    """The folder with the model's config.json: `model.path`, or before its download `model` beside the file `path`.

    A path that `overrides` give is meant as it is: nothing else is read in its place. Nor is it where there is
    something at the path that the file has.
    """
    given = any(word.startswith(("model.path=", "model=")) and "path" in word for word in overrides)
    beside = path.parent / "model"
    instead = not given and not run.model.path.exists() and (beside / "config.json").is_file()
    return beside if instead else run.model.path


def tiny_layout(parallel: ParallelConfig, experts: bool) -> ParallelConfig:
    """A layout for at most four ranks: the largest axis is halved until all are 2, then axes are given up."""
    axes: dict[str, int] = {name: getattr(parallel, name) for name in _AXES}

    def ranks() -> int:
        return axes["tp"] * axes["cp"] * axes["dp"] * axes["pp"]

    while ranks() > RANKS:
        largest = max(_AXES, key=lambda name: axes[name])
        if axes[largest] > 2:
            axes[largest] = max(axes[largest] // 2, 2)
        else:
            axes[next(name for name in _GIVEN_UP if axes[name] > 1)] = 1
    ep, etp = min(parallel.ep, 2), parallel.etp
    inner = axes["tp"] * axes["cp"] * axes["dp"]
    if experts and etp is not None:
        etp = min(etp, axes["tp"])
    if inner % (ep * (etp or axes["tp"])):
        ep = 1
    return ParallelConfig(
        **axes,
        vpp=min(parallel.vpp, 2) if axes["pp"] > 1 else 1,
        ep=ep,
        etp=etp,
        sequence_parallel=parallel.sequence_parallel and axes["tp"] > 1,
        distributed_optimizer=parallel.distributed_optimizer,
    )


def tiny_sizes(family: Family, parallel: ParallelConfig) -> dict[str, Any]:
    """config.json of a small model of the same family, for the tokenizer of examples/tiny.

    Raises:
        CheckpointError: it cannot be read.
    """
    tokenizer = read_json(_TOKENIZER / "config.json", CheckpointError)
    kv_heads = 2
    heads = kv_heads * min(family.num_heads // family.num_kv_heads, 8)
    stages = parallel.pp * parallel.vpp
    sizes: dict[str, Any] = {
        "num_hidden_layers": max(2, stages),
        "hidden_size": 16 * heads,
        "head_dim": 16,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": 128,
        "max_position_embeddings": 256,
        "initializer_range": 0.05,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": None,
        **{key: tokenizer[key] for key in ("vocab_size", "eos_token_id", "pad_token_id")},
    }
    if family.num_experts:
        sizes |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    left_out = ("num_local_experts", "layer_types")  # for each layer of the large model, and all the same
    return {key: value for key, value in family.hf_config.items() if key not in left_out} | sizes


def _write_model(folder: Path, sizes: dict[str, Any]) -> None:
    try:
        for path in (folder, *(folder / name for name in ("config.json", *_TOKENIZER_FILES))):
            refuse_link(path, "model.path")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
        for name in _TOKENIZER_FILES:
            shutil.copyfile(_TOKENIZER / name, folder / name)
    except OSError as error:
        raise UserError(f"{one_line(folder)}: cannot write the tiny model: {error.strerror}") from error


def _changes(run: RunConfig, config: RunConfig, family: Family, sizes: dict[str, Any]) -> list[str]:
    before, after = run.parallel.model_dump(), config.parallel.model_dump()
    axes = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    experts = f", {sizes['num_experts']} experts" if family.num_experts else ""
    return [
        f"tiny model: {family.name}, {sizes['num_hidden_layers']} layers of {sizes['hidden_size']}{experts}, random, "
        f"float32, in {one_line(config.model.path)}",
        f"layout: {', '.join(axes) or 'as it is'}; {counted(config.parallel.world_size, 'rank')} on CPUs",
        f"sums of reasoning-gym, the embedded engine, {counted(config.train.steps, 'step')}; "
        f"run folder {one_line(config.output_dir)}",
    ]


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    for part in section.split(".") if section else []:
        tree = tree.setdefault(part, {})
    tree[name] = value


def _get(tree: dict[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value
