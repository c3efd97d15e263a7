"""Runs made to collapse, and when their alarms tell it.

    python examples/aspo_vs_grpo/collapse.py [FOLDER] [--seeds N] [--first-seed N] [--jobs N]

Models that answer two-letter words are taught, then ruined in three ways: the learning rate rises without end; it does,
and nothing is clipped; the reward of training is turned round. All are evaluated after each step with the right reward.
Prints a table: in which step the first alarm of a collapse was raised, how far the held-out accuracy had fallen by
then, and in which step it had fallen by ten points. What is there already is not run again.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from compare import FIRST_SEED, HERE, at_a_time
from letters import write_short_problems

from aspo_megatron.api import TrainResult, read_metrics, train
from aspo_megatron.metrics.alarms import alarms_of

FALL = 0.10
RISING_RATE = ("optimizer.lr=4e-3", "optimizer.warmup_updates=480", "train.steps=60")
TURNED = (
    "reward={kind: mixture, workers: 1, components: {"
    "turned: {kind: 'letters:wrong', when: {split: train}}, right: {kind: 'letters:right', when: {split: heldout}}}}"
)
WAYS = {
    "rate too high": ("loss.name=grpo", *RISING_RATE),
    "rate too high, no clip": ("loss.name=grpo-without-is", *RISING_RATE),
    "reward turned": ("loss.name=aspo", "optimizer.lr=2e-4", "train.steps=30", TURNED),
}


def main() -> None:
    """Make the problems, train the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/collapse"), metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=4, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="the others follow (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: one a core)")
    given = parser.parse_args()
    folder: Path = given.folder
    if not (folder / "problems" / "heldout.jsonl").exists():
        write_short_problems(folder / "problems")
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    for done, _ in enumerate(at_a_time(given.jobs, [partial(_start, folder, seed) for seed in seeds]), start=1):
        print(f"[{done}/{len(seeds)}] starts", flush=True)
    runs = [(way, seed) for way in WAYS for seed in seeds]
    results: dict[int, TrainResult] = {}
    for place, result in at_a_time(given.jobs, [partial(_ruin, folder, way, seed) for way, seed in runs]):
        results[place] = result
        print(f"[{len(results)}/{len(runs)}] {runs[place][0]}, seed {runs[place][1]}", flush=True)
    print("\n| made to collapse by | seed | alarm | in step | fallen by then | by ten points in step |")
    print("| --- | --: | --- | --: | --: | --: |")
    for place, (way, seed) in enumerate(runs):
        print(f"| {way} | {seed} | {_told(results[place].output_dir)} |")


def _shared(folder: Path, seed: int) -> list[str]:
    return [f"seed={seed}", f"data.heldout.path={folder / 'problems' / 'heldout.jsonl'}"]


def _start(folder: Path, seed: int) -> TrainResult:
    own = [
        f"output_dir={folder / 'starts' / str(seed)}",
        f"model.path={HERE / 'model'}",
        f"data.train.path={folder / 'problems' / 'start.jsonl'}",
    ]
    return train(HERE / "start.yaml", [*_shared(folder, seed), *own], progress=False)


def _ruin(folder: Path, way: str, seed: int) -> TrainResult:
    """Four updates a step, in place of twelve, show more of the fall."""
    name = way.replace(",", "").replace(" ", "-")
    own = [
        f"output_dir={folder / 'runs' / f'{name}-{seed}'}",
        f"model.path={folder / 'starts' / str(seed) / 'hf'}",
        f"data.train.path={folder / 'problems' / 'train.jsonl'}",
        "train.epochs=1",
        "eval.every=1",
    ]
    return train(HERE / "run.yaml", [*_shared(folder, seed), *own, *WAYS[way]], progress=False)


def _told(run: Path) -> str:
    """The cells of a run's row."""
    records = read_metrics(run)
    best, lost = 0.0, dict[int, float]()
    for record in records:
        if (accuracy := record.get("eval/avg@4")) is not None:
            best = max(best, accuracy)
            lost[int(record["step"])] = best - accuracy
    fallen = next((str(step) for step, points in lost.items() if points >= FALL), "none")
    alarm = next((one for one in alarms_of(records) if one.collapse), None)
    if alarm is None:
        return f"none | - | - | {fallen}"
    return f"{alarm.name} | {alarm.step} | {100 * lost[alarm.step]:.1f} points | {fallen}"


if __name__ == "__main__":
    main()
