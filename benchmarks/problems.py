"""What reading many problems costs: seconds and memory of the command, of the leader and of the other ranks.

    python -m benchmarks.problems                   # a million lines; a few minutes, 5 GiB for the comparison
    python -m benchmarks.problems --lines 20000     # seconds: does it run?

Each is a process of its own, and so is what it is held against: a rank that reads all problems itself, as a list of
objects.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aspo_megatron.config import DataConfig
from aspo_megatron.data.prompts import load_problems
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.store import ProblemStore, empty_store
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.inputs.handover import handed_over, taken_over

MODEL = Path(__file__).parents[1] / "examples" / "tiny" / "model"
PROMPTS = 512
"""Problems of a step."""


@dataclass(frozen=True)
class Cost:
    """Of something done in a process: seconds of the processor, and bytes more than before."""

    seconds: float
    peak: int
    kept: int


def write_problems(path: Path, lines: int) -> None:
    """Sums as JSONL."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            question = f"What is {number} plus {number * 7 % 1000}?"
            row = {"id": f"p{number}", "prompt": question, "answer": str(number + number * 7 % 1000)}
            file.write(json.dumps(row) + "\n")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _measured(work: Callable[[], object]) -> Cost:
    """What it costs to do it and to keep the result."""
    before, began = _resident("VmRSS"), time.process_time()
    result = work()
    seconds = time.process_time() - began
    kept, peak = _resident("VmRSS"), _resident("VmHWM")
    del result
    return Cost(seconds, max(0, peak - before), max(0, kept - before))


def _read(path: Path, lines: int, tokenizer: Any) -> tuple[ProblemStore, ProblemStore]:
    source = {"kind": "jsonl", "path": str(path), "limit": lines}
    config = DataConfig.model_validate({"train": source, "format": "raw"})
    return load_problems(config, tokenizer, 1024, 64)


def _command(path: Path, lines: int, pipe: Connection) -> None:
    """The launcher: it reads, and keeps what it has read for the leader alone."""
    tokenizer = load_tokenizer(MODEL)
    _read(path, 100, tokenizer)  # what is imported and made once
    before, began = _resident("VmRSS"), time.process_time()
    train, heldout = _read(path, lines, tokenizer)
    with handed_over(train, heldout) as handed:
        seconds, peak = time.process_time() - began, _resident("VmHWM")
        del train, heldout
        kept = _resident("VmRSS")
        size = handed.stat().st_size if handed else 0
        pipe.send((Cost(seconds, peak - before, kept - before), handed, size))
        pipe.recv()


def _leader(handed: Path, pipe: Connection) -> None:
    """Takes over what the command has read, and deals out a step's problems."""

    def work() -> object:
        stores = taken_over(handed)
        assert stores is not None
        step = max(1, len(stores[0]) // PROMPTS)
        return stores, stores[0].to_all(range(0, len(stores[0]), step)[:PROMPTS])

    pipe.send(_measured(work))


def _other(pipe: Connection) -> None:
    """A rank that is given its problems of a step."""
    one = Problem("p", "What is 999999 plus 999?", tuple(range(25)), "1000998", {"id": "p999999"})
    pipe.send(_measured(lambda: (empty_store(), [one for _ in range(PROMPTS)])))


def _every(path: Path, pipe: Connection) -> None:
    """A rank that reads all problems itself."""
    tokenizer = load_tokenizer(MODEL)
    tokenizer("one")

    def work() -> list[Problem]:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        encoded = tokenizer([row["prompt"] for row in rows])["input_ids"]
        return [
            Problem(row["id"], row["prompt"], tuple(ids), row["answer"], {"id": row["id"]})
            for row, ids in zip(rows, encoded, strict=True)
        ]

    pipe.send(_measured(work))


def _run(context: multiprocessing.context.SpawnContext, target: Callable[..., None], *arguments: object) -> Connection:
    """Start it; the pipe that its result comes through."""
    here, there = context.Pipe()
    context.Process(target=target, args=(*arguments, there)).start()
    there.close()
    return here


def measure(path: Path, lines: int) -> tuple[dict[str, Cost], int]:
    """Costs by the process they arise in, and the bytes that the command hands over."""
    context = multiprocessing.get_context("spawn")
    command = _run(context, _command, path, lines)
    cost, handed, size = command.recv()
    costs = {"command": cost}
    if handed is not None:
        costs["leader"] = _run(context, _leader, handed).recv()
    command.send("end")
    costs["another rank"] = _run(context, _other).recv()
    costs["a rank that reads all"] = _run(context, _every, path).recv()
    return costs, size


def table(costs: dict[str, Cost], lines: int, size: int, ranks: int) -> str:
    """Markdown."""
    rows = ["| process | CPU seconds | MiB at most | MiB kept |", "| --- | --: | --: | --: |"]
    for name, cost in costs.items():
        rows.append(f"| {name} | {cost.seconds:.1f} | {cost.peak >> 20:,} | {cost.kept >> 20:,} |")
    every = costs["a rank that reads all"]
    here = costs["command"].seconds + costs["leader"].seconds + (ranks - 1) * costs["another rank"].seconds
    kept = size + costs["command"].kept + (ranks - 1) * costs["another rank"].kept
    return "\n".join(
        [
            *rows,
            "",
            f"{lines:,} problems; {size >> 20:,} MiB of memory that the command and the leader share. "
            f"With {ranks} ranks, against a command and {ranks} ranks that read all: "
            f"CPU {here / (every.seconds * (ranks + 1)):.3f}, memory {kept / (every.kept * (ranks + 1)):.3f}.",
        ]
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=8, help="for the ratios")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problems.jsonl"
        write_problems(path, options.lines)
        costs, size = measure(path, options.lines)
    print(table(costs, options.lines, size, options.ranks))


if __name__ == "__main__":
    main()
