"""One fault at one call of a whole run, the next time at another: `python -m benchmarks.soak --calls`."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak.injection import ERRORS, KILL_PARENT, KILLS, Call, read_log
from benchmarks.soak.play import Soak, StuckError
from benchmarks.soak.recipe import differences, unexplained, write_recipe

STEPS = 6
_TIMES = (1, 3, 30)


@dataclass(frozen=True)
class CallFault:
    """At the call `number` of the process `rank` (or `launcher`), `times` calls meet `kind`."""

    rank: str
    number: int
    kind: str
    times: int

    def __str__(self) -> str:
        return f"{self.rank}:{self.number}:{self.kind}:{self.times}"


def sweep_calls(work: Path, count: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """Count the calls of an undisturbed run; then run it with a fault at `count` of them; what did not hold.

    Args:
        work: the folder for the runs.
        count: number of runs with a fault; 0: every call, each with a kind that is drawn.
        seed: of the calls and kinds.
        say: gets a line for each.
    """
    recipe, log = work / "recipe.yaml", work / "calls.log"
    write_recipe(recipe, STEPS)
    for name in ("whole", "disturbed"):
        shutil.rmtree(work / name, ignore_errors=True)
    log.unlink(missing_ok=True)
    whole = Soak(work / "whole", recipe, say, log_calls=log)
    whole.play([], random.Random(seed))
    calls = read_log(log)
    unseen = _unseen(work / "whole", calls)
    wrong = [*whole.wrong, *(f"{path} is written past the library of faults" for path in unseen)]
    faults = draw_calls(calls, count, seed)
    say(f"{len(calls)} calls of an undisturbed run; {len(faults)} runs with a fault at one")
    for fault in faults:
        wrong += _one(work, recipe, fault, calls, say)
    return wrong


def draw_calls(calls: Sequence[Call], count: int, seed: int) -> list[CallFault]:
    """Which calls meet what."""
    chance = random.Random(seed)
    places = sorted({(call.rank, call.number) for call in calls})
    chosen = chance.sample(places, min(count, len(places))) if count else places
    kinds = [*ERRORS, *KILLS, KILL_PARENT]
    return [
        CallFault(rank, number, _of(rank, kinds[(seed + index) % len(kinds)]), chance.choice(_TIMES))
        for index, (rank, number) in enumerate(chosen)
    ]


def _of(rank: str, kind: str) -> str:
    """What has started the launcher is no part of the run, and lives."""
    return KILLS[0] if (rank, kind) == ("launcher", KILL_PARENT) else kind


def _one(work: Path, recipe: Path, fault: CallFault, calls: Sequence[Call], say: Callable[[str], None]) -> list[str]:
    shutil.rmtree(work / "disturbed", ignore_errors=True)
    called = [call for call in calls if (call.rank, call.number) == (fault.rank, fault.number)]
    where = f"{called[0].name} {called[0].path.relative_to(work / 'whole')}"
    say(f"{fault} ({where})")
    run = Soak(work / "disturbed", recipe, say, armed=str(fault))
    try:
        run.play([], random.Random(0))
    except StuckError as error:
        run.wrong.append(str(error))
    wrong = [*run.wrong, *unexplained(differences(run.run, work / "whole"), run.said)]
    return [f"{fault} ({where}): {line}" for line in wrong]


def _unseen(run: Path, calls: Sequence[Call]) -> list[str]:
    """Files of the run that no counted call has written or renamed, nor one in their folder while it was `.partial`."""
    seen = {str(call.path).replace(".partial", "") for call in calls}
    beside = {str(Path(path).parent) for path in seen if Path(path).name.startswith(".tmp")}
    files = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
    return [
        str(path.relative_to(run))
        for path in files
        if str(path) not in seen and not (path.suffix == ".safetensors" and str(path.parent) in beside)
    ]
