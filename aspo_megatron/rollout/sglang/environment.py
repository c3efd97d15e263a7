"""The environment of a server that this process starts."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from aspo_megatron.config import ServersConfig
from aspo_megatron.launch.loopback import is_loopback, loopback_interface

_FOR_RANKS = {
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
    *("OMP_NUM_THREADS", "CUDA_DEVICE_MAX_CONNECTIONS", "TORCH_NCCL_BLOCKING_WAIT"),
}
_NCCL = {"NCCL_CUMEM_ENABLE": "-2", "NCCL_NVLS_ENABLE": "2"}
"""NCCL's own defaults. SGLang would turn both off, and NCCL connects GPUs of a machine only where both sides agree."""


def server_environment(config: ServersConfig, device: str, number: int, env: Mapping[str, str]) -> dict[str, str]:
    """A server's environment: without what tells this process that it is a rank, with GPUs counted from the last.

    One that is for this machine alone has gloo, too, listen where no other reaches it.
    """
    kept = {name: value for name, value in env.items() if not _is_for_ranks(name, value)}
    if is_loopback(config.host) and (here := loopback_interface()):
        kept = {"GLOO_SOCKET_IFNAME": here} | kept
    if device == "cpu":
        return kept | {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
    if config.sync in ("auto", "distributed"):
        kept = _NCCL | kept
    visible = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if visible == [""]:
        visible = [str(index) for index in range(torch.cuda.device_count())]
    first = len(visible) - (number + 1) * config.tp
    own = visible[first : first + config.tp]
    if config.sync == "tensor" and visible[0] not in own:
        own.append(visible[0])  # the trainer's leader is there; only a GPU that is seen can have its memory opened
    return kept | {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def _is_for_ranks(name: str, value: str) -> bool:
    """Whether an environment variable is for a rank, and not for what it starts."""
    # SGLang's memory saver has segments of its own, and cannot do with these.
    allocator = name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF") and "expandable_segments" in value
    return allocator or name in _FOR_RANKS or name.startswith(("ASPO_", "TORCHELASTIC_"))
