"""Programs that stand in for Slurm's and for `aspo`, so that a batch script runs in a second.

They keep their notes in the folder STANDINS: `calls` has a line for each call, `steps` the tasks of the
step `ranks` while it is there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_SRUN = """
import json, os, subprocess, sys, time
from pathlib import Path
notes, words, options = Path(os.environ["STANDINS"]), sys.argv[1:], {}
while words and words[0].startswith("--"):
    name, _, value = words.pop(0)[2:].partition("=")
    options[name] = value
env = dict(os.environ)
exported = env.get("SRUN_EXPORT_ENV", env.get("SLURM_EXPORT_ENV", "ALL")).split(",")
if "ALL" not in exported:
    kept = {"STANDINS", *exported}
    env = {k: v for k, v in env.items() if k in kept or k.startswith("SLURM")} | {"PATH": "/usr/bin:/bin"}
with (notes / "calls").open("a") as calls:
    calls.write(json.dumps(["srun", options, words]) + "\\n")
if options.get("job-name") == "ranks":
    time.sleep(float(os.environ.get("SLOW_STEP", "0")))
tasks = []
for task in range(int(options.get("ntasks", 1))):
    own = env | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)}
    output = options.get("output", "").replace("%%", "\\0").replace("%t", str(task)).replace("\\0", "%")
    file = open(output, "ab") if output else None
    try:
        tasks.append(subprocess.Popen(words, env=own, stdout=file, stderr=file))
    except OSError as error:
        print(f"execve(): {words[0]}: {error}", file=file and open(output, "a") or sys.stderr)
        sys.exit(2)
if options.get("job-name") == "ranks":
    (notes / "steps.new").write_text("\\n".join(str(task.pid) for task in tasks))
    (notes / "steps.new").rename(notes / "steps")
codes = [task.wait() for task in tasks]
if options.get("job-name") == "ranks":
    (notes / "steps").unlink()
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
_SQUEUE = """
import os, sys
from pathlib import Path
notes = Path(os.environ["STANDINS"])
if "--steps" in sys.argv:
    print("7.batch batch")
    if (notes / "steps").exists():
        print("7.3 ranks")
else:
    print(os.environ.get("QUEUE", ""))
"""
_SCANCEL = """
import json, os, signal, sys
from pathlib import Path
notes = Path(os.environ["STANDINS"])
with (notes / "calls").open("a") as calls:
    calls.write(json.dumps(["scancel", {}, sys.argv[1:]]) + "\\n")
if "7.3" in sys.argv and (notes / "steps").exists():
    refused = notes / "refused"
    if not refused.exists():  # as of a step whose tasks have not begun
        refused.touch()
        sys.exit(225)
    for task in (notes / "steps").read_text().split():
        os.kill(int(task), signal.SIGTERM)
"""
_SCONTROL = """
import json, os, sys
from pathlib import Path
with (Path(os.environ["STANDINS"]) / "calls").open("a") as calls:
    calls.write(json.dumps(["scontrol", {}, sys.argv[1:]]) + "\\n")
if sys.argv[1:3] == ["show", "hostnames"]:
    print("node1")
elif sys.argv[1:3] == ["show", "job"]:
    print("PreemptTime=" + os.environ.get("PREEMPTED", "None"))
"""
_ASPO = """#!/bin/bash
# The state of the run is in the file `latest`. SAVES: what a signal has it saved as.
if [[ " $* " == *" --state"* ]]; then
  touch "$STANDINS/asked"; sleep "${SLOW_STATE:-0}"
  cat "$STANDINS/latest" 2>/dev/null || echo stopped
  exit
fi
env >"$STANDINS/env-$1-${SLURM_PROCID:-x}"
printf '%s\\n' "$PWD" "$@" >"$STANDINS/words-$1"
[ "$1" = train ] || exit 0
[ -n "${WAITS:-}" ] || { echo finished >"$STANDINS/latest"; exit 0; }
trap '[ -z "${SAVES:-}" ] || echo "stopped $SAVES" >"$STANDINS/latest"; exit 0' TERM
for _ in $(seq 300); do sleep 0.1; done
exit 9
"""


@dataclass(frozen=True)
class Ended:
    """A batch script that has ended: what it said, and what it and its tasks have called."""

    code: int
    log: str
    notes: Path

    def calls(self, program: str) -> list[tuple[dict[str, str], list[str]]]:
        """Options with `=` (of srun) and the other words of each call."""
        lines = [json.loads(line) for line in (self.notes / "calls").read_text().splitlines()]
        return [(options, words) for name, options, words in lines if name == program]

    @property
    def requeued(self) -> bool:
        """Whether the job has asked for another start."""
        return any(words[0] == "requeue" for _, words in self.calls("scontrol"))

    def environment(self, command: str = "train", task: int | str = 0) -> dict[str, str]:
        """What a task of `aspo COMMAND` was given."""
        lines = (self.notes / f"env-{command}-{task}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def words(self, command: str = "train") -> list[str]:
        """Current folder and words of `aspo COMMAND`."""
        return (self.notes / f"words-{command}").read_text().splitlines()


@dataclass(frozen=True)
class Standins:
    """A folder with the programs."""

    folder: Path
    bin: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bin", self.folder / "bin")
        self.bin.mkdir(parents=True)
        programs = {"srun": _SRUN, "squeue": _SQUEUE, "scancel": _SCANCEL, "scontrol": _SCONTROL}
        for name, text in programs.items():
            self.program(self.bin / name, f"#!{sys.executable} -S\n{text}")

    def program(self, path: Path, text: str) -> None:
        """Write an executable file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def aspo(self, folder: Path) -> Path:
        """Put the stand-in of `aspo` into `folder`/bin."""
        self.program(folder / "bin" / "aspo", _ASPO)
        return folder

    def run(
        self, script: str, cwd: Path, *words: str, signal_when: Callable[[Path], bool] | None = None, **variables: str
    ) -> Ended:
        """Run a script as the first node of a job would, with its number of tasks and `variables` in its environment.

        It gets USR1 as soon as `signal_when` holds, which is given the folder of notes.
        """
        lines = [line for line in script.splitlines() if line.startswith("#SBATCH --ntasks-per-node=")]
        tasks = lines[0].partition("=")[2].split()[0] if lines else "1"
        given = {"STANDINS": str(self.folder), "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.folder)}
        given |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "aspo-run", "SLURM_JOB_NUM_NODES": "1"}
        given |= {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_JOB_NODELIST": "node1", "SLURM_CPUS_PER_TASK": "2"}
        for name in ("calls", "asked", "refused", "env-train-0"):
            (self.folder / name).unlink(missing_ok=True)
        process = subprocess.Popen(
            ["bash", "-c", script, "job", *words],
            cwd=cwd,
            env=given | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if signal_when is not None:
            while not signal_when(self.folder):
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGUSR1)
        log, _ = process.communicate(timeout=60)
        return Ended(process.returncode, log, self.folder)
