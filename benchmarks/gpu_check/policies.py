"""Models with random weights and batches for them, of sizes that say something on a GPU or small for a CPU."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aspo_megatron.checkpoint.hf.folder import RandomTensors, hf_shapes
from aspo_megatron.config import ModelConfig, OptimizerConfig, ParallelConfig, PlatformConfig, RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.plan.memory.workload import GroupLengths
from benchmarks.gpu_check.lines import Place

if TYPE_CHECKING:
    from aspo_megatron.parallel.model.policy import PolicyModel
    from aspo_megatron.parallel.update.optimizer import Optimizer

SINGLE = ParallelConfig()
SEED = 1
_STD = 0.04

_COMMON: dict[str, Any] = {
    "num_hidden_layers": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "eos_token_id": 2,
    "bos_token_id": None,
    "initializer_range": 0.02,
}
_DENSE = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True}
_EXPERTS = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "tie_word_embeddings": False,
    "norm_topk_prob": True,
}
_WIDE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 32768,
}
_NARROW = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1031,
}
_WIDE_EXPERTS = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
    "vocab_size": 8192,
}
_NARROW_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}


def dense_folder(path: Path, *, small: bool, **sizes: Any) -> Path:
    """A folder with the config.json of a Qwen3 of four layers, small two; `sizes` replace its own. No weights."""
    return _folder(path, {**_COMMON, **_DENSE, **(_NARROW if small else _WIDE), **sizes})


def expert_folder(path: Path, *, small: bool, **sizes: Any) -> Path:
    """The same of a small Qwen3-MoE."""
    own = {**_NARROW, **_NARROW_EXPERTS} if small else {**_WIDE, **_WIDE_EXPERTS}
    return _folder(path, {**_COMMON, **_EXPERTS, **own, **sizes})


def _folder(path: Path, content: dict[str, Any]) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(content))
    return path


class Weights:
    """Random tensors for a folder, the same for a folder wherever they are made. Drawn once, then kept."""

    def __init__(self, folder: Path) -> None:
        self._drawn = RandomTensors(hf_shapes(folder), _STD, SEED)
        self._kept: dict[str, Tensor] = {}

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows start..stop of a tensor along `dim`."""
        return self.read_whole(name).narrow(dim, start, stop - start)

    def read_whole(self, name: str) -> Tensor:
        """A whole tensor, fp32."""
        if name not in self._kept:
            self._kept[name] = self._drawn.read_whole(name)
        return self._kept[name]


@contextmanager
def one_rank(device: torch.device, threads: int = 1) -> Iterator[Topology]:
    """A process grid of this process alone, on `device`. megatron-core may be imported within."""
    with process_grid(SINGLE, PlatformConfig(device=device.type, threads_per_rank=threads), SEED) as topology:
        yield topology


def build(folder: Path, topology: Topology, dtype: str, weights: Weights) -> PolicyModel:
    """The model of a folder on the topology's device."""
    from aspo_megatron.parallel.model.policy import build_model

    return build_model(read_family(folder), topology, ModelConfig(path=folder, dtype=dtype), weights)


def run_config(folder: Path, dtype: str, output: Path | None = None, **sections: Any) -> RunConfig:
    """The configuration of a run with the folder's model; `sections` are added."""
    content = {
        "output_dir": str(output or "none"),
        "model": {"path": str(folder), "dtype": dtype},
        "data": {"train": {"kind": "jsonl", "path": "none.jsonl"}},
    }
    return RunConfig.model_validate({**content, **sections})


def adam(model: PolicyModel, parallel: ParallelConfig = SINGLE, **settings: Any) -> Optimizer:
    """An optimizer whose gradients are what they are: nothing is clipped."""
    from aspo_megatron.parallel.update.optimizer import Optimizer

    return Optimizer(model, OptimizerConfig(lr=1e-3, clip_grad=0.0, **settings), 100, parallel)


def fill_gradients(model: PolicyModel, number: int) -> None:
    """Give each parameter gradients that depend on nothing but `number`.

    Those of a real pass differ in their last bits from one time on a GPU to the next: attention's do.
    """
    for parameter in model.parameters():
        count = torch.arange(parameter.numel(), dtype=torch.float32, device=parameter.device)
        parameter.main_grad.view(-1).copy_(count.mul_(0.37 + number).sin_().mul_(1e-3))  # type: ignore[attr-defined]


def made_update(model: PolicyModel, optimizer: Optimizer, number: int) -> None:
    """An update by `fill_gradients`."""
    optimizer.zero_grad()
    fill_gradients(model, number)
    optimizer.step()


def ragged_groups(folder: Path, *, small: bool) -> list[list[Sample]]:
    """Prompts and responses of many lengths; on a GPU long enough for every kernel to have whole blocks and rests."""
    wide = ((96, (200, 330, 64, 129)), (300, (500, 250)), (17, (40, 3, 1, 90)))
    narrow = ((9, (20, 33, 6)), (30, (21, 25)), (2, (4, 3, 1)))
    return random_groups(read_family(folder).vocab_size, narrow if small else wide)


def random_groups(vocabulary: int, lengths: Sequence[GroupLengths]) -> list[list[Sample]]:
    """Samples of random tokens with these lengths, always the same.

    Advantages have both signs, and some tokens are masked.
    """
    generator = np.random.default_rng(SEED)

    def sample(group: int, prompt: Any, size: int) -> Sample:
        uniform = -np.log(vocabulary)
        return Sample(
            problem_id=str(group),
            group=group,
            prompt_ids=prompt,
            response_ids=generator.integers(0, vocabulary, size),
            response_mask=(generator.random(size) < 0.9) | (size < 3),
            rollout_log_probs=np.full(size, uniform, dtype=np.float32),
            weight_version=0,
            finish_reason="stop",
            advantage=float(generator.normal()),
            old_log_probs=(uniform + generator.normal(0.0, 0.5, size)).astype(np.float32),
            ref_log_probs=(uniform + generator.normal(0.0, 0.5, size)).astype(np.float32),
        )

    groups = []
    for number, (length, sizes) in enumerate(lengths):
        prompt = generator.integers(0, vocabulary, length)
        groups.append([sample(number, prompt, size) for size in sizes])
    return groups


def micro_batch_tokens(place: Place) -> int:
    """A budget that makes several micro-batches of `ragged_groups`."""
    return 80 if place.small else 900


def words(count: int) -> list[str]:
    """Different words of three to five letters, always the same."""
    letters, generator, found = "abcdefghijklmnopqrstuvwxyz", random.Random(SEED), dict[str, None]()
    while len(found) < count:
        found["".join(generator.choices(letters, k=generator.randint(3, 5)))] = None
    return list(found)
