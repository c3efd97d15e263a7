"""Running megatron-core without a GPU: what is replaced comes back, and what torch can do besides still works."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.optimizer import clip_grads
from megatron.core.tensor_parallel import random as megatron_random
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from transformers import AutoModelForCausalLM

from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.parallel.device.platform import CpuPlatform, choose_platform, installed
from aspo_megatron.parallel.grid.topology import process_grid

from .layouts import PLATFORM

FACTORIES: dict[str, Callable[..., torch.Tensor]] = {
    "tensor": lambda **options: torch.tensor([1.0, 2.0], **options),
    "zeros": lambda **options: torch.zeros(2, **options),
    "ones": lambda **options: torch.ones(2, **options),
    "empty": lambda **options: torch.empty(2, **options),
    "full": lambda **options: torch.full((2,), 3.0, **options),
    "arange": lambda **options: torch.arange(2, **options),
}


def attributes() -> dict[tuple[str, str], Any]:
    """Every attribute of every module of torch and megatron-core, and of the classes that megatron-core works with."""
    modules = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in ("torch", "megatron") and isinstance(module, types.ModuleType)
    }
    owners = {**modules, "Tensor": torch.Tensor, "TensorBase": torch._C.TensorBase, "Norm": WrappedTorchNorm}
    return {(name, key): value for name, owner in owners.items() for key, value in vars(owner).items()}


@pytest.fixture
def platform() -> Iterator[None]:
    with installed(CpuPlatform()):
        yield


def test_uninstall_restores_everything() -> None:
    before = attributes()
    for _ in range(2):
        platform = CpuPlatform()
        platform.install()
        during = attributes()
        changed = {key for key in during if during[key] is not before.get(key)}
        assert {("torch", "zeros"), ("torch.cuda", "current_device"), ("Tensor", "type")} < changed
        platform.uninstall()
        after = attributes()
        assert after.keys() == before.keys()
        assert [key for key in before if after[key] is not before[key]] == []


def test_an_error_inside_restores_everything() -> None:
    before = attributes()
    with pytest.raises(RuntimeError), installed(CpuPlatform()):
        raise RuntimeError
    after = attributes()
    assert [key for key in before if after[key] is not before[key]] == []


def test_installed_within_installed() -> None:
    before = attributes()
    with installed(CpuPlatform()), installed(CpuPlatform()):
        assert torch.zeros(2, device="cuda").device.type == "cpu"
    after = attributes()
    assert [key for key in before if after[key] is not before[key]] == []


def test_import_patches_nothing() -> None:
    """Nor does it import megatron-core, which is to be imported where the platform is installed."""
    code = """
import sys, torch, torch.utils._device
owners = (torch, torch.cuda, torch.Tensor)
before = [dict(vars(owner)) for owner in owners]
import aspo_megatron.parallel.device.platform
after = [dict(vars(owner)) for owner in owners]
changed = [key for old, new in zip(before, after) for key in old if new[key] is not old[key]]
assert not changed, changed
assert not [name for name in sys.modules if name.startswith("megatron")]
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", ["wandb", "triton"])
def test_megatron_does_without_some_packages_and_others_have_them(package: str) -> None:
    """With all that a rank imports of this project."""
    code = f"""
import sys
from aspo_megatron.parallel.device.platform import CpuPlatform
CpuPlatform().install()
import aspo_megatron.parallel.update.step
assert "megatron.core.timers" in sys.modules
assert not [name for name in sys.modules if name.partition(".")[0] == "{package}"]
import {package}
assert {package}.__file__
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("name", FACTORIES)
def test_factories(name: str) -> None:
    make = FACTORIES[name]
    for device in ("cuda", "cuda:1", torch.device("cuda", 0), "cpu", None):
        tensor = make(device=device)
        assert tensor.device.type == "cpu"
        assert tensor.shape == (2,)
    assert make(device="cuda", pin_memory=True).device.type == "cpu"
    assert make(device="meta").device.type == "meta"
    assert make(dtype=torch.float64).dtype == torch.float64
    # transformers builds models under a device: an unknown stand-in would ignore it.
    with torch.device("meta"):
        assert make().device.type == "meta"
        assert make(device="cpu").device.type == "cpu"
    with torch.device("cpu"):
        assert make().device.type == "cpu"
    assert make().device.type == "cpu"


@pytest.mark.usefixtures("platform")
def test_what_megatron_asks_of_cuda() -> None:
    tensor = torch.zeros(3)
    assert str(torch.cuda.current_device()) == "cpu"
    assert tensor.cuda() is tensor
    assert tensor.type() == "torch.cuda.FloatTensor"
    assert tensor.type(torch.float64).dtype == torch.float64
    torch.cuda.synchronize()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_transformers_models_load_whole(folders: dict[str, Path], family: str) -> None:
    """Buffers that no file holds (rotary frequencies) are computed while the model is built on the meta device."""

    def load() -> tuple[torch.Tensor, torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32)
        with torch.no_grad():
            return model.model.rotary_emb.inv_freq, model(torch.arange(20)[None]).logits

    plain = load()
    with installed(CpuPlatform()):
        inside = load()
    assert torch.equal(plain[0], inside[0])
    assert torch.equal(plain[1], inside[1])
    size = 2 * len(plain[0])
    torch.testing.assert_close(plain[0], 10000.0 ** (-torch.arange(0, size, 2) / size))


def test_random_states_of_tensor_parallel_regions() -> None:
    """A region has its own sequence of random numbers, which goes on from one visit to the next."""
    with process_grid(ParallelConfig(), PLATFORM, seed=5):
        tracker = megatron_random.get_cuda_rng_tracker()
        torch.manual_seed(0)
        outside = torch.rand(4)
        torch.manual_seed(0)
        first = torch.rand(2)
        with tracker.fork():
            inside = torch.rand(3)
        with tracker.fork():
            inside = torch.cat([inside, torch.rand(3)])
        assert torch.equal(torch.cat([first, torch.rand(2)]), outside)
        megatron_random.model_parallel_cuda_manual_seed(5, force_reset_rng=True)
        with megatron_random.get_cuda_rng_tracker().fork():
            assert torch.equal(torch.rand(6), inside)
        with pytest.raises(ValueError, match="was added before"):
            tracker.add("model-parallel-rng", 1)


def test_gradient_norm_without_apex_asks_for_no_number() -> None:
    """megatron's own waits for the norm of each parameter; meta tensors have none to give."""
    shapes = [(3, 4), (7,), (2, 5, 2)]
    values = [torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) for shape in shapes]
    with installed(CpuPlatform()):
        norm, _ = clip_grads.l2_norm_impl(2048, torch.zeros(1), [[tensor.to("meta") for tensor in values]], False)
        assert (norm.shape, norm.dtype, norm.device.type) == ((1,), torch.float32, "meta")
        norm, _ = clip_grads.l2_norm_impl(2048, torch.zeros(1), [values], False)
    assert float(norm) == pytest.approx(float(torch.cat([tensor.flatten() for tensor in values]).norm()), rel=1e-6)


@pytest.mark.parametrize("sizes", [(8_000_000,), (4096,), (3, 8192 * 3 + 5), (1, 4095, 4097, 2_000_003)])
def test_gradient_norm_of_many_numbers(sizes: tuple[int, ...]) -> None:
    """Squares added up one after the other in fp32 lose the more, the more there are: 2e-4 of eight million."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(size, generator=generator) * 1e-3 for size in sizes]
    with installed(CpuPlatform()):
        norm, _ = clip_grads.l2_norm_impl(2048, torch.zeros(1), [values], False)
    assert float(norm) == pytest.approx(float(torch.cat(values).double().norm()), rel=2e-7)


def test_scale_of_router_losses_is_that_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """megatron keeps the first one's tensor, with its device, for as long as the process lives."""
    monkeypatch.setattr(MoEAuxLossAutoScaler, "main_loss_backward_scale", None)
    MoEAuxLossAutoScaler.set_loss_scale(torch.ones(1, device="meta"))
    with installed(CpuPlatform()):
        MoEAuxLossAutoScaler.set_loss_scale(torch.full((1,), 3.0))
        assert float(MoEAuxLossAutoScaler.main_loss_backward_scale) == 3.0
    assert MoEAuxLossAutoScaler.main_loss_backward_scale.device.type == "meta"


def test_choice() -> None:
    assert isinstance(choose_platform("cpu", 0, 1), CpuPlatform)
    if not torch.cuda.is_available():
        assert isinstance(choose_platform("auto", 0, 1), CpuPlatform)


TASK_2_OF_4 = {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4", "SLURM_LOCALID": "2"}


def gpu_of(monkeypatch: pytest.MonkeyPatch, seen: int, env: dict[str, str]) -> torch.device:
    """The GPU of a rank that sees `seen` of them and has this environment."""
    for name in ("SLURM_LOCALID", "SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_TASK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return choose_platform("auto", int(env["LOCAL_RANK"]), 1).device


@pytest.mark.parametrize("shown", [{"SLURM_GPUS_ON_NODE": "4"}, {"SLURM_GPUS_PER_TASK": "1"}])
def test_a_task_that_is_shown_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch, shown: dict[str, str]) -> None:
    assert gpu_of(monkeypatch, 1, TASK_2_OF_4 | shown) == torch.device("cuda", 0)
    assert gpu_of(monkeypatch, 4, TASK_2_OF_4 | shown) == torch.device("cuda", 2)


@pytest.mark.parametrize(
    "env",
    [
        {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4"},  # of `aspo train`, or torchrun
        # the same inside a job, in whose first task they run
        {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4", "SLURM_LOCALID": "0", "SLURM_GPUS_ON_NODE": "4"},
        TASK_2_OF_4 | {"SLURM_GPUS_ON_NODE": "1"},
        TASK_2_OF_4,
    ],
)
def test_ranks_that_see_the_same_one_gpu_are_refused(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"local rank 2 has no GPU \(1 found\)"):
        gpu_of(monkeypatch, 1, env)


def test_cuda_without_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"platform\.device=cuda: local rank 3 has no GPU \(0 found\)"):
        choose_platform("cuda", 3, 1)
