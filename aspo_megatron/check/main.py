"""What one rank of `aspo check` does: `python -m aspo_megatron.check.main SPEC.json`.

Two updates on a batch that makes every part of the loss act: ratios far from 1 on both sides, both signs of advantage,
ragged lengths, a response that is masked wholly, a replica with fewer tokens than the others, many micro-batches. Its
gradients are clipped to half of their norm, so that a wrong norm is felt in all of them, and in the weights.
"""

from __future__ import annotations

import gc
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from aspo_megatron import losses
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.config import LossConfig, ModelConfig, OptimizerConfig, ParallelConfig, PlatformConfig
from aspo_megatron.data.packing import pack
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.family import Family, read_family
from aspo_megatron.models.hf_names import by_checkpoint_name
from aspo_megatron.parallel.grid.topology import Topology, process_grid

if TYPE_CHECKING:  # megatron is imported where its platform is installed
    from aspo_megatron.parallel.model.policy import PolicyModel
    from aspo_megatron.parallel.update.optimizer import Optimizer
    from aspo_megatron.parallel.update.passes import PassLimits
    from aspo_megatron.parallel.update.step import UpdateResult

_TEMPERATURE = 0.8
_MAX_RESPONSE = 24
_LENGTHS = ((1, 2, 9, 24, 3), (5, 1, 14), (12, 1, 6), (8, 8), (2, 5, 17))


@dataclass(frozen=True)
class CheckSpec:
    """One row of the check.

    `parallel`: the layout; empty for Hugging Face. `common`: file with what all rows start from, which the first row
    writes: the current log-probs, from which the batch's old and reference ones are shifted, and the bound of the
    gradient norm.
    """

    model: str
    parallel: dict[str, Any]
    recompute: str
    loss: str
    aggregation: str
    device: str
    common: str
    result: str

    @property
    def loss_config(self) -> LossConfig:
        """Every term of the objective is on."""
        return LossConfig.model_validate(
            {"name": self.loss, "aggregation": self.aggregation, "kl_coef": 0.05, "entropy_coef": 0.01}
        )


def make_groups(family: Family) -> list[list[Sample]]:
    """The batch's prompts and responses, without log-probs."""
    random = np.random.default_rng(0)
    groups: list[list[Sample]] = []
    for number, lengths in enumerate(_LENGTHS):
        prompt = random.integers(0, family.vocab_size, 3 + 4 * number)
        groups.append([])
        for length in lengths:
            mask = (random.random(length) < 0.9) | (length < 3)
            groups[-1].append(
                Sample(
                    problem_id=str(number),
                    group=number,
                    prompt_ids=prompt,
                    response_ids=random.integers(0, family.vocab_size, length),
                    response_mask=mask & (length != 12),
                    rollout_log_probs=np.zeros(length, dtype=np.float32),
                    weight_version=0,
                    finish_reason="stop",
                    advantage=float(random.normal()),
                )
            )
    return groups


def shift_log_probs(groups: list[list[Sample]], base: torch.Tensor) -> None:
    """Old and reference log-probs: those of the current policy, shifted so that the ratios leave the clip range."""
    random = np.random.default_rng(1)
    start = 0
    for sample in (sample for group in groups for sample in group):
        size = len(sample.response_ids)
        log_probs = base[start : start + size].numpy()
        sample.old_log_probs = log_probs + random.normal(0.0, 0.8, size).astype(np.float32)
        sample.ref_log_probs = log_probs + random.normal(0.0, 0.4, size).astype(np.float32)
        start += size


def check_layout(spec: CheckSpec) -> None:
    """`two_updates` in the layout of `spec`."""
    parallel = ParallelConfig.model_validate(spec.parallel)
    with process_grid(parallel, PlatformConfig(device=spec.device, timeout_minutes=5), seed=1) as topology:
        two_updates(spec, topology)


def two_updates(spec: CheckSpec, topology: Topology) -> None:
    """Two updates; the leader writes losses, gradient norms, gradients and weights, by Hugging Face name."""
    if not Path(spec.common).exists():  # the first row is one process
        _write_common(spec, topology)
        gc.collect()  # megatron's optimizer refers to itself in circles
    groups = make_groups(read_family(Path(spec.model)))
    shift_log_probs(groups, load_file(spec.common)["log_probs"])
    own = groups[topology.dp.rank :: topology.dp.size]
    model, optimizer = _model_and_optimizer(spec, topology, clip_grad=_bound(spec))
    first = _update(spec, model, optimizer, own)
    gradients = {f"gradient:{name}": tensor.clone() for name, tensor in optimizer.hf_gradients(model)}
    second = _update(spec, model, optimizer, own)
    result = gradients | {f"weight:{name}": tensor.clone() for name, tensor in model.hf_tensors()}
    if topology.is_leader:
        _write(spec, [first.loss, second.loss], [first.grad_norm, second.grad_norm], result)
    dist.barrier()


def _write_common(spec: CheckSpec, topology: Topology) -> None:
    """Log-probs of the batch, and half of the norm of an update's gradients, to `spec.common`."""
    from aspo_megatron.parallel.update.passes import response_log_probs

    groups = make_groups(read_family(Path(spec.model)))
    model, optimizer = _model_and_optimizer(spec, topology, clip_grad=0.0)
    scored = {id(sample): torch.from_numpy(found) for sample, found in response_log_probs(model, groups, _limits())}
    base = torch.cat([scored[id(sample)] for group in groups for sample in group])
    shift_log_probs(groups, base)
    norm = _update(spec, model, optimizer, groups).grad_norm
    bound = norm / 2 if math.isfinite(norm) else 0.0
    save_file({"log_probs": base, "bound": torch.tensor(bound, dtype=torch.float64)}, spec.common)


def _bound(spec: CheckSpec) -> float:
    """What the gradient norm is clipped to."""
    return float(load_file(spec.common)["bound"])


def _limits() -> PassLimits:
    from aspo_megatron.parallel.update.passes import PassLimits

    return PassLimits(max_tokens=48, log_prob_chunk=7, temperature=_TEMPERATURE)


def _model_and_optimizer(spec: CheckSpec, topology: Topology, clip_grad: float) -> tuple[PolicyModel, Optimizer]:
    from aspo_megatron.parallel.model.policy import build_model
    from aspo_megatron.parallel.update.optimizer import Optimizer

    settings = ModelConfig.model_validate({"path": spec.model, "recompute": spec.recompute})
    with SafetensorsFolder(Path(spec.model)) as weights:
        model = build_model(read_family(Path(spec.model)), topology, settings, weights)
    # Adam's eps keeps rounding noise from deciding a step's sign.
    adam = OptimizerConfig(lr=2e-4, eps=1e-4, weight_decay=0.1, clip_grad=clip_grad)
    return model, Optimizer(model, adam, 2, topology.parallel)


def _update(spec: CheckSpec, model: PolicyModel, optimizer: Optimizer, own: list[list[Sample]]) -> UpdateResult:
    from aspo_megatron.parallel.update.objective import PolicyObjective
    from aspo_megatron.parallel.update.step import aggregation_of, update

    objective = PolicyObjective(losses.build(spec.loss, {}), spec.loss_config)
    return update(model, optimizer, own, objective, aggregation_of(spec.loss_config, _MAX_RESPONSE), _limits())


def check_hugging_face(spec: CheckSpec) -> None:
    """Loss and gradients of the same batch by transformers, one sample at a time, without packing."""
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    from aspo_megatron.models.hf_config import transformers_config
    from aspo_megatron.parallel.device.platform import CpuPlatform, installed

    with installed(CpuPlatform()):
        from aspo_megatron.parallel.update.objective import PolicyObjective, weighted_sum
        from aspo_megatron.parallel.update.step import aggregation_of

    logging.disable_progress_bar()
    family = read_family(Path(spec.model))
    groups = make_groups(family)
    shift_log_probs(groups, load_file(spec.common)["log_probs"])
    model = AutoModelForCausalLM.from_pretrained(
        spec.model,
        config=transformers_config(family, attention="eager"),
        generation_config=GenerationConfig(),  # else it is read from the folder
        dtype=torch.float32,
        attn_implementation="eager",
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
    )
    weighting = aggregation_of(spec.loss_config, _MAX_RESPONSE)
    denominator = sum(weighting(sample)[1] for group in groups for sample in group)
    objective = PolicyObjective(losses.build(spec.loss, {}), spec.loss_config)
    total = torch.zeros(())
    for sample in (sample for group in groups for sample in group):
        batch = pack([[sample]], [[weighting(sample)[0] / denominator]])
        tokens = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids]))[None]
        logits = model(tokens).logits[0, len(sample.prompt_ids) - 1 : -1]
        log_p = torch.log_softmax(logits / _TEMPERATURE, dim=-1)
        log_probs = log_p.gather(1, batch.targets[:, None]).squeeze(1)
        output = objective(batch, log_probs, -(log_p.exp() * log_p).sum(-1))
        total = total + weighted_sum(output, batch)
    total.backward()
    grads = ((name, parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None)
    gradients = {f"gradient:{name}": gradient for name, gradient in by_checkpoint_name(grads)}
    norm = float(torch.stack([gradient.double().norm() for gradient in gradients.values()]).norm())
    clipped = min(1.0, _bound(spec) / norm) if norm else 1.0
    _write(spec, [float(total.detach())], [norm], {name: each * clipped for name, each in gradients.items()})


def _write(spec: CheckSpec, loss: list[float], norm: list[float], tensors: dict[str, torch.Tensor]) -> None:
    metadata = {"loss": json.dumps(loss), "grad_norm": json.dumps(norm)}
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, spec.result, metadata=metadata)


if __name__ == "__main__":
    row = CheckSpec(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    check_hugging_face(row) if row.parallel == {} else check_layout(row)
