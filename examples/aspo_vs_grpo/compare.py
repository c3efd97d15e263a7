"""ASPO beside its rivals: seven losses with ten seeds each, and the page that says what they show.

    python examples/aspo_vs_grpo/compare.py [FOLDER] [--losses NAME ...] [--seeds N] [--set KEY=VALUE ...]

For each seed the losses start from the same model and get the same prompts in the same order with the same random
numbers. What is there already is not run again, so that the same command goes on after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from letters import write_problems

from aspo_megatron.api import RunError, TrainResult, UserError, train

HERE = Path(__file__).resolve().parent
LOSSES = (
    "aspo",
    "aspo-without-dual-clip",
    "grpo",
    "grpo-without-is",
    "grpo-response-mean",
    "dapo",
    "cispo",
)
FIRST_SEED = 11
"""With seeds 1 to 4 the task and the learning rate were chosen."""


def main() -> None:
    """Make the problems and the starts, train, and write FOLDER/page.md."""
    given = _arguments()
    folder: Path = given.folder
    if not (folder / "problems" / "heldout.jsonl").exists():
        write_problems(folder / "problems")
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    runs = Runs(folder, given.set, given.jobs)
    runs.train([("start", seed) for seed in seeds])
    runs.train([(loss, seed) for seed in seeds for loss in given.losses])
    against = ["--against", "aspo"] if "aspo" in given.losses else []
    command = [sys.executable, "-m", "aspo_megatron.cli", "compare", str(folder / "runs"), *against]
    title = ["--title", "ASPO beside its rivals"]
    sys.exit(subprocess.run([*command, *title, "--out", str(given.out or folder / "page.md")], check=False).returncode)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/aspo_vs_grpo"), metavar="FOLDER")
    parser.add_argument("--losses", nargs="+", default=LOSSES, metavar="NAME", help="as `aspo losses` lists them")
    parser.add_argument("--seeds", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="the others follow (default: %(default)s)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all runs, but no start")
    parser.add_argument("--out", type=Path, metavar="PAGE.md", help="default: FOLDER/page.md")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: one a core)")
    return parser.parse_args()


def at_a_time(jobs: int, runs: Sequence[Callable[[], TrainResult]]) -> Iterator[tuple[int, TrainResult]]:
    """Train so many runs at a time; yields each one's place and result as it ends.

    The program ends at the first that fails.
    """
    pool = ThreadPoolExecutor(jobs)
    places = {pool.submit(run): place for place, run in enumerate(runs)}
    try:
        for future in as_completed(places):
            if (result := future.result()).summary is None:
                raise KeyboardInterrupt
            yield places[future], result
    except (UserError, RunError) as error:
        _give_up(f"error: {error}", 1)
    except KeyboardInterrupt:
        _give_up("stopped; the same command goes on", 130)


class Runs:
    """Trains several runs at a time, and says how far they are."""

    def __init__(self, folder: Path, settings: Sequence[str], jobs: int) -> None:
        """`settings`: of all runs, in place of run.yaml's."""
        self._folder, self._settings, self._jobs, self._began = folder, settings, jobs, time.monotonic()

    def train(self, runs: Sequence[tuple[str, int]]) -> None:
        """Train each pair of a loss (or "start") and a seed; the program ends at the first that fails."""
        finished = at_a_time(self._jobs, [partial(self._one, name, seed) for name, seed in runs])
        for done, (place, result) in enumerate(finished, start=1):
            name, seed = runs[place]
            self._tell(done, len(runs), f"{name}, seed {seed}", result)

    def _one(self, name: str, seed: int) -> TrainResult:
        problems, start = self._folder / "problems", self._folder / "starts" / str(seed)
        shared = [f"seed={seed}", f"data.heldout.path={problems / 'heldout.jsonl'}"]
        if name == "start":
            own = [f"output_dir={start}", f"data.train.path={problems / 'start.jsonl'}", f"model.path={HERE / 'model'}"]
            return train(HERE / "start.yaml", [*shared, *own], progress=False)
        own = [f"loss.name={name}", f"output_dir={self._folder / 'runs' / f'{name}-{seed}'}"]
        data = [f"data.train.path={problems / 'train.jsonl'}", f"model.path={start / 'hf'}"]
        return train(HERE / "run.yaml", [*shared, *own, *data, *self._settings], progress=False)

    def _tell(self, done: int, of: int, name: str, result: TrainResult) -> None:
        minutes = (time.monotonic() - self._began) / 60
        assert result.summary is not None
        before, after = result.summary.heldout_before, result.summary.heldout_after
        print(f"[{done}/{of}, {minutes:.0f} min] {name}: held-out accuracy {before:.1%} to {after:.1%}", flush=True)


def _give_up(why: str, code: int) -> None:
    """End at once: the runs of the other threads end with this process."""
    print(why, file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    main()
