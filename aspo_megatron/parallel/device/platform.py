"""The platform of a process: a GPU, or none. It alone decides what megatron-core runs on.

megatron-core is written for CUDA: it asks `torch.cuda` for devices, streams and random states even where the work
itself is plain PyTorch. `CpuPlatform.install` replaces those few calls while it is installed, and `uninstall` puts
the originals back. Nothing is patched by importing this module.
"""

from __future__ import annotations

import contextlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._device import _device_constructors

from aspo_megatron.errors import ConfigError
from aspo_megatron.parallel.device.cpu_calls import (
    cpu_rng_tracker,
    cuda_type_names,
    gather_uneven,
    keep_freed_memory,
    not_compiled,
    on_cpu,
    scatter_uneven,
    sizes_as_numbers,
)
from aspo_megatron.parallel.device.expert_tokens import permute_by_known_count
from aspo_megatron.parallel.device.kernels import Machine
from aspo_megatron.parallel.device.packages import find_packages
from aspo_megatron.versions import refuse_outside

_INHERITED = object()
"""Marks an attribute that its owner had from a base class, so that undoing is deleting."""

_NORM_PART = 4096
"""Numbers of which a CPU adds up the squares in one sum."""


def import_megatron(*, without: tuple[str, ...] = ("wandb",)) -> None:
    """Import megatron-core as if some packages were not installed. Who asks for them later gets them.

    Its inference engine and its timers ask for wandb, and neither runs here. That would be two seconds of each rank's
    start, as much as torch takes. Its fused kernels ask for Triton: half a second, for nothing without a GPU.
    """
    hidden = [name for name in without if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it is an ImportError then
    try:
        import megatron.core.models.gpt.gpt_layer_specs  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]


class Platform(ABC):
    """Device, communication backend and kernels of this process."""

    device: torch.device
    backend: str
    machine: Machine
    """What the choice of kernels depends on."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []
        self._to_undo: list[Callable[[], None]] = []

    @abstractmethod
    def install(self) -> None:
        """Make megatron-core run on this platform. Call before the first import of `megatron`."""

    def uninstall(self) -> None:
        """Undo `install`: put back all that it replaced."""
        while self._to_undo:
            self._to_undo.pop()()
        while self._originals:
            owner, name, original = self._originals.pop()
            if original is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._originals.append((owner, name, owner.__dict__.get(name, _INHERITED)))
        setattr(owner, name, value)

    def _complete_local_layers(self) -> None:
        """Make megatron's own layers do without Transformer Engine what they leave to it."""
        self._complete_local_norms()
        # transformer/moe/moe_utils.py defines this name only where Transformer Engine is, and asks whether it is None.
        from megatron.core.transformer.moe import moe_utils

        if not hasattr(moe_utils, "te_general_gemm"):
            self._replace(moe_utils, "te_general_gemm", None)
        # optimizer/clip_grads.py has it of Transformer Engine or Apex, else it waits for the norm of each parameter.
        from megatron.core.optimizer import clip_grads
        from megatron.core.utils import local_multi_tensor_l2_norm

        if clip_grads.l2_norm_impl is local_multi_tensor_l2_norm:
            self._replace(clip_grads, "l2_norm_impl", _norm_of_all)
        from megatron.core.transformer.moe import token_dispatcher

        self._replace(token_dispatcher, "permute", permute_by_known_count(token_dispatcher.permute))
        # transformer/moe/moe_utils.py keeps it for ever, on the device of this process's first grid of ranks.
        self._replace(moe_utils.MoEAuxLossAutoScaler, "main_loss_backward_scale", None)

    def _complete_local_norms(self) -> None:
        """Make megatron's norm for local layers fit for sequence parallelism and bf16."""
        # transformer/torch_norm.py refuses sequence parallelism, because nothing marks the norm's weight. Marked, its
        # gradient is summed over tp by megatron's finalize_model_grads like that of any other norm. It also leaves the
        # weight in fp32, where Transformer Engine's norms and Hugging Face have the model's dtype.
        from megatron.core.transformer.torch_norm import WrappedTorchNorm

        build = WrappedTorchNorm.__new__

        def build_and_mark(cls: type, config: Any, *args: Any, **kwargs: Any) -> torch.nn.Module:
            wanted, config.sequence_parallel = config.sequence_parallel, False
            try:
                norm: torch.nn.Module = build(cls, config, *args, **kwargs)
            finally:
                config.sequence_parallel = wanted
            norm.to(config.params_dtype)
            for parameter in norm.parameters():
                parameter.sequence_parallel = wanted  # type: ignore[attr-defined]
            return norm

        self._replace(WrappedTorchNorm, "__new__", staticmethod(build_and_mark))

    def use_flash_attention_3(self) -> None:
        """Have PyTorch's operations of flash attention run FlashAttention-3, until `uninstall`."""
        from torch.nn import attention

        if attention.current_flash_attention_impl() != "FA3":
            attention.activate_flash_attention_impl("FA3")
            self._to_undo.append(attention.restore_flash_attention_impl)


class CudaPlatform(Platform):
    """One GPU per rank, NCCL, Transformer Engine if it is installed."""

    backend = "cpu:gloo,cuda:nccl"  # what is not on the GPU, such as messages between ranks, must not wait for it

    def __init__(self, local_rank: int) -> None:
        super().__init__()
        self.device = torch.device("cuda", local_rank)
        self.machine = Machine(find_packages(), torch.cuda.get_device_capability(self.device))

    def install(self) -> None:
        """See `Platform`."""
        torch.cuda.set_device(self.device)
        import_megatron()
        self._complete_local_layers()


class CpuPlatform(Platform):
    """No GPU: gloo, megatron's local layers, and a stand-in for each CUDA call that megatron-core makes."""

    backend = "gloo"
    device = torch.device("cpu")

    def __init__(self, threads: int = 1) -> None:
        super().__init__()
        self.machine = Machine(find_packages(), None)
        self._threads = threads

    def install(self) -> None:
        """See `Platform`."""
        torch.set_num_threads(self._threads)
        keep_freed_memory()
        self._replace_torch_calls()
        import_megatron(without=("wandb", "triton"))
        self._replace_rng_tracker()
        self._replace_expert_streams()
        self._complete_local_layers()

    def _replace_torch_calls(self) -> None:
        # torch.empty(..., device=torch.cuda.current_device()) all over megatron.core.
        self._replace(torch.cuda, "current_device", lambda: self.device)
        # pipeline_parallel/p2p_communication.py and checkpoint saving wait for the device.
        self._replace(torch.cuda, "synchronize", lambda *_, **__: None)
        # distributed/param_and_grad_buffer.py (0.19) asks which stream to wait on, if there is one.
        self._replace(torch.cuda, "current_stream", lambda *_, **__: None)
        # tensor_parallel/random.py: model_parallel_cuda_manual_seed.
        self._replace(torch.cuda, "manual_seed", torch.manual_seed)
        # models/common/embeddings/rope_utils.py, tensor_parallel/data.py.
        self._replace(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor)
        # megatron decorates its fused kernels with torch.compile as it is imported. That loads the whole compiler, some
        # seconds at the start of every rank, for kernels that are as fast without it here.
        self._replace(torch, "compile", not_compiled)
        # `with torch.device(...)` (transformers builds models under it) looks a factory up in a set that torch fills
        # once, from torch's attributes: it must hold the real factories, not the stand-ins.
        _device_constructors()
        # device="cuda" literals in optimizer/optimizer.py, optimizer/clip_grads.py, pipeline_parallel/schedules.py.
        for name in ("tensor", "zeros", "ones", "empty", "full", "arange"):
            self._replace(torch, name, on_cpu(getattr(torch, name)))
        # optimizer/clip_grads.py and distrib_optimizer.py compare Tensor.type() with 'torch.cuda.FloatTensor'.
        self._replace(torch.Tensor, "type", cuda_type_names(torch.Tensor.type))

    def _replace_rng_tracker(self) -> None:
        from megatron.core.tensor_parallel import random as megatron_random

        self._replace(megatron_random, "CudaRNGStatesTracker", cpu_rng_tracker(megatron_random.CudaRNGStatesTracker))
        self._replace(megatron_random, "_get_cuda_rng_state", lambda *_, **__: torch.get_rng_state())
        self._replace(megatron_random, "_set_cuda_rng_state", lambda state, *_, **__: torch.set_rng_state(state))

    def _replace_expert_streams(self) -> None:
        # transformer/moe/token_dispatcher.py copies the sizes of what it sends to the host on a stream of its own.
        from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher

        self._replace(MoEAlltoAllTokenDispatcher, "cuda_dtoh_stream", "no stream")
        self._replace(MoEAlltoAllTokenDispatcher, "_maybe_dtoh_and_synchronize", sizes_as_numbers)
        # Experts that are split over etp exchange parts of different sizes, for which gloo has no collective.
        from megatron.core.tensor_parallel import mappings

        self._replace(mappings, "_gather_along_first_dim", gather_uneven(mappings._gather_along_first_dim))
        scatter = mappings._reduce_scatter_along_first_dim
        self._replace(mappings, "_reduce_scatter_along_first_dim", scatter_uneven(scatter))


def choose_platform(device: str, local_rank: int, threads: int) -> Platform:
    """The platform for `platform.device`: `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: if `cuda` is asked for and there is no GPU for this rank.
        UserError: if torch, megatron-core or another of `versions.NAMES` has a version that is not supported.
    """
    refuse_outside()
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    number = 0 if gpus == 1 and _sees_its_own_gpu(os.environ) else local_rank
    if (device == "cuda" or gpus) and number >= gpus:
        raise ConfigError(
            f"platform.device={device}: local rank {local_rank} has no GPU ({gpus} found); "
            "use fewer ranks or device=cpu"
        )
    return CudaPlatform(number) if gpus else CpuPlatform(threads)


def _sees_its_own_gpu(env: Mapping[str, str]) -> bool:
    """Whether Slurm, which can hide the others from each task, has a GPU for each of the node's tasks.

    Ranks of `aspo train` or torchrun, inside a job too, share the GPUs that their parent sees: of them Slurm knows
    only the parent, whose number on the node is not theirs.
    """
    if "SLURM_LOCALID" not in env or env["SLURM_LOCALID"] != env.get("LOCAL_RANK"):
        return False
    on_node, tasks = env.get("SLURM_GPUS_ON_NODE", ""), env.get("LOCAL_WORLD_SIZE", "")
    return "SLURM_GPUS_PER_TASK" in env or (on_node.isdecimal() and tasks.isdecimal() and int(on_node) >= int(tasks))


@contextlib.contextmanager
def installed(platform: Platform) -> Iterator[Platform]:
    """`platform`, installed for the length of the block."""
    platform.install()
    try:
        yield platform
    finally:
        platform.uninstall()


def _norm_of_all(
    chunk_size: int, overflow: Tensor, tensors: list[list[Tensor]], per_tensor: bool
) -> tuple[Tensor, None]:
    """The norm of all tensors as one vector, [1] in fp32 and where they are; for `amp_C.multi_tensor_l2norm`."""
    every = [tensor for part in tensors for tensor in part]
    if every[0].device.type == "cpu":
        norms = torch.cat([_norms_of_parts(tensor) for tensor in every])
    else:
        norms = torch.stack(torch._foreach_norm(every))
    return torch.linalg.vector_norm(norms.float()).reshape(1), None


def _norms_of_parts(tensor: Tensor) -> Tensor:
    """On a CPU PyTorch adds up squares one after the other in fp32: of 80 million the norm is off by 0.8 %."""
    values = tensor.reshape(-1)
    whole = values.numel() // _NORM_PART * _NORM_PART
    parts = torch.linalg.vector_norm(values[:whole].view(-1, _NORM_PART), dim=1)
    return torch.cat((parts, torch.linalg.vector_norm(values[whole:]).reshape(1)))
