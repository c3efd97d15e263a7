"""Time of a weight sync to a real SGLang server, by each way, against a plain copy of the same bytes in memory.

    python -m benchmarks.weight_sync [MODEL]

Starts one server on this machine. Each way is timed from the pause of the server to its first answer after it, in
rounds that take turns with the copy; the server has nothing else to do. With a GPU the tensors are on it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, write_folder
from aspo_megatron.config import ServersConfig
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.models.family import read_family
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.rollout.sglang.command import ServedModel
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.local_servers import LocalServers
from aspo_megatron.rollout.stop_rule import end_of_sequence_ids
from aspo_megatron.rollout.weight_sync.session import Transport
from aspo_megatron.rollout.weight_sync.transports import DiskTransport, DistributedTransport, TensorTransport
from benchmarks.measure import interleaved, machine


def main(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder.")] = Path("models/SmolLM2-135M-Instruct"),
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    bucket_mib: Annotated[int, typer.Option(min=1, help="Size of a bucket.")] = 256,
    dtype: Annotated[str, typer.Option(help="Of trainer and server: float32 or bfloat16.")] = "float32",
    python: Annotated[Path, typer.Option(help="Python with SGLang.")] = Path(".venv-sglang/bin/python"),
) -> None:
    """Measure and print a table."""
    family = read_family(model)
    tokenizer = load_tokenizer(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with SafetensorsFolder(model) as folder:
        sizes = hf_sizes(family.rows, family.shape(tp=1))
        weights = {name: folder.read_whole(name).to(device, getattr(torch, dtype)) for name in sizes}
    size = sum(tensor.nbytes for tensor in weights.values())
    config = ServersConfig(python=python, sync="tensor", bucket_mib=bucket_mib, max_cached_tokens=4096)
    with (
        tempfile.TemporaryDirectory(prefix="aspo-sync-") as work,
        LocalServers(config, ServedModel(model, dtype, False), device.type, Path(work), typer.echo) as servers,
    ):
        while not servers.ready(60.0):
            typer.echo("the server is starting")

        def write(folder: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
            write_folder(folder, tensors, family.hf_config | {"dtype": dtype}, tokenizer_from=model, replace=True)

        transports: dict[str, Transport] = {
            "distributed": DistributedTransport("nccl" if device.type == "cuda" else "gloo", 1, 300.0),
            "tensor, shared memory": TensorTransport(1, 300.0, own=True),
            "tensor, by value": TensorTransport(1, 300.0, shares=False),
            "disk": DiskTransport(write, Path(work) / "sync", 300.0),
        }
        ends = end_of_sequence_ids(model, tokenizer)
        vocab_size = family.shape(1).vocab_size
        engines = {
            name: SGLangEngine(config, servers.urls, transport, sizes, vocab_size, ends, tokenizer, servers.api_key)
            for name, transport in transports.items()
        }
        functions: dict[str, Callable[[], object]] = {"plain copy": lambda: [t.clone() for t in weights.values()]}
        functions |= {name: _syncing(engine, weights) for name, engine in engines.items()}
        for function in functions.values():
            function()
        times = interleaved(functions, device, repeats, limit=600.0)
        for engine in engines.values():
            engine.close()
    base = statistics.median(times["plain copy"])
    typer.echo(f"{machine(device)}; {model.name}, {size / 2**20:.0f} MiB of {dtype}, buckets of {bucket_mib} MiB")
    typer.echo(f"{'':<22} {'seconds':>8} {'MiB/s':>8} {'x plain copy':>13}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        typer.echo(f"{name:<22} {median:>8.3f} {size / 2**20 / median:>8.0f} {median / base:>13.1f}")


def _syncing(engine: SGLangEngine, weights: dict[str, Tensor]) -> Callable[[], object]:
    return lambda: engine.update_weights(weights.items(), version=1)


if __name__ == "__main__":
    typer.run(main)
