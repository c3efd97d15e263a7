"""The figures of GPUs and networks that estimates rest on. None is measured here; each has its source."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

GB = 10**9
TB = 10**12


@dataclass(frozen=True)
class Gpu:
    """A GPU and the network it is usually on. Rates are bytes or operations a second.

    Attributes:
        memory: bytes, as it is sold (GB of 10^9).
        capability: compute capability, as CUDA numbers generations.
        bf16: dense BF16 operations.
        fp32: FP32 operations without tensor cores.
        hbm: of its memory.
        nvlink: to the other GPUs of its node, in one direction.
        network: to other nodes, in one direction: one adapter for each GPU.
        source: where the figures are from.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    bf16: float
    fp32: float
    hbm: float
    nvlink: float
    network: float
    source: str


A100 = Gpu(
    "A100 SXM",
    memory=80 * GB,
    capability=(8, 0),
    bf16=312e12,
    fp32=19.5e12,
    hbm=2.039 * TB,
    nvlink=300 * GB,
    network=25 * GB,
    source="NVIDIA A100 datasheet (80 GB SXM, without sparsity), DGX A100 datasheet (8 x 200 Gbit/s)",
)
A100_40 = replace(
    A100,
    name="A100-40 SXM",
    memory=40 * GB,
    hbm=1.555 * TB,
    source="NVIDIA A100 datasheet (40 GB SXM, without sparsity), DGX A100 datasheet (8 x 200 Gbit/s)",
)
H100 = Gpu(
    "H100 SXM",
    memory=80 * GB,
    capability=(9, 0),
    bf16=989e12,
    fp32=67e12,
    hbm=3.35 * TB,
    nvlink=450 * GB,
    network=50 * GB,
    source="NVIDIA H100 datasheet (SXM, without sparsity), DGX H100 datasheet (8 x 400 Gbit/s)",
)
H800 = replace(
    H100,
    name="H800 SXM",
    nvlink=200 * GB,
    source="as H100 SXM, except for NVLink: 400 GB/s in both directions (arXiv 2505.09343, on DeepSeek-V3's nodes)",
)
H200 = Gpu(
    "H200 SXM",
    memory=141 * GB,
    capability=(9, 0),
    bf16=989e12,
    fp32=67e12,
    hbm=4.8 * TB,
    nvlink=450 * GB,
    network=50 * GB,
    source="NVIDIA H200 datasheet (SXM, without sparsity), DGX H200 datasheet (8 x 400 Gbit/s)",
)
H20 = Gpu(
    "H20 SXM",
    memory=96 * GB,
    capability=(9, 0),
    bf16=148e12,
    fp32=44e12,
    hbm=4.0 * TB,
    nvlink=450 * GB,
    network=50 * GB,
    source="NVIDIA's figures for HGX H20 as server vendors publish them; 8 x 400 Gbit/s as in other HGX nodes",
)
B200 = Gpu(
    "B200 SXM",
    memory=180 * GB,
    capability=(10, 0),
    bf16=2250e12,
    fp32=75e12,
    hbm=8.0 * TB,
    nvlink=900 * GB,
    network=50 * GB,
    source="NVIDIA DGX B200 datasheet (an eighth of a node, without sparsity; 8 x 400 Gbit/s), HGX B200 for FP32",
)
GPUS = (A100, A100_40, H100, H800, H200, H20, B200)
BY_NAME = {each.name.split()[0].lower(): each for each in GPUS}
"""By the short names that a user gives: `h100`."""
SHOWN = (H100, H200)
"""Those that a plan is for unless another is asked for."""


def gpu_called(name: str, memory: float | None = None) -> Gpu:
    """The GPU of that short name: `h100`, in letters of any case.

    `memory`: GB that it has, where these are not what it is sold with.

    Raises:
        ConfigError: none is called so; names those that are known.
    """
    if name.lower() not in BY_NAME:
        raise ConfigError(
            f"--gpu {one_line(name)}: known are {', '.join(BY_NAME)}; --gpu-memory GB sets another memory size"
        )
    found = BY_NAME[name.lower()]
    return found if memory is None else with_memory(found, int(memory * GB))


def with_memory(gpu: Gpu, memory: int) -> Gpu:
    """The same GPU with so many bytes."""
    return gpu if memory == gpu.memory else replace(gpu, name=f"{gpu.name}, {memory / GB:g} GB", memory=memory)


GPUS_OF_NODE = 8


@dataclass(frozen=True)
class Assumptions:
    """What is neither known nor stated by a vendor. Each is printed with a plan.

    Attributes:
        mfu: share of the BF16 peak that training reaches on an H100 in its matrix products, all other kernels included.
        products: share of a GPU's peak that large products reach by themselves.
        elementwise: share of the memory's rate that additions of gradients reach.
        call: seconds that the host takes for one operation of PyTorch.
        decode: share of the memory's rate that generation reaches.
        link: share of a link's rate that a collective reaches.
        reserved: bytes of a GPU that the CUDA context, NCCL and cuBLAS take.
        fragments: share of an update's own memory that is lost between the allocator's blocks.
        spare: share of a GPU's memory that a layout leaves free, or it is called tight.
        server_fraction: of a GPU's memory for weights and cache, if `rollout.servers.memory_fraction` is null.
        length: mean length of a response, as a share of the longest.
        prompt: the same of a prompt.
    """

    mfu: float = 0.35
    products: float = 0.7
    elementwise: float = 0.8
    call: float = 5e-6
    decode: float = 0.5
    link: float = 0.7
    reserved: int = 3 * GB
    fragments: float = 0.05
    spare: float = 0.1
    server_fraction: float = 0.85
    length: float = 0.5
    prompt: float = 0.25

    def rate(self, gpu: Gpu, dtype_bytes: int) -> float:
        """Operations a second of training on `gpu`, which is `mfu` of an H100's peak in BF16.

        Products run at `products` of the peak. What an H100 takes beyond that for each operation it spends at its
        memory's rate, and another GPU at its own.
        """
        if dtype_bytes != 2:
            return gpu.fp32 * self.mfu
        moved = (1 / self.mfu - 1 / self.products) * H100.hbm / H100.bf16
        return 1 / (1 / (gpu.bf16 * self.products) + moved / gpu.hbm)

    def mfu_on(self, gpu: Gpu) -> float:
        """The share of the BF16 peak that `rate` is."""
        return self.rate(gpu, 2) / gpu.bf16

    def is_tight(self, memory: int, gpu: Gpu) -> bool:
        """Whether so many bytes fit on `gpu`, but leave less than `spare` of it."""
        return (1 - self.spare) * gpu.memory < memory <= gpu.memory
