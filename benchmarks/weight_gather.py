"""Time of gathering a split model's weights as whole tensors: in buckets against tensor by tensor.

    python -m benchmarks.weight_gather

Two ranks (gloo, or NCCL with two GPUs) hold a random Llama of SmolLM2-135M's size, by tp=2 and by pp=2. Both ways take
turns in the same processes.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from torch.multiprocessing.spawn import spawn

from aspo_megatron.launch.addresses import reserved_port
from benchmarks.measure import machine

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
"""As SmolLM2-135M, with heads that two ranks can share."""


def main(
    bucket_mib: Annotated[int, typer.Option(min=1, help="Size of a bucket.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
) -> None:
    """Measure and print a table."""
    device = torch.device("cuda" if torch.cuda.device_count() > 1 else "cpu")
    typer.echo(f"{machine(device)}; buckets of {bucket_mib} MiB")
    typer.echo(f"{'':<6} {'MiB':>6} {'tensor by tensor':>18} {'buckets':>10} {'ratio':>7}")
    for axis in ("tp", "pp"):
        with tempfile.TemporaryDirectory(prefix="aspo-gather-") as work, reserved_port() as port:
            (Path(work) / "config.json").write_text(json.dumps(LLAMA))
            spawn(_rank, (Path(work), axis, port, bucket_mib << 20, repeats), nprocs=2)
            found = json.loads((Path(work) / "result.json").read_text())
        one, buckets = (statistics.median(found[name]) for name in ("one", "buckets"))
        size = found["bytes"] / 2**20
        typer.echo(f"{axis + '=2':<6} {size:>6.0f} {one:>16.3f} s {buckets:>8.3f} s {one / buckets:>7.2f}")


def _rank(rank: int, folder: Path, axis: str, port: int, bucket_bytes: int, repeats: int) -> None:
    """One of two: seconds of each round to `result.json`."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"})
    from aspo_megatron.checkpoint.hf.folder import RandomTensors, hf_shapes
    from aspo_megatron.config import ModelConfig, ParallelConfig, PlatformConfig
    from aspo_megatron.models.family import read_family
    from aspo_megatron.parallel.grid.topology import process_grid
    from aspo_megatron.parallel.model.policy import build_model

    torch.set_num_threads(1)
    kind = "cuda" if torch.cuda.device_count() > 1 else "cpu"
    found: dict[str, list[float]] = {"one": [], "buckets": []}
    with process_grid(ParallelConfig(**{axis: 2}), PlatformConfig(device=kind), seed=1) as topology:
        settings = ModelConfig(path=folder, init="random")
        source = RandomTensors(hf_shapes(folder), std=0.02, seed=1)
        model = build_model(read_family(folder), topology, settings, source)
        size = 0
        for number in range(repeats + 1):
            for name, limit in (("one", 1), ("buckets", bucket_bytes)):
                dist.barrier()
                began = time.perf_counter()
                size = sum(tensor.nbytes for _, tensor in model.hf_tensors(bucket_bytes=limit))
                dist.barrier()
                if number:  # the first round warms up
                    found[name].append(time.perf_counter() - began)
        if rank == 0:
            (folder / "result.json").write_text(json.dumps({**found, "bytes": size}))


if __name__ == "__main__":
    typer.run(main)
