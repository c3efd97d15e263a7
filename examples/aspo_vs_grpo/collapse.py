"""Runs made to collapse, and when their alarms tell it.

    python examples/aspo_vs_grpo/collapse.py [FOLDER] [--seeds N]

They start from models that compare.py has trained in FOLDER with ASPO, and are ruined in three ways: the learning rate
rises without end; it does, and nothing is clipped; the reward of training is turned round. All are evaluated after
each step with the right reward. Prints a table: in which step the first alarm of a collapse was raised, and in which
the held-out accuracy had fallen by ten points.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compare import FIRST_SEED, HERE

from aspo_megatron.api import RunError, UserError, read_metrics, train
from aspo_megatron.metrics.alarms import alarms_of

FALL = 0.10
RISING_RATE = ("optimizer.lr=4e-3", "optimizer.warmup_updates=480", "train.steps=30")
TURNED = (
    "reward={kind: mixture, workers: 1, components: {"
    "turned: {kind: 'letters:wrong', when: {split: train}}, right: {kind: 'letters:right', when: {split: heldout}}}}"
)
WAYS = {
    "rate too high": ("loss.name=grpo", *RISING_RATE),
    "rate too high, no clip": ("loss.name=grpo-without-is", *RISING_RATE),
    "reward turned": ("loss.name=aspo", "optimizer.lr=5e-5", "train.steps=16", TURNED),
}


def main() -> None:
    """Train the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/aspo_vs_grpo"), metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=4, help="how many (default: %(default)s)")
    given = parser.parse_args()
    print("| made to collapse by | seed | alarm | step | accuracy then | fallen by ten points in step |")
    print("| --- | --: | --- | --: | --: | --: |")
    for seed in range(FIRST_SEED, FIRST_SEED + given.seeds):
        for way, settings in WAYS.items():
            try:
                print(f"| {way} | {seed} | {_collapse(given.folder, way, seed, settings)} |", flush=True)
            except (UserError, RunError) as error:
                sys.exit(f"error: {error}")


def _collapse(folder: Path, way: str, seed: int, settings: tuple[str, ...]) -> str:
    """Train a run; the cells of its row."""
    name = way.replace(",", "").replace(" ", "-")
    start, problems = folder / "runs" / f"aspo-{seed}" / "hf", folder / "problems"
    result = train(
        HERE / "run.yaml",
        [
            f"seed={seed}",
            f"output_dir={folder / 'collapse' / f'{name}-{seed}'}",
            f"model.path={start}",
            f"data.train.path={problems / 'train.jsonl'}",
            f"data.heldout.path={problems / 'heldout.jsonl'}",
            "eval.every=1",
            *settings,
        ],
        progress=False,
    )
    records = read_metrics(result.output_dir)
    accuracies = {int(one["step"]): one["eval/avg@4"] for one in records if "eval/avg@4" in one}
    alarm = next((one for one in alarms_of(records) if one.collapse), None)
    best, fallen = 0.0, "never"
    for step, accuracy in sorted(accuracies.items()):
        best = max(best, accuracy)
        if best - accuracy >= FALL:
            fallen = str(step)
            break
    told = ("none", "-", "-") if alarm is None else (alarm.name, str(alarm.step), f"{accuracies[alarm.step]:.1%}")
    return " | ".join((*told, fallen))


if __name__ == "__main__":
    main()
