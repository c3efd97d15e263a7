"""The model against Hugging Face, in fp32, in every layout: log-probs, entropy, gradients, weights."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from thorough import some_of
from torch import Tensor
from transformers import AutoModelForCausalLM

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.config import OptimizerConfig, ParallelConfig
from aspo_megatron.data.packing import PackedBatch, pack
from aspo_megatron.data.samples import Sample
from aspo_megatron.losses import LossOutput
from aspo_megatron.models.config_file import read_config
from aspo_megatron.models.family import architectures
from aspo_megatron.models.hf_names import by_checkpoint_name
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.parallel.model.micro_batch import MicroBatch
from aspo_megatron.parallel.update.objective import PlainObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs
from aspo_megatron.parallel.update.step import update
from distributed import Ranks, once

from .layouts import FP32, LAYOUTS, MORE_LAYOUTS, PLATFORM, Layout, hf_gradients, hf_weights, load, relative
from .memory import Allocations
from .samples import make_groups

SHAPES = [(5, (1, 2, 4, 4, 7)), (6, (3, 1)), (9, (22,)), (1, (5, 2))]
LIMITS = PassLimits(max_tokens=1000, log_prob_chunk=7, temperature=0.7)

CASES = [
    *((row.model, name) for name, row in FP32.items() if row.parallel.dp == 1),
    *(
        (family, name)
        for family in ("llama", "qwen2", "qwen3")
        for name in ("single", "tp2", "tp3", "tp2-sp", "cp2-tp2-sp", "pp2", "pp2-tp2-sp", "pp2-cp2")
    ),
    ("qwen3-moe-unscaled", "moe"),
    ("qwen3-moe-unscaled", "moe-tp2-sp-ep2-etp1"),
    ("two-kv-heads", "tp4"),
    ("one-kv-head", "tp4"),
    ("one-kv-head", "tp2-sp"),
]
ALL_LAYOUTS = LAYOUTS | MORE_LAYOUTS | {"tp4": Layout(ParallelConfig(tp=4))}

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]


@dataclass
class Run:
    """Log-probs and entropy by the number of the sample; gradients and weights by Hugging Face name."""

    log_probs: dict[int, Tensor] = field(default_factory=dict)
    entropy: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    numbers_read: dict[str, int] = field(default_factory=dict)


def make_samples() -> list[list[Sample]]:
    """Samples whose advantage is their number; old and reference log-probs are the coefficients of `objective`."""
    groups = make_groups(SHAPES)
    generator = np.random.default_rng(5)
    for number, sample in enumerate(sample for group in groups for sample in group):
        sample.advantage = float(number)
        sample.old_log_probs, sample.ref_log_probs = generator.normal(size=(2, len(sample.response_ids)))
    return groups


class CountingFolder:
    """A folder of tensors that counts the numbers which are read of each."""

    def __init__(self, source: SafetensorsFolder) -> None:
        self._source = source
        self.numbers_read: dict[str, int] = {}

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        return self._count(name, self._source.read(name, dim, start, stop))

    def read_whole(self, name: str) -> Tensor:
        return self._count(name, self._source.read_whole(name))

    def _count(self, name: str, tensor: Tensor) -> Tensor:
        self.numbers_read[name] = self.numbers_read.get(name, 0) + tensor.numel()
        return tensor


def run_rank(layout: Layout, folder: Path) -> Run:
    """What one rank makes of the samples; the gradient is that of sum(a * log-prob + b * entropy) / 6."""
    run = Run()

    def objective(batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> LossOutput:
        bounds = batch.cu_seqlens.tolist()
        for start, stop in itertools.pairwise(bounds):
            run.entropy[int(batch.advantages[start])] = entropy[start:stop].detach()
        return LossOutput(log_probs * batch.old_log_probs + entropy * batch.ref_log_probs)

    with process_grid(layout.parallel, PLATFORM, seed=1) as topology, SafetensorsFolder(folder) as tensors:
        source = CountingFolder(tensors)
        model = load(folder, topology, source, layout)
        run.numbers_read = source.numbers_read
        run.weights = hf_weights(model)
        groups = make_samples()
        for sample, log_probs in response_log_probs(model, groups, LIMITS):
            run.log_probs[int(sample.advantage)] = torch.from_numpy(log_probs)
        optimizer = Optimizer(model, OptimizerConfig(clip_grad=0.0), 1, ParallelConfig())
        plain = PlainObjective(objective, token_wise=False)
        update(model, optimizer, groups, plain, lambda sample: (1.0, 6.0 if sample.advantage == 0 else 0.0), LIMITS)
        run.gradients = hf_gradients(model, optimizer)
    return run


def hf_run(folder: Path) -> Run:
    """The same by Hugging Face, one sample at a time."""
    run = Run()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loss = torch.zeros(())
    for sample in (sample for group in make_samples() for sample in group):
        tokens = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids]))
        logits = model(tokens[None]).logits[0, len(sample.prompt_ids) - 1 : -1]
        log_p = torch.log_softmax(logits / LIMITS.temperature, dim=-1)
        log_probs = log_p.gather(1, torch.from_numpy(sample.response_ids)[:, None]).squeeze(1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        assert sample.old_log_probs is not None
        assert sample.ref_log_probs is not None
        loss = loss + (log_probs * torch.from_numpy(sample.old_log_probs)).sum() / 6
        loss = loss + (entropy * torch.from_numpy(sample.ref_log_probs)).sum() / 6
        run.log_probs[int(sample.advantage)] = log_probs.detach()
        run.entropy[int(sample.advantage)] = entropy.detach()
    loss.backward()
    run.weights = {name: parameter.detach() for name, parameter in by_checkpoint_name(model.named_parameters())}
    run.gradients = dict(by_checkpoint_name((name, parameter.grad) for name, parameter in model.named_parameters()))
    return run


Runs = Callable[[str, str], list[Run]]


@pytest.fixture(scope="module")
def runs(ranks: Ranks, folders: dict[str, Path]) -> Runs:
    """All ranks' runs of a model in a layout; each is done once."""

    @once
    def run(family: str, layout: str) -> list[Run]:
        config = ALL_LAYOUTS[layout]
        return ranks.run(config.parallel.world_size, run_rank, config, folders[family])

    return run


@pytest.fixture(scope="module")
def references(folders: dict[str, Path]) -> Callable[[str], Run]:
    @functools.cache
    def run(family: str) -> Run:
        return hf_run(folders[family])

    return run


def test_every_family_is_compared(folders: dict[str, Path]) -> None:
    types = {read_config(folders[model])["model_type"] for model, _ in CASES}
    assert {architectures()[name] for name in types} == set(architectures().values())


LESS = {
    "llama": ("cp2-tp2-sp", "pp2-tp2-sp"),
    "qwen2": ("cp2-tp2-sp", "pp2-tp2-sp"),
    "qwen3": ("cp2-tp2-sp", "pp2-tp2-sp"),
}
KEPT = [case for case in CASES if case[0] not in LESS or case[1] in LESS[case[0]]]
EACH_CASE = pytest.mark.parametrize(("family", "layout"), some_of(CASES, KEPT))


@EACH_CASE
def test_log_probs_and_entropy(runs: Runs, references: Callable[[str], Run], family: str, layout: str) -> None:
    want = references(family)
    for rank in runs(family, layout):
        for name in ("log_probs", "entropy"):
            got, expected = getattr(rank, name), getattr(want, name)
            if name == "entropy" and not got:  # not on a pipeline stage before the last
                assert ALL_LAYOUTS[layout].parallel.pp > 1
                continue
            assert got.keys() == expected.keys()
            for number, values in expected.items():
                torch.testing.assert_close(got[number], values, rtol=0, atol=2e-6 * values.abs().max().item())


@EACH_CASE
def test_gradients(runs: Runs, references: Callable[[str], Run], family: str, layout: str) -> None:
    want = references(family).gradients
    for rank in runs(family, layout):
        assert rank.gradients.keys() == want.keys()
        errors = {name: relative(rank.gradients[name], want[name]) for name in want}
        assert {name: error for name, error in errors.items() if error > 2e-5} == {}


@EACH_CASE
def test_weights_come_out_as_they_went_in(runs: Runs, folders: dict[str, Path], family: str, layout: str) -> None:
    want = load_file(folders[family] / "model.safetensors")
    for rank in runs(family, layout):
        assert rank.weights.keys() == want.keys()
        assert all(torch.equal(rank.weights[name], want[name]) for name in want)


@pytest.mark.parametrize(
    ("family", "layout"),
    [("llama", "tp2"), ("qwen2", "tp3"), ("qwen2", "tp2-sp"), ("one-kv-head", "tp4"), ("llama", "pp2")],
)
def test_a_rank_reads_its_slices_alone(runs: Runs, folders: dict[str, Path], family: str, layout: str) -> None:
    """Over all ranks every split tensor is read once; a rank's share of it is that of its slice, give or take a row."""
    config = ALL_LAYOUTS[layout].parallel
    sizes = {name: tensor.numel() for name, tensor in load_file(folders[family] / "model.safetensors").items()}
    reads = [rank.numbers_read for rank in runs(family, layout)]
    for name, size in sizes.items():
        each = [read.get(name, 0) for read in reads]
        if "norm" in name:
            assert sorted(each) == sorted([size] * config.tp + [0] * (config.world_size - config.tp))
        else:
            assert sum(each) == size
    for read in reads:
        assert sum(read.values()) <= 1.05 * sum(sizes.values()) / config.world_size


@pytest.fixture
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as grid:
        yield grid


@torch.no_grad()
def test_samples_of_a_batch_do_not_meet(topology: Topology, folders: dict[str, Path]) -> None:
    """Other tokens in one response change its own log-probs, and not a bit of any other's."""
    model = load(folders["qwen2"], topology)
    groups = make_samples()
    before = {int(sample.advantage): values for sample, values in response_log_probs(model, groups, LIMITS)}
    changed = groups[0][3]
    changed.response_ids = (changed.response_ids + 1) % 97
    after = {int(sample.advantage): values for sample, values in response_log_probs(model, groups, LIMITS)}
    assert {number for number in before if not np.array_equal(before[number], after[number])} == {3}
    assert (before[3] != after[3]).all()


def vocabulary_shapes(tp: int, folder: Path) -> tuple[set[tuple[int, ...]], int, int, int]:
    """Shapes with the vocabulary in them that a forward and backward pass makes; that shard's rows, and those of them
    that are no padding; tokens.
    """
    with process_grid(ParallelConfig(tp=tp), PLATFORM, seed=1) as topology:
        model = load(folder, topology)
        batch = pack(make_groups([(11, (30, 50, 40))]), [[1.0] * 3])
        with Allocations() as allocations:
            log_probs, entropy = model.chunks[0](MicroBatch.of(batch, topology, model.kernels), 1.0, 16)
            (log_probs.sum() + entropy.sum()).backward()
        shard = model.shape.padded_vocab_size // tp
        vocab = model.shape.vocab_size
        real = min(vocab - topology.tp.rank * shard, shard)
        wide = {shape for shape in allocations.shapes if {shard, real, vocab} & set(shape)}
        return wide, shard, real, len(batch.targets)


@pytest.mark.parametrize("tp", [1, 2])
def test_logits_of_all_tokens_never_exist(ranks: Ranks, tmp_path: Path, tp: int) -> None:
    from tiny_models import llama_folder

    folder = llama_folder(tmp_path / "wide", tied=False, vocab_size=1021)
    for shapes, shard, real, tokens in ranks.run(tp, vocabulary_shapes, tp, folder):
        assert tokens == 120
        # Logits of a chunk (of at most 16: 120 = 8 * 15), and gradients of the embedding and of the output projection.
        assert shapes == {(15, real), (shard, 48)}
