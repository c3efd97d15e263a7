"""The planner's memory against the memory of real updates on CPU ranks: `python -m benchmarks.plan_memory`.

Each case makes updates with a random model in ranks of its own. What is always there is counted tensor by tensor. What
an update takes beyond it is measured at the second update: the peak of the process's resident memory, from Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from aspo_megatron import losses
from aspo_megatron.config import LossConfig, ModelConfig, OptimizerConfig, ParallelConfig, PlatformConfig
from aspo_megatron.config.words import Recompute
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.plan.memory.rank import passing, resident
from aspo_megatron.plan.memory.setting import Setting
from aspo_megatron.plan.memory.workload import GroupLengths, local_batch
from benchmarks.measure import peak_bytes
from benchmarks.random_samples import random_group
from benchmarks.ranks import Result, in_ranks, prepare

PeakOf = Callable[[Callable[[], object]], int]
"""Runs a function and says how many bytes it took at its peak, beyond what was there."""

_CHUNK = 256
_SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 4003,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**_SIZES, "model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {**_SIZES, "model_type": "qwen2", "tie_word_embeddings": False},
    "qwen3": {**_SIZES, "model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 48},
    "qwen3_moe": {
        **_SIZES,
        "model_type": "qwen3_moe",
        "tie_word_embeddings": False,
        "head_dim": 48,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 192,
        "norm_topk_prob": True,
    },
}


@dataclass(frozen=True)
class Case:
    """A model in a layout, and a micro-batch: `responses` of this length to one prompt."""

    model: str
    parallel: dict[str, Any] = field(default_factory=dict)
    recompute: Recompute = "none"
    loss: str = "aspo"
    prompt: int = 128
    response: int = 384
    responses: int = 4

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.parallel.items()]
        words += [self.recompute] * (self.recompute != "none") + [self.loss] * (self.loss != "aspo")
        return f"{self.model} {' '.join(words)}".strip().replace("=True", "")

    @property
    def layout(self) -> ParallelConfig:
        """The layout."""
        return ParallelConfig(**self.parallel)

    @property
    def group(self) -> GroupLengths:
        """What each micro-batch holds."""
        return self.prompt, (self.response,) * self.responses

    @property
    def micro_batches(self) -> int:
        """Of an update on a replica: enough to fill the pipeline."""
        return 2 * self.layout.pp


def _case(model: str, recompute: Recompute = "none", loss: str = "aspo", **axes: Any) -> Case:
    return Case(model, axes, recompute, loss)


CASES = (
    _case("llama"),
    _case("llama", "selective"),
    _case("llama", "full"),
    _case("llama", tp=2),
    _case("llama", tp=2, sequence_parallel=True),
    _case("llama", cp=2),
    _case("qwen2"),
    _case("qwen2", loss="gspo"),
    _case("qwen2", pp=2),
    _case("qwen2", dp=2, distributed_optimizer=True),
    _case("qwen2", "selective", tp=2, cp=2, sequence_parallel=True),
    _case("qwen3"),
    _case("qwen3", pp=2, vpp=2),
    _case("qwen3", "full", pp=2, tp=2, sequence_parallel=True),
    _case("qwen3", dp=2, cp=2, distributed_optimizer=True),
    _case("qwen3_moe"),
    _case("qwen3_moe", "full"),
    _case("qwen3_moe", dp=2, ep=2),
    _case("qwen3_moe", tp=2, ep=2, etp=1, sequence_parallel=True),
    _case("qwen3_moe", "selective", dp=2, ep=2, distributed_optimizer=True),
    _case("qwen3_moe", pp=2, dp=2, ep=2),
)


@dataclass(frozen=True)
class Measured:
    """Of one rank, bytes: what is always there, and what an update takes beyond it."""

    stage: int
    resident: int
    peak: int


@dataclass(frozen=True)
class Row:
    """A pipeline stage: planned, and measured in the mean of its ranks, as a random router uses experts unevenly."""

    case: str
    stage: int
    planned_resident: int
    resident: int
    planned_peak: int
    peak: int

    @property
    def ratio(self) -> float:
        """Planned over measured, of an update."""
        return self.planned_peak / self.peak


def make_models(folder: Path) -> None:
    """config.json of each of `MODELS` in a folder of its own."""
    for name, sizes in MODELS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(sizes))


def measure_rank(folder: Path, case: Case, peak_of: PeakOf) -> Measured:
    """What a rank of `case` does; to be called in each. `folder`: that of `make_models`."""
    from aspo_megatron.checkpoint.hf.folder import RandomTensors, hf_shapes
    from aspo_megatron.parallel.grid.topology import process_grid

    with process_grid(case.layout, PlatformConfig(device="cpu"), seed=1) as topology:
        from aspo_megatron.parallel.model.policy import build_model
        from aspo_megatron.parallel.update.optimizer import Optimizer
        from aspo_megatron.parallel.update.passes import PassLimits
        from aspo_megatron.parallel.update.step import aggregation_of, update

        path = folder / case.model
        settings = ModelConfig(path=path, recompute=case.recompute)
        model = build_model(read_family(path), topology, settings, RandomTensors(hf_shapes(path), 0.05, 1))
        optimizer = Optimizer(model, OptimizerConfig(), 10, case.layout)
        objective = _objective(case)
        # Adam's state is made at the first update. It is a small one: experts keep tensors of their last pass until
        # the next, which must not count as having been there before.
        small = replace(case, prompt=4, response=4)
        limits = PassLimits(_tokens(case), _CHUNK, 1.0)

        def step(of: Case) -> object:
            groups = [
                random_group((number, topology.dp.rank), _SIZES["vocab_size"], of.prompt, of.response, of.responses)
                for number in range(case.micro_batches)
            ]
            weighting = aggregation_of(objective.config, case.response)
            return update(model, optimizer, groups, objective, weighting, replace(limits, max_tokens=_tokens(of)))

        step(small)
        return Measured(topology.pp.rank, _resident_bytes(model, optimizer), peak_of(lambda: step(case)))


def planned(folder: Path, case: Case) -> list[tuple[int, int]]:
    """What the planner says of each stage: bytes that are always there, and those of an update."""
    parallel, family = case.layout, read_family(folder / case.model)
    setting = Setting(
        dtype="float32",
        recompute=case.recompute,
        token_wise=_objective(case).token_wise,
        reference=False,
        log_prob_chunk=_CHUNK,
        micro_batches=case.micro_batches,
        offload=False,
        cpu=True,
    )
    batch = local_batch((case.group,), parallel.cp, parallel.tp if parallel.sequence_parallel else 1)
    return [
        (resident(family, parallel, setting, stage).total, passing(family, parallel, setting, batch, stage).peak)
        for stage in range(parallel.pp)
    ]


def compare(folder: Path, case: Case, measured: Sequence[Measured]) -> list[Row]:
    """A row for each stage."""
    rows = []
    for stage, (held, peak) in enumerate(planned(folder, case)):
        own = [each for each in measured if each.stage == stage]
        mean = [int(statistics.mean(values)) for values in zip(*((m.resident, m.peak) for m in own), strict=True)]
        rows.append(Row(str(case), stage, held, mean[0], peak, mean[1]))
    return rows


def _tokens(case: Case) -> int:
    """A budget that one group fills."""
    return case.prompt + case.responses * case.response


def _objective(case: Case) -> PolicyObjective:
    hyperparameters = {"eps_low": 0.2, "eps_high": 0.2} if case.loss == "gspo" else {}
    return PolicyObjective(losses.build(case.loss, hyperparameters), LossConfig(name=case.loss, kl_coef=0.0))


def _resident_bytes(model: Any, optimizer: Any) -> int:
    """Bytes of the storages of weights, gradient buffers and Adam's state, each once."""
    tensors = list(model.parameters()) + [parameter.main_grad for parameter in model.parameters()]
    for slot in optimizer._slots():
        if slot.main is not None:
            state = slot.adam.state[slot.main]
            tensors += [slot.main, *(state[name] for name in ("exp_avg", "exp_avg_sq"))]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _peak_of_process(function: Callable[[], object]) -> int:
    return peak_bytes(function, torch.device("cpu"))


def _as_rank(folder: Path, number: int) -> Result:
    return asdict(measure_rank(folder, CASES[number], _peak_of_process))


def _run(folder: Path, number: int) -> list[Row]:
    case = CASES[number]
    found = in_ranks(case.layout.world_size, _as_rank, folder, number)
    return compare(folder, case, [Measured(**rank) for rank in found])


def main() -> None:
    """Print a row for each stage of each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", type=int, help="numbers of the cases to run; all if not given")
    options = parser.parse_args()
    # Freed blocks go back to Linux at once, so that the resident memory is that of the tensors.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    prepare("benchmarks.plan_memory")
    print("MiB; planned / measured")
    print(f"{'case':<62}{'stage':>6}{'resident':>18}{'update':>18}{'ratio':>8}")
    with tempfile.TemporaryDirectory(prefix="aspo-plan-") as name:
        folder = Path(name)
        make_models(folder)
        rows: list[Row] = []
        for number in options.cases if options.cases is not None else range(len(CASES)):
            for row in _run(folder, number):
                rows.append(row)
                print(_line(row), flush=True)
    worst = max(abs(row.ratio - 1) for row in rows)
    print(f"{len(rows)} rows; the worst update is off by {worst:.1%}")
    sys.exit(worst > 0.1)


def _line(row: Row) -> str:
    mib = 2**20
    held = f"{row.planned_resident / mib:.1f} / {row.resident / mib:.1f}"
    update = f"{row.planned_peak / mib:.1f} / {row.peak / mib:.1f}"
    return f"{row.case:<62}{row.stage:>6}{held:>18}{update:>18}{row.ratio:>8.3f}"


if __name__ == "__main__":
    main()
