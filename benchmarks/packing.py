"""Tokens that training computes beyond those of its samples, packed as here and padded as elsewhere.

    python -m benchmarks.packing

Lengths are drawn: a lognormal for the responses of each problem, which problems shift, cut at the limit. Counted are
tokens, not seconds. Padded: every sample of a micro-batch as long as its longest, prompt and all; micro-batches of
equally many samples, in order or sorted by length. Packed: `aspo_megatron.data.packing`, which computes no padding, so
that its waste is prompts held twice, and replicas that wait for the one with the most tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from aspo_megatron.data.packing import packed_length, split_by_budget
from aspo_megatron.data.samples import Sample
from aspo_megatron.parallel.grid.exchange import balance

PROMPTS, RESPONSES, LIMIT, BUDGET = 128, 16, 8192, 16384


def main(
    batches: Annotated[int, typer.Option(help="Mini-batches drawn.")] = 20,
    out: Annotated[Path, typer.Option(help="Folder for packing_benchmark.md.")] = Path("docs"),
) -> None:
    """Print and write a table."""
    rows = []
    for replicas in (1, 4, 8, 16, 32):
        drawn = [groups_of_lengths(np.random.default_rng((replicas, seed))) for seed in range(batches)]
        means = np.array([wastes(groups, replicas) for groups in drawn]).mean(axis=0)
        rows.append(f"| {replicas} | " + " | ".join(f"{waste:.1%}" for waste in means) + " |")
    text = "\n".join(
        [
            "# Benchmark of packing\n",
            f"Written by `python -m benchmarks.packing`: {PROMPTS} prompts x {RESPONSES} responses of up to {LIMIT} "
            f"tokens in a mini-batch, at most {BUDGET} tokens in a micro-batch, means of {batches} mini-batches. Waste "
            "is everything computed or waited for beyond the samples' own tokens, counting each prompt once.\n",
            "| replicas | prompts held twice | waiting replicas | packed, both | padded, sorted by length | padded |",
            "| --: | --: | --: | --: | --: | --: |",
            *rows,
            "",
        ]
    )
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "packing_benchmark.md").write_text(text)


def groups_of_lengths(generator: np.random.Generator) -> list[list[Sample]]:
    """A mini-batch of random lengths."""
    groups = []
    for number in range(PROMPTS):
        prompt = np.zeros(int(generator.integers(40, 300)), dtype=np.int64)
        middle = generator.normal(np.log(1200), 0.5)
        lengths = np.clip(generator.lognormal(middle, 0.5, RESPONSES), 20, LIMIT).astype(int)
        groups.append([_sample(number, prompt, length) for length in lengths.tolist()])
    return groups


def _sample(number: int, prompt: np.ndarray, length: int) -> Sample:
    return Sample(
        problem_id=str(number),
        group=number,
        prompt_ids=prompt,
        response_ids=np.zeros(length, dtype=np.int64),
        response_mask=np.ones(length, dtype=np.bool_),
        rollout_log_probs=np.zeros(length, dtype=np.float32),
        weight_version=0,
        finish_reason="stop",
    )


def wastes(groups: list[list[Sample]], replicas: int) -> list[float]:
    """The columns of the table."""
    sizes = [packed_length(group) for group in groups]
    useful = sum(sizes)
    places = balance(sizes, replicas)
    computed = []
    for replica in range(replicas):
        own = [group for group, place in zip(groups, places, strict=True) if place == replica]
        micro_batches = split_by_budget(own, BUDGET)
        computed.append(sum(packed_length(piece) for micro_batch in micro_batches for piece in micro_batch))
    samples = [sample for group in groups for sample in group]
    by_length = sorted(samples, key=lambda sample: sample.num_tokens)
    return [
        sum(computed) / useful - 1,
        max(computed) * replicas / sum(computed) - 1,
        max(computed) * replicas / useful - 1,
        _padded(by_length) / useful - 1,
        _padded(samples) / useful - 1,
    ]


def _padded(samples: list[Sample]) -> int:
    """Tokens of micro-batches of as many samples as fit the budget at the limit's length, at least two."""
    size = max(BUDGET // LIMIT, 2)
    parts = [samples[start : start + size] for start in range(0, len(samples), size)]
    return sum(
        len(part) * (max(len(sample.prompt_ids) for sample in part) + max(len(sample.response_ids) for sample in part))
        for part in parts
    )


if __name__ == "__main__":
    typer.run(main)
