"""Which kernels are chosen on machines with and without a GPU, Transformer Engine, Apex; and what is refused."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from torch._subclasses.fake_tensor import FakeTensorMode

from aspo_megatron.config import KernelsConfig, ModelConfig, ParallelConfig, RunConfig
from aspo_megatron.data.packing import Span
from aspo_megatron.errors import ConfigError
from aspo_megatron.inputs.read import Inputs
from aspo_megatron.launch.rank_status import RankStatus
from aspo_megatron.models.families.qwen3_moe import FAMILY
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.device.attention_kernels import attend, attend_backward
from aspo_megatron.parallel.device.expert_traits import ExpertTraits
from aspo_megatron.parallel.device.kernels import Kernels, Machine, advice, choose_kernels
from aspo_megatron.parallel.device.packages import Packages, engine_window, find_packages
from aspo_megatron.parallel.device.platform import CpuPlatform
from aspo_megatron.parallel.model.context_parallel import context_slice
from aspo_megatron.train import main

NOTHING = Packages(None, apex=False, other_apex=False, apex_gradient_kernels=False, triton=False)
WINDOW = SpecifierSet("<2.12.0,>=2.9.0a0")
ENGINE = replace(NOTHING, transformer_engine=Version("2.11.0+abc"), triton=True, engine_window=WINDOW)
APEX = replace(NOTHING, apex=True, apex_gradient_kernels=True, triton=True)
CPU = Machine(NOTHING, None)
AMPERE = Machine(ENGINE, (8, 0))
HOPPER = replace(AMPERE, capability=(9, 0))
ADA, BLACKWELL, GEFORCE_BLACKWELL = (replace(AMPERE, capability=number) for number in ((8, 9), (10, 0), (12, 0)))
BARE_GPU = Machine(NOTHING, (9, 0))


def with_engine(version: str, machine: Machine = HOPPER) -> Machine:
    return replace(machine, packages=replace(machine.packages, transformer_engine=Version(version)))


SHARED_BY_FEW = ExpertTraits("bfloat16", rows_fit=True, few_ranks=True)
SHARED_BY_MANY = replace(SHARED_BY_FEW, few_ranks=False)


def choose(
    machine: Machine,
    *,
    experts: bool | ExpertTraits = False,
    flash: bool = False,
    tokens: Literal["auto", "gathered", "sent"] = "auto",
    **settings: Any,
) -> Kernels:
    """`experts`: True for those that so many ranks share that each token is sent where it goes."""
    traits = experts if isinstance(experts, ExpertTraits) else SHARED_BY_MANY if experts else None
    return choose_kernels(KernelsConfig(experts=tokens, **settings), machine, experts=traits, flash=flash)


def test_defaults_take_what_there_is() -> None:
    assert choose(CPU, experts=True) == Kernels()
    assert choose(replace(CPU, packages=ENGINE)) == Kernels()  # it does nothing without a GPU
    assert choose(BARE_GPU, experts=True) == Kernels(fusion=True)
    with_apex = Kernels(fusion=True, gradient_fusion=True, triton_log_prob=True, triton_rotary=True)
    assert choose(replace(BARE_GPU, packages=APEX)) == with_apex
    engine = replace(with_apex, transformer_engine=True)
    assert choose(HOPPER) == engine
    assert choose(HOPPER, experts=True) == replace(engine, grouped_gemm=True, expert_fusion=True)


def test_tokens_of_experts_are_gathered_where_it_is_the_faster_way() -> None:
    bare = Kernels(fusion=True)
    assert choose(BARE_GPU, experts=SHARED_BY_FEW) == replace(bare, gathered_experts=True)
    for other in (
        choose(BARE_GPU, experts=SHARED_BY_MANY),
        choose(BARE_GPU, experts=SHARED_BY_FEW, tokens="sent"),
        choose(replace(BARE_GPU, capability=(8, 0)), experts=SHARED_BY_FEW),
        choose(replace(BARE_GPU, capability=(12, 0)), experts=SHARED_BY_FEW),
        choose(BARE_GPU, experts=replace(SHARED_BY_FEW, dtype="float32")),
        choose(BARE_GPU, experts=replace(SHARED_BY_FEW, rows_fit=False)),
        choose(BARE_GPU, experts=SHARED_BY_FEW, grouped_gemm=False),
    ):
        assert other == bare
    assert choose(BARE_GPU, experts=SHARED_BY_MANY, tokens="gathered").gathered_experts
    assert choose(CPU, experts=SHARED_BY_FEW) == Kernels()
    assert choose(CPU, experts=replace(SHARED_BY_FEW, dtype="float32"), tokens="gathered").gathered_experts
    engine = choose(HOPPER, experts=SHARED_BY_FEW)
    assert engine.gathered_experts
    assert not engine.grouped_gemm


@pytest.mark.parametrize(
    ("machine", "experts", "settings", "lack"),
    [
        (replace(BARE_GPU, capability=(8, 0)), SHARED_BY_FEW, {}, "a GPU of compute capability 9.x or 10.x"),
        (BARE_GPU, replace(SHARED_BY_FEW, dtype="float32"), {}, "model.dtype=bfloat16"),
        (HOPPER, SHARED_BY_FEW, {"fp8": "hybrid"}, "model.kernels.fp8=none"),
        (CPU, replace(SHARED_BY_FEW, dtype="float32", rows_fit=False), {}, "in multiples of 4"),
    ],
)
def test_gathering_is_refused_where_it_is_not_possible(
    machine: Machine, experts: ExpertTraits, settings: dict[str, Any], lack: str
) -> None:
    with pytest.raises(ConfigError, match=f"model.kernels.experts=gathered: needs .*{lack}"):
        choose(machine, experts=experts, tokens="gathered", **settings)


FAMILY_30B = read_family(Path(__file__).parents[2] / "examples" / "qwen3_30b_a3b" / "model")


def test_few_ranks_share_experts_if_they_are_no_more_than_a_token_chooses() -> None:
    for ep, few in ((1, True), (8, True), (16, False)):
        traits = ExpertTraits.of(FAMILY_30B, ParallelConfig(dp=16, ep=ep), "bfloat16")
        assert traits == ExpertTraits("bfloat16", rows_fit=True, few_ranks=few)
    odd = replace(FAMILY_30B, expert_ffn_size=772)
    assert ExpertTraits.of(odd, ParallelConfig(), "bfloat16") == replace(SHARED_BY_FEW, rows_fit=False)
    assert ExpertTraits.of(odd, ParallelConfig(), "float32") == replace(SHARED_BY_FEW, dtype="float32")
    assert ExpertTraits.of(replace(FAMILY_30B, num_experts=0), ParallelConfig(), "bfloat16") is None


def test_kernels_for_experts_that_do_not_compile_are_not_taken() -> None:
    """Those of Transformer Engine 2.9 do not with the Triton of a torch that runs here."""
    assert choose(with_engine("2.9.0"), experts=True).grouped_gemm
    assert not choose(with_engine("2.9.0"), experts=True).expert_fusion
    assert choose(with_engine("2.10.0"), experts=True).expert_fusion


def test_rotary_positions_are_turned_by_one_kernel() -> None:
    """Ours, or where it is not used that of Transformer Engine; on a CPU if it is asked for."""
    assert choose(HOPPER, rotary="eager") == replace(choose(HOPPER), triton_rotary=False, rope_fusion=True)
    assert not choose(HOPPER, rotary="eager", fusion=False).rope_fusion
    without = replace(HOPPER, packages=replace(ENGINE, triton=False))
    assert (choose(without).rope_fusion, choose(without).triton_rotary) == (True, False)
    interpreted = replace(CPU, packages=replace(NOTHING, triton=True))
    assert choose(interpreted, rotary="triton") == Kernels(triton_rotary=True)
    assert choose(interpreted) == Kernels()


def test_all_can_be_switched_off() -> None:
    settings: dict[str, Any] = {
        "layers": "local",
        "fusion": False,
        "gradient_fusion": False,
        "grouped_gemm": False,
        "expert_fusion": False,
        "log_prob": "eager",
        "rotary": "eager",
    }
    assert choose(HOPPER, experts=True, **settings) == Kernels()


@pytest.mark.parametrize(("recipe", "tokens"), [("delayed", 16), ("blockwise", 128), ("tensorwise", 16)])
def test_fp8(recipe: str, tokens: int) -> None:
    chosen = choose(HOPPER, fp8="hybrid", fp8_recipe=recipe)
    assert (chosen.fp8, chosen.fp8_recipe, chosen.token_multiple) == ("hybrid", recipe, tokens)
    assert choose(BLACKWELL, fp8="e4m3", fp8_recipe="mxfp8").token_multiple == 32


@pytest.mark.parametrize(
    ("machine", "cuda", "recipe"),
    [
        (ADA, "13.0", "tensorwise"),
        (HOPPER, "13.0", "blockwise"),
        (HOPPER, "12.8", "tensorwise"),
        (BLACKWELL, "13.0", "mxfp8"),
        (GEFORCE_BLACKWELL, "13.0", "tensorwise"),
    ],
)
def test_the_recipe_of_fp8_is_that_of_the_gpu(machine: Machine, cuda: str, recipe: str) -> None:
    machine = replace(machine, packages=replace(ENGINE, cuda=Version(cuda)))
    assert choose(machine, fp8="hybrid").fp8_recipe == recipe


@pytest.mark.parametrize(
    ("machine", "settings", "message"),
    [
        (CPU, {"layers": "transformer_engine"}, "layers=transformer_engine: needs a GPU"),
        (BARE_GPU, {"layers": "transformer_engine"}, "Transformer Engine is not installed"),
        (CPU, {"fp8": "hybrid"}, r"model\.kernels\.fp8=hybrid: needs a GPU"),
        (
            BARE_GPU,
            {"fp8": "hybrid"},
            "needs the layers of Transformer Engine, but Transformer Engine is not installed",
        ),
        (
            HOPPER,
            {"fp8": "e4m3", "layers": "local"},
            "needs the layers of Transformer Engine, but model.kernels",
        ),
        (AMPERE, {"fp8": "e4m3"}, r"fp8_recipe=tensorwise: needs a GPU of compute capability 8\.9, this one has 8\.0"),
        (ADA, {"fp8": "e4m3", "fp8_recipe": "blockwise"}, r"blockwise: needs a GPU of compute capability 9\.0"),
        (
            replace(HOPPER, packages=replace(ENGINE, cuda=Version("12.8"))),
            {"fp8": "e4m3", "fp8_recipe": "blockwise"},
            r"fp8_recipe=blockwise: needs CUDA 12\.9, this torch is built for 12\.8",
        ),
        (
            GEFORCE_BLACKWELL,
            {"fp8": "e4m3", "fp8_recipe": "mxfp8"},
            r"mxfp8: Transformer Engine has it for compute capability 10 and 11, this GPU has 12\.0",
        ),
        (
            with_engine("2.12.0"),
            {"layers": "transformer_engine"},
            r"Transformer Engine 2\.12\.0 is installed, and this megatron-core is made for <2\.12\.0,>=2\.9\.0a0 "
            r"\(pip install --no-build-isolation 'transformer_engine\[pytorch\]<2\.12\.0,>=2\.9\.0a0'\)",
        ),
        (with_engine("2.8.0"), {"fp8": "e4m3"}, r"Transformer Engine, but Transformer Engine 2\.8\.0 is installed"),
        (with_engine("2.9.0"), {"expert_fusion": True}, r"Transformer Engine 2\.10 or newer, this one has 2\.9\.0"),
        (BARE_GPU, {"expert_fusion": True}, "expert_fusion=true: needs a GPU and the layers of Transformer Engine"),
        (HOPPER, {"fp8": "e4m3", "fp8_recipe": "mxfp8"}, r"mxfp8: needs a GPU of compute capability 10\.0"),
        (CPU, {"gradient_fusion": True}, "NVIDIA Apex built with its CUDA extensions"),
        (
            replace(BARE_GPU, packages=replace(NOTHING, other_apex=True)),
            {"gradient_fusion": True},
            "the package `apex` that is installed is an unrelated web toolkit",
        ),
        (BARE_GPU, {"grouped_gemm": True}, "grouped_gemm=true: needs a GPU and the layers of Transformer Engine"),
        (BARE_GPU, {"log_prob": "triton"}, "log_prob=triton: needs Triton, which is not installed"),
        (CPU, {"log_prob": "triton"}, "log_prob=triton: needs Triton, which is not installed"),
        (BARE_GPU, {"rotary": "triton"}, r"model\.kernels\.rotary=triton: needs Triton, which is not installed"),
    ],
)
def test_what_is_missing_is_named(machine: Machine, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(machine, experts=True, **settings)


def test_kernels_for_experts_are_no_matter_without_experts() -> None:
    chosen = choose(BARE_GPU, grouped_gemm=True, expert_fusion=True)
    assert not chosen.grouped_gemm
    assert not chosen.expert_fusion


@pytest.mark.parametrize("version", ["2.8.0", "2.12.0", "2.13.0.dev0+1a2b3c"])
def test_transformer_engine_that_megatron_is_not_made_for_is_left_alone(version: str) -> None:
    assert not choose(with_engine(version)).transformer_engine
    (line,) = advice(ModelConfig(path=Path("m"), dtype="bfloat16"), with_engine(version))
    assert f"model.kernels.layers=auto: Transformer Engine {version} is installed" in line
    local = ModelConfig(path=Path("m"), dtype="bfloat16", kernels=KernelsConfig(layers="local"))
    assert advice(local, with_engine(version)) == []


@pytest.mark.parametrize("version", ["2.9.0a0", "2.9.0+70f5366", "2.11.0"])
def test_transformer_engine_that_megatron_is_made_for_is_taken(version: str) -> None:
    assert choose(with_engine(version), layers="transformer_engine").transformer_engine
    assert advice(ModelConfig(path=Path("m"), dtype="bfloat16"), with_engine(version)) == []


def test_the_window_of_transformer_engine_is_that_of_megatrons_metadata() -> None:
    bound = 'transformer-engine[core_cu13,pytorch]<2.12.0,>=2.9.0a0; extra == "dev"'
    assert engine_window(["torch>=2.6.0", bound]) == WINDOW
    assert find_packages().engine_window == engine_window(importlib.metadata.requires("megatron-core") or ())
    unbound = 'transformer-engine[core_cu13,pytorch]; extra == "dev"'
    assert engine_window(["torch>=2.6.0", unbound]).contains("2.17.1")
    assert not engine_window([unbound]).contains("2.8.0")


def test_fp32_on_a_gpu_is_told() -> None:
    (line,) = advice(ModelConfig(path=Path("m")), HOPPER)
    assert "Set model.dtype=bfloat16" in line
    assert advice(ModelConfig(path=Path("m"), dtype="bfloat16"), HOPPER) == []
    assert advice(ModelConfig(path=Path("m")), CPU) == []


def test_this_process_has_no_gpu_platform_on_a_cpu() -> None:
    machine = CpuPlatform().machine
    assert machine.capability is None
    assert machine.packages == find_packages()


def test_apex_is_told_from_its_namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are packages called `apex`; that of PyPI fails when it is imported, so it must not be."""
    package = tmp_path / "apex"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no velruse')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "apex", raising=False)
    found = find_packages()
    assert (found.apex, found.other_apex, found.fused_adam) == (False, True, "PyTorch")
    (package / "optimizers").mkdir()
    (package / "optimizers" / "__init__.py").touch()
    found = find_packages()
    assert (found.apex, found.other_apex, found.fused_adam) == (True, False, "Apex")


@pytest.mark.parametrize("place", [".", "transformer_engine", "transformer_engine/wheel_lib"])
def test_transformer_engine_is_found_with_its_part_for_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Without `[pytorch]` pip installs a package that cannot be imported for torch."""
    for folder in (tmp_path / "transformer_engine", tmp_path / "transformer_engine-2.9.0a0+1a2b3c.dist-info"):
        folder.mkdir()
    (tmp_path / "transformer_engine" / "__init__.py").write_text("raise ImportError('it must not be imported')")
    metadata = "Metadata-Version: 2.1\nName: transformer_engine\nVersion: 2.9.0a0+1a2b3c\n"
    (tmp_path / "transformer_engine-2.9.0a0+1a2b3c.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_packages().transformer_engine is None
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "transformer_engine_torch.cpython-311-x86_64-linux-gnu.so").touch()
    found = find_packages()
    assert found.transformer_engine == Version("2.9.0a0+1a2b3c")
    assert found.engine_lack is None
    assert found.fused_adam == "Transformer Engine"


def test_names_of_grouped_experts() -> None:
    names = {row.megatron_name(1, 3, True, True) for row in FAMILY.rows if row.per_expert}
    assert names == {f"decoder.layers.1.mlp.experts.linear_fc{part}.weight3" for part in (1, 2)}
    plain = {row.megatron_name(1, 3, True, False) for row in FAMILY.rows if row.per_expert}
    assert plain == {f"decoder.layers.1.mlp.experts.local_experts.3.linear_fc{part}.weight" for part in (1, 2)}


def test_attention_by_default_is_what_the_device_does_best() -> None:
    assert choose(CPU, flash=True).attention == choose(HOPPER).attention == "blocks"
    varlen = choose(HOPPER, flash=True)
    assert (varlen.attention, varlen.triton_merge) == ("varlen", True)
    assert not choose(BARE_GPU, flash=True).triton_merge
    asked = choose(CPU, flash=False, attention="varlen")
    assert (asked.attention, asked.triton_merge) == ("varlen", False)
    assert choose(HOPPER, flash=True, attention="blocks").attention == "blocks"
    with pytest.raises(ConfigError, match=r"model\.kernels\.attention=varlen: .* 16 bits .*, and heads of up to 256"):
        choose(HOPPER, attention="varlen")


def test_flash_attention_3_where_it_is_installed() -> None:
    """On Hopper, for segments."""
    there = replace(HOPPER, packages=replace(ENGINE, flash_attention_3=True))
    assert choose(there, flash=True).flash_attention_3
    assert not choose(there, flash=True, flash_attention_3=False).flash_attention_3
    elsewhere: list[tuple[Machine, dict[str, Any]]] = [
        (HOPPER, {}),
        (there, {"attention": "blocks"}),
        (replace(there, capability=(10, 0)), {}),
    ]
    for machine, settings in elsewhere:
        assert not choose(machine, flash=True, **settings).flash_attention_3
        with pytest.raises(ConfigError, match=r"flash_attention_3=true: needs a GPU of compute capability 9\.0"):
            choose(machine, flash=True, flash_attention_3=True, **settings)


def test_flash_attention_3_is_active_while_the_platform_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn import attention

    now: list[str] = []
    monkeypatch.setattr(attention, "current_flash_attention_impl", lambda: now[-1] if now else None)
    monkeypatch.setattr(attention, "activate_flash_attention_impl", now.append)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", now.clear)
    platform = CpuPlatform()
    platform.use_flash_attention_3()
    platform.use_flash_attention_3()
    assert now == ["FA3"]
    platform.uninstall()
    assert now == []
    assert "FA3" in attention.list_flash_attention_impls()


def test_tokens_are_padded_for_fp8() -> None:
    spans = (Span(0, 19), Span(19, 30, 0, 19))
    own = context_slice(spans, 1, 0, choose(HOPPER, fp8="hybrid", fp8_recipe="tensorwise").token_multiple)
    assert own.tokens.tolist() == [*range(30), -1, -1]


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_is_called_as_torch_wants_it(causal: bool) -> None:
    """On a GPU in 16 bits. Shapes and dtypes only: fake tensors stand in for the GPU."""
    with FakeTensorMode():
        q, grad = (torch.empty(3, 130, 4, 64, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        keys = 130 if causal else 200
        k, v = (torch.empty(3, keys, 4, 64, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        out, lse = attend(q, k, v, causal, 0.1)
        gradients = attend_backward(grad, q, k, v, out, lse, causal, 0.1)
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, q.dtype, (3, 130, 4), torch.float32)
    assert [gradient.shape for gradient in gradients] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("leader", [True, False])
def test_a_run_tells_once_what_it_should(
    leader: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The leader does, before the model is loaded."""

    class ModelIsNextError(Exception):
        pass

    def next_is_the_model(*_: Any) -> None:
        raise ModelIsNextError

    monkeypatch.setattr(main, "from_leader", lambda value: value)
    monkeypatch.setattr(main, "own_servers", next_is_the_model)
    problems = {"kind": "reasoning_gym", "family": "spell_backward", "size": 1}
    config = RunConfig.model_validate(
        {
            "output_dir": tmp_path,
            "model": {"path": "m"},
            "data": {"train": problems},
            "reward": {"kind": "reasoning_gym"},
        }
    )
    monkeypatch.setattr(main, "summary_lines", lambda *_: [])
    platform = SimpleNamespace(machine=HOPPER, device=torch.device("cpu"))
    topology: Any = SimpleNamespace(is_leader=leader, platform=platform, rank_status=RankStatus())
    pool: Any = SimpleNamespace()
    stop: Any = SimpleNamespace(agree=lambda **_: (False, False))
    nothing: Any = None
    inputs: Any = Inputs(*[nothing] * 4)
    with pytest.raises(ModelIsNextError):
        main._train(config, inputs, topology, pool, stop)
    assert capsys.readouterr().out.count("model.dtype=float32 on a GPU") == leader
