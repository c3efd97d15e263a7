"""The section `update_time` runs on the CPU, and counts operations, layers and memory as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aspo_megatron.models.counts import model_elements
from aspo_megatron.plan.hardware import A100, B200, H20, H100, H200
from benchmarks.gpu_check import update_time
from benchmarks.gpu_check.lines import Place, Sheet, Status, read_lines
from benchmarks.gpu_check.policies import one_rank, random_groups
from benchmarks.gpu_check.qwen3 import SHAPES, SMALL_SHAPES, fitting_layers, named
from benchmarks.gpu_check.update_work import UpdateMemory, UpdateWork, known_card, show_card_share

from .full_size import OnStandIn
from .in_process import Lines, cpu, failed, held, not_done, section, stand_in, written

MEASURED = {
    "an update",
    "response tokens",
    "all tokens",
    "operations / a plain product's",
    "an update by blocks",
    "varlen / blocks",
}
NAME = SMALL_SHAPES[0].name


@pytest.mark.distributed
def test_on_the_cpu(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_cpu(section, "update_time", tmp_path / "good")
    assert failed(lines) == set(), [lines[name].note for name in failed(lines)]
    assert held(lines) == {f"{NAME}: the first update is one"}
    lacking = ("peak memory", "share of the card's peak", "updates, measured / planned")
    assert not_done(lines) == {f"{NAME}: {what}" for what in lacking}
    measured = {name: line.figure for name, line in lines.items() if line.status is Status.MEASURED}
    assert measured.keys() == {f"{NAME}: {what}" for what in MEASURED}
    assert all(figure is not None and 0 < figure < math.inf for figure in measured.values())
    ratio = measured[f"{NAME}: response tokens"] / measured[f"{NAME}: all tokens"]
    prompt, responses = update_time.SMALL_BATCH
    assert ratio == pytest.approx(sum(responses) / (prompt + sum(responses) - len(responses)))


def give_no_sample_a_token() -> None:
    def masked(*args: Any) -> Any:
        groups = random_groups(*args)
        for sample in (sample for group in groups for sample in group):
            sample.response_mask[:] = False
        return groups

    update_time.random_groups = masked  # type: ignore[attr-defined, assignment]


@pytest.mark.distributed
def test_update_that_is_skipped_is_not_timed(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    lines = on_cpu(section, "update_time", tmp_path / "skipped", give_no_sample_a_token)
    assert set(lines) == failed(lines) == {f"{NAME}: the first update is one"}


def show_plans(sheet: Sheet, folder: Path) -> None:
    """The plans that the micro-batches of an update of each way bring."""
    with one_rank(torch.device("cpu")) as topology:
        from aspo_megatron.parallel.model.micro_batch import MicroBatch

        of = MicroBatch.of

        def seen(*args: Any) -> MicroBatch:
            batch = of(*args)
            sheet.holds(type(batch.attention.plan).__name__, True, reference="")
            return batch

        MicroBatch.of = seen  # type: ignore[method-assign, assignment]
        family = SMALL_SHAPES[0].family(folder / "model", small=True)
        groups = random_groups(family.vocab_size, [update_time.SMALL_BATCH])
        updates = update_time.Updates.built(folder / "model", topology, groups, max_tokens=100)
        for way in (update_time.OURS, update_time.OTHER):
            updates(way)


def plans(folder: Path) -> Lines:
    return written(folder, lambda sheet: show_plans(sheet, folder))


@pytest.mark.distributed
def test_ways_differ_in_the_plan_of_attention(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    assert list(on_cpu(plans, tmp_path)) == ["VarlenPlan", "BlockPlan"]


def of_attention(q: Any, k: Any, *_: Any, **__: Any) -> int:
    """Operations of a block, all of whose keys count for each query; PyTorch's counter does not know it on a CPU."""
    batch, heads, queries, width = q
    return int(4 * batch * heads * queries * k[2] * width)


COUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention}


def show_operations(sheet: Sheet, folder: Path) -> None:
    """Operations of a forward pass as PyTorch counts them, and what is said of the update."""
    with one_rank(torch.device("cpu")) as topology:
        from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs

        family = SMALL_SHAPES[0].family(folder / "model", small=True)
        groups = random_groups(family.vocab_size, [(60, (41, 90)), (33, (70,))])
        updates = update_time.Updates.built(folder / "model", topology, groups, max_tokens=400)
        updates.model.kernels = replace(updates.model.kernels, attention="blocks")
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            list(response_log_probs(updates.model, groups, PassLimits(400, 100, 1.0)))
        sheet.measured("counted", counter.get_total_flops(), "")
        sheet.measured("said", UpdateWork.of(family, groups).operations, "")


def operations(folder: Path) -> Lines:
    return written(folder, lambda sheet: show_operations(sheet, folder))


@pytest.mark.distributed
def test_operations_are_those_that_pytorch_counts(on_cpu: Callable[..., Any], tmp_path: Path) -> None:
    """But for norms, and the last token of a response, which has no query: less than one part in a hundred."""
    lines = on_cpu(operations, tmp_path)
    counted, said = (lines[name].figure for name in ("counted", "said"))
    assert counted is not None
    assert said == pytest.approx(3 * counted, rel=0.01)


def test_operations_by_hand(tmp_path: Path) -> None:
    """One layer of 2 heads of 4, hidden size 8, feed-forward 16, vocabulary 32: a prompt of 3, responses of 2 and 5."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    sizes |= {"hidden_size": 8, "intermediate_size": 16, "vocab_size": 32}
    shape = replace(SMALL_SHAPES[0], layers=1, sizes={name: sizes[name] for name in sizes if "layers" not in name})
    family = shape.family(tmp_path / "model", small=True)
    work = UpdateWork.of(family, random_groups(32, [(3, (2, 5))]))
    assert (work.responses, work.tokens) == (7, 3 + 1 + 4)
    products = 8 * (8 + 4 + 4) + 8 * 8 + 3 * 8 * 16
    norms = 8 + 8 + 4 + 4 + 8  # which the count takes for weights; the last is the model's
    forward = work.operations / 3
    pairs = 3 * 3 + 2 * (2 + 3) + 5 * (5 + 3)
    assert 2 * products * 8 + 2 * 8 * 32 * 7 + 4 * 8 * pairs <= forward
    assert forward <= 2 * (products + norms) * 8 + 2 * 8 * 32 * 7 + 4 * 8 * pairs
    seen = (1 + 2 + 3) + (3 + 1) + (4 * 3 + 1 + 2 + 3 + 4)
    assert (work.operations - work.unmasked) / 3 == 4 * 8 * (pairs - seen)


@pytest.mark.parametrize(("gib", "layers"), [(200, 28), (60, 28), (40, 24), (5, 0)])
def test_layers_are_those_that_fit(gib: int, layers: int, tmp_path: Path) -> None:
    family = SHAPES[1].family(tmp_path / "model", small=False)
    per_layer = 1.5 * 2**30
    assert fitting_layers(family, lambda family: int(family.num_layers * per_layer), gib * 2**30) == layers
    name = named(SHAPES[1], layers)
    assert name == ("Qwen3-1.7B" if layers == 28 else f"Qwen3-1.7B, {layers} of 28 layers")


def test_memory_is_that_of_weights_and_activations(tmp_path: Path) -> None:
    """18 bytes a parameter, and of activations the more the more layers there are."""
    family = SHAPES[0].family(tmp_path / "model", small=False)
    few = replace(family, num_layers=4)

    plan = UpdateMemory.planned(tmp_path / "model", update_time.LOSS, update_time.BATCH, 2, "blocks")
    assert plan.config.model.kernels.attention == "blocks"
    state = 18 * model_elements(family)
    layer = (plan.peak(family, 80 * 2**30) - plan.peak(few, 80 * 2**30)) / 24
    hidden, tokens = family.hidden_size, 16104
    own = 18 * (model_elements(family) - model_elements(few)) / 24
    assert 10 < (layer - own) / (2 * tokens * hidden) < 40  # tensors of hidden states' size that a layer keeps
    assert plan.peak(family, 80 * 2**30) > state + 28 * (layer - own)


def test_shapes_are_those_that_are_named(tmp_path: Path) -> None:
    for shape, billions in zip(SHAPES, (0.596, 1.72, 4.02, 8.19), strict=True):
        family = shape.family(tmp_path / shape.name, small=False)
        assert model_elements(family) / 1e9 == pytest.approx(billions, rel=2e-3), shape.name
        assert (family.head_dim, family.vocab_size) == (128, 151936)
    prompt, responses = update_time.BATCH
    assert (prompt, len(responses), min(responses), max(responses)) == (512, 8, 500, 4000)
    assert prompt + sum(responses) <= 16384


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H200", H200),
        ("NVIDIA H100 80GB HBM3", H100),
        ("NVIDIA H20", H20),
        ("NVIDIA A100-SXM4-80GB", A100),
        ("NVIDIA B200", B200),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_cards_are_known_by_their_drivers_names(name: str, card: Any) -> None:
    assert known_card(name) == card


def test_share_is_of_the_published_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(torch.device("cuda:0"), False, 1, tmp_path, 100.0)
    for number, name in enumerate(("NVIDIA H200", "NVIDIA L40S")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        show_card_share(Sheet("s", tmp_path / "lines", on_gpu=True), place, f"{number}", 4.945e14, "goal")
    known, unknown = read_lines(tmp_path / "lines")
    assert (known.figure, known.reference) == (0.5, "H200 SXM: 989 TFLOP/s, as published")
    assert unknown.status is Status.NOT_DONE
    assert "NVIDIA L40S" in unknown.note


def test_no_shape_is_begun_without_time(tmp_path: Path) -> None:
    place = replace(cpu(tmp_path), seconds=1.0)
    update_time.run(Sheet("section", tmp_path / "lines", on_gpu=False), place)
    lines: Lines = {line.name: line for line in read_lines(tmp_path / "lines")}
    assert not_done(lines) == set(lines) == {f"{NAME}: an update"}
    assert not (tmp_path / "model-0").exists()


def test_weights_are_drawn() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(200, 300, bias=False), torch.nn.RMSNorm(300))
    update_time.draw_weights(module)
    matrix, norm = module.parameters()
    assert float(matrix.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert torch.equal(norm, torch.ones(300))


def full_size(folder: Path, free: int) -> Lines:
    """An update on the stand-in for a GPU, of which so many bytes are free; fewer responses, as each takes seconds."""

    def not_again(functions: Any, *_: Any) -> dict[str, float]:
        return dict.fromkeys(functions, 1.0)

    with stand_in(folder) as (rank, sheet, lines):
        torch.cuda.mem_get_info = lambda device=None: (free, free)
        torch.cuda.empty_cache = lambda: None
        update_time.BATCH = (512, (500, 800, 1100))
        torch.cuda.get_device_name = lambda device=None: "NVIDIA H200"
        update_time.seconds = not_again  # type: ignore[attr-defined, assignment]
        place = OnStandIn(rank.topology.platform.device, False, 1, folder, 1000.0)
        update_time.show(sheet, place, rank.topology, SHAPES[0], folder / "model")
    return lines


@pytest.mark.distributed
@pytest.mark.thorough
def test_full_size_on_the_stand_in(on_stand_in: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing is refused, and the memory that is held is the planned one."""
    lines = on_stand_in(full_size, tmp_path / "some", 11 * 2**30)
    name = "Qwen3-0.6B, 4 of 28 layers"
    assert lines.keys() == {
        f"{name}: {what}"
        for what in MEASURED
        | {"the first update is one", "peak memory", "peak memory by blocks", "share of the card's peak"}
        | {"updates, measured / planned"}
    }
    assert failed(lines) == not_done(lines) == set()
    peak = lines[f"{name}: peak memory"]
    assert f"{peak.figure:.2f} GiB" == peak.reference.removeprefix("aspo plan: ")
    lines = on_stand_in(full_size, tmp_path / "none", 2**30)
    assert not_done(lines) == set(lines) == {"Qwen3-0.6B: an update"}
    assert lines["Qwen3-0.6B: an update"].note.endswith("1 are free")
