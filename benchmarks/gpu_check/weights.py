"""Weights handed to another process of the machine, and the embedded engine: what it computes, holds and gives back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.rollout.engine import Request
from aspo_megatron.train.probe import tolerance_of
from benchmarks.gpu_check import memory
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.policies import (
    Weights,
    adam,
    build,
    dense_folder,
    made_update,
    micro_batch_tokens,
    one_rank,
    run_config,
)
from benchmarks.gpu_check.weights_bucket import shared_bucket
from benchmarks.gpu_check.weights_budget import batch_tokens

if TYPE_CHECKING:
    from aspo_megatron.parallel.model.policy import PolicyModel
    from aspo_megatron.rollout.embedded.engine import EmbeddedEngine

_SHARE = 0.9
_UPDATES, _APART = 10, 5.0
"""So many updates move log-probs by more than so many times what bf16 makes of them."""
_TOKENS_ON_GPU = 96
_FP32_MOST = 1e-4
"""In nats: log-probs are near -10, where fp32 steps by 1e-6, and logits are sums of a thousand products."""


def run(sheet: Sheet, place: Place) -> None:
    """All lines of the section."""
    folder = dense_folder(place.work / "model", small=place.small)
    weights = Weights(folder)
    with sheet.part("a bucket of weights"):
        shared_bucket(sheet, place)
    with one_rank(place.device) as topology:
        for dtype in ("float32", "bfloat16"):
            with sheet.part(f"{dtype}: the embedded engine"):
                engine = engine_and_trainer(sheet, topology, folder, weights, dtype, micro_batch_tokens(place))
                if dtype == "bfloat16" and place.on_gpu:
                    batch_tokens(sheet, engine, place.device)
        if not place.on_gpu:
            sheet.not_done("rollout.max_batch_tokens: null", "needs a GPU")


def engine_and_trainer(
    sheet: Sheet, topology: Topology, folder: Path, weights: Weights, dtype: str, tokens: int
) -> EmbeddedEngine:
    """The engine's log-probs against the trainer's, before and after it gave its memory back; gives the engine."""
    from aspo_megatron.rollout.embedded.engine import EmbeddedEngine

    device = topology.platform.device
    on_gpu = device.type != "cpu"
    model = build(folder, topology, dtype, weights)
    optimizer = adam(model)
    tokenizer: Any = SimpleNamespace(eos_token_id=2)
    engine = EmbeddedEngine(folder, tokenizer, getattr(torch, dtype), device, None)
    bound = tolerance_of(run_config(folder, dtype), 0)
    requests = requests_for(folder, small=not on_gpu)
    spoken: list[list[float]] = []
    noise = 0.0
    for version, label in enumerate(("", ", with new weights")):
        before = memory.held() if on_gpu else 0
        engine.update_weights(model.hf_tensors(), version)
        holds = memory.held() - before if on_gpu else 0
        groups = engine.generate(requests, SamplingConfig(max_response_tokens=_TOKENS_ON_GPU if on_gpu else 12))
        noise = max(noise, compare(sheet, model, groups, tokens, f"{dtype}{label}", bound))
        spoken.append(engine.prompt_log_probs(requests[0].problem.prompt_ids)["embedded"])
        right = all(sample.weight_version == version for group in groups for sample in group)
        sheet.holds(f"{dtype}{label}: responses name their weights", right, reference=f"version {version}")
        engine.release_memory()
        if on_gpu and version:  # libraries take memory, too, as they are first used
            released(sheet, model, dtype, holds, memory.held() - before)
        for number in range(_UPDATES):
            made_update(model, optimizer, number)
    change = float(np.abs(np.subtract(spoken[1], spoken[0])).max())
    name, reference = f"{dtype}: change of log-probs by new weights", "engine_log_prob_diff above"
    sheet.at_least(name, change, _APART * noise, reference=reference, unit="nats")
    engine.update_weights(model.hf_tensors(), 2)
    return engine


def compare(
    sheet: Sheet, model: PolicyModel, groups: list[list[Sample]], tokens: int, label: str, bound: float
) -> float:
    """What training logs as `engine_log_prob_diff`: the engine's log-probs of its tokens against the trainer's.

    Gives that of 90 % of them.
    """
    from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs

    scored = list(response_log_probs(model, groups, PassLimits(tokens, None, 1.0)))
    off = np.concatenate([np.abs(found - sample.rollout_log_probs) for sample, found in scored])
    note = f"mean {off.mean():.2g}, most {off.max():.2g} of {len(off)} tokens"
    share = float(np.quantile(off, _SHARE))
    sheet.at_most(
        f"{label}: engine_log_prob_diff of 90 % of tokens",
        share,
        bound,
        reference="the trainer",
        unit="nats",
        note=note,
    )
    if model.config.params_dtype == torch.float32:
        most = float(off.max())
        sheet.at_most(
            f"{label}: engine_log_prob_diff/max", most, _FP32_MOST, reference="the trainer", unit="nats", note=note
        )
    return share


def released(sheet: Sheet, model: PolicyModel, label: str, holds: int, left: int) -> None:
    """That the engine holds a copy of the weights, and nothing once it gave it back."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    rounding = memory.rounding(len(list(model.parameters())))
    note = f"{memory.mib(holds):.1f} MiB, weights of {memory.mib(size):.1f}"
    sheet.at_most(
        f"{label}: memory of the engine", abs(holds - size), rounding, reference="its weights", unit="B", note=note
    )
    sheet.at_most(f"{label}: memory that it keeps", left, 0, reference="before it had weights", unit="B")


def requests_for(folder: Path, *, small: bool) -> list[Request]:
    """Prompts of several lengths, with several responses each."""
    generator = np.random.default_rng(3)
    vocabulary = read_family(folder).vocab_size
    lengths, count = ((5, 9), 3) if small else ((40, 130, 257, 61), 8)
    prompts = [tuple(map(int, generator.integers(3, vocabulary, length))) for length in lengths]
    return [
        Request(Problem(str(number), "", prompt), count, (1, number), group=number)
        for number, prompt in enumerate(prompts)
    ]
