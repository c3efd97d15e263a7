"""The figures of GPUs and networks that estimates rest on. None is measured here; each has its source."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

GB = 10**9
TB = 10**12


@dataclass(frozen=True)
class Gpu:
    """A GPU and the network it is usually on. Rates are bytes or operations a second.

    Attributes:
        memory: bytes, as it is sold (GB of 10^9).
        bf16: dense BF16 operations.
        fp32: FP32 operations without tensor cores.
        hbm: of its memory.
        nvlink: to the other GPUs of its node, in one direction.
        network: to other nodes, in one direction: one 400 Gbit/s InfiniBand adapter for each GPU.
        source: where the figures are from.
    """

    name: str
    memory: int
    bf16: float
    fp32: float
    hbm: float
    nvlink: float
    network: float
    source: str


H100 = Gpu(
    "H100 SXM",
    memory=80 * GB,
    bf16=989e12,
    fp32=67e12,
    hbm=3.35 * TB,
    nvlink=450 * GB,
    network=50 * GB,
    source="NVIDIA H100 datasheet (SXM, without sparsity), DGX H100 datasheet (8 x 400 Gbit/s)",
)
H200 = Gpu(
    "H200 SXM",
    memory=141 * GB,
    bf16=989e12,
    fp32=67e12,
    hbm=4.8 * TB,
    nvlink=450 * GB,
    network=50 * GB,
    source="NVIDIA H200 datasheet (SXM, without sparsity), DGX H200 datasheet (8 x 400 Gbit/s)",
)
GPUS = (H100, H200)


def gpu_called(name: str) -> Gpu:
    """The GPU of that short name: `h100`, in letters of any case.

    Raises:
        ConfigError: none is called so; names those that are known.
    """
    kinds = {each.name.split()[0].lower(): each for each in GPUS}
    if name.lower() not in kinds:
        raise ConfigError(f"--gpu {one_line(name)}: known are {', '.join(kinds)}")
    return kinds[name.lower()]


GPUS_OF_NODE = 8


@dataclass(frozen=True)
class Assumptions:
    """What is neither known nor stated by a vendor. Each is printed with a plan.

    Attributes:
        mfu: share of the BF16 peak that training reaches in its matrix products.
        decode: share of the memory's rate that generation reaches.
        link: share of a link's rate that a collective reaches.
        reserved: bytes of a GPU that the CUDA context, NCCL and cuBLAS take.
        fragments: share of an update's own memory that is lost between the allocator's blocks.
        server_fraction: of a GPU's memory for weights and cache, if `rollout.servers.memory_fraction` is null.
        length: mean length of a response, as a share of the longest.
        prompt: the same of a prompt.
    """

    mfu: float = 0.35
    decode: float = 0.5
    link: float = 0.7
    reserved: int = 3 * GB
    fragments: float = 0.05
    server_fraction: float = 0.85
    length: float = 0.5
    prompt: float = 0.25
