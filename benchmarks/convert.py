"""Speed and memory of the converters, against plain reading and writing of the same bytes.

    python benchmarks/convert.py [MODEL] [--tp 2] [--pp 2]

Without MODEL a random Llama of about 0.6 GB is made. Every conversion runs in a process of its own. Peak memory is that
process's anonymous memory (what it has allocated) above what it has after its imports; pages of mapped files, which
the kernel takes back at will, are not in it. Speeds are those of the best of `--repeat` runs, each followed by fsync;
plain reading and writing takes turns with the conversions. On a slow disk the disk decides; `--work /dev/shm` shows
what the converters themselves cost. mbridge, where it is installed and runs, loads the model into megatron's layers in
one process and writes it back, which is compared with the sum of both conversions.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """Seconds, and peak anonymous memory above the start in bytes."""

    seconds: float
    peak: int


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--pp", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder to work in; its disk is what is measured")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work, prefix="aspo-convert-") as folder:
        work = Path(folder)
        model = options.model or make_model(work / "model")
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        layout = {"tp": options.tp, "pp": options.pp}
        runs: dict[str, list[Measured]] = {"plain read and write": [], "to megatron": [], "to Hugging Face": []}
        for _ in range(options.repeat):
            for name in ("plain", "megatron", "back"):
                shutil.rmtree(work / name, ignore_errors=True)
            runs["plain read and write"].append(measure(plain, model, work / "plain"))
            runs["to megatron"].append(measure(to_megatron, model, work / "megatron", layout))
            runs["to Hugging Face"].append(measure(to_hf, work / "megatron", work / "back"))
        peer = measure_or_reason(with_mbridge, model, work / "mbridge")
        shard = max(path.stat().st_size for path in (work / "megatron").glob("*.distcp"))
    base = min(run.seconds for run in runs["plain read and write"])
    print(
        f"{size / 2**20:.0f} MiB of weights, tp {options.tp} x pp {options.pp}, largest shard {shard / 2**20:.0f} MiB"
    )
    print(f"{'':<22}{'MiB/s':>8}{'of plain':>10}{'peak MiB':>10}{'of shard':>10}")
    rows = []
    for name, measured in runs.items():
        seconds, peak = min(run.seconds for run in measured), max(run.peak for run in measured)
        rows.append(
            {"what": name, "bytes": size, "seconds": seconds, "ratio": base / seconds, "peak": peak, "shard": shard}
        )
        print(
            f"{name:<22}{size / 2**20 / seconds:>8.0f}{base / seconds:>10.2f}{peak / 2**20:>10.0f}{peak / shard:>10.2f}"
        )
    both = sum(min(run.seconds for run in runs[name]) for name in ("to megatron", "to Hugging Face"))
    if isinstance(peer, str):
        print(f"mbridge: not run: {peer}")
    else:
        print(f"mbridge, there and back: {peer.seconds:.1f} s, peak {peer.peak / 2**20:.0f} MiB; here {both:.1f} s")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def make_model(folder: Path, layers: int = 24) -> Path:
    """A random Llama in bf16: width 1024, 32,000 words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="200MB")
    return folder


def plain(source: Path, target: Path) -> None:
    """Read each weights file and write it again."""
    target.mkdir()
    for path in source.glob("*.safetensors"):
        with path.open("rb") as old, (target / path.name).open("wb") as new:
            while block := old.read(8 << 20):
                new.write(block)
            new.flush()
            os.fsync(new.fileno())


def to_megatron(source: Path, target: Path, layout: dict[str, int]) -> None:
    """`aspo convert hf-to-megatron`."""
    from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron
    from aspo_megatron.models.family import read_family

    hf_to_megatron(source, target, converter_layout(read_family(source), **layout), None, lambda count: None)  # type: ignore[arg-type]


def to_hf(source: Path, target: Path) -> None:
    """`aspo convert megatron-to-hf`."""
    from aspo_megatron.checkpoint.convert import megatron_to_hf

    megatron_to_hf(source, target, None, lambda count: None)


def with_mbridge(source: Path, target: Path) -> None:
    """Hugging Face to megatron's layers and back, by mbridge."""
    from aspo_megatron.config import ParallelConfig, PlatformConfig
    from aspo_megatron.parallel.grid.topology import process_grid

    warnings.simplefilter("ignore")  # megatron's, about what is not installed
    with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1):
        from mbridge import AutoBridge

        bridge = AutoBridge.from_pretrained(str(source))
        bridge.save_weights(bridge.get_model(weight_path=str(source)), str(target))


def measure(function: Callable[..., None], *args: Any) -> Measured:
    """Run `function` in a new process.

    Raises:
        RuntimeError: it failed.
    """
    measured = measure_or_reason(function, *args)
    if isinstance(measured, str):
        raise RuntimeError(measured)
    return measured


def measure_or_reason(function: Callable[..., None], *args: Any) -> Measured | str:
    """`measure`, or in one line why `function` failed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, function, args))
    process.start()
    theirs.close()
    measured: Measured | str = ours.recv()
    process.join()
    return measured


def _child(pipe: Any, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    import torch
    from transformers import AutoConfig, modeling_rope_utils  # noqa: F401 (whose modules are no part of the model)

    import aspo_megatron.checkpoint.convert  # noqa: F401

    torch.set_num_threads(1)  # as `aspo convert` does
    start, peak, done = _anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    reason = None
    try:
        function(*args)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    pipe.send(reason or Measured(seconds, max(peak - start, 0)))


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
