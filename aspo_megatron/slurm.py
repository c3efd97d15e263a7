"""Fills in slurm/train.sbatch for a run, and submits it.

`python -m aspo_megatron.slurm CONFIG [KEY=VALUE]...`, for the script, prints `finished`, or `stopped`: steps are left.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aspo_megatron.config import RunConfig, SlurmConfig
from aspo_megatron.config_io import load_config
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.run_folder import is_finished, refuse_foreign_folder

TEMPLATE = Path(__file__).parents[1] / "slurm" / "train.sbatch"

_OWN_LINES = "# Your own lines go here: module load cuda\n"


@dataclass(frozen=True)
class Job:
    """What is to be submitted.

    Attributes:
        run: The resolved configuration; of a sweep, of its first task.
        words: Configuration file and overrides, as `aspo train` takes them.
        sweep: Further overrides of each task of an array; none: no array.
        chain: Jobs that follow one another.
        name: Name of the job; jobs of a chain find each other by it.
    """

    run: RunConfig
    words: tuple[str, ...]
    name: str
    sweep: tuple[tuple[str, ...], ...] = field(default=())
    chain: int = 1


def make_job(config: Path, overrides: Sequence[str], options: Sequence[str], sweep: Path | None, chain: int) -> Job:
    """Check a run, and each run of a sweep, as far as that can be done before it has its nodes.

    Args:
        config: YAML file of the run.
        overrides: `key=value` words that the ranks get too.
        options: `slurm.key=value` words for the job alone.
        sweep: File with `key=value` words on each line.
        chain: Jobs that follow one another.

    Raises:
        ConfigError: names the key, or the line of the sweep's file.
    """
    lines = () if sweep is None else _sweep_lines(sweep)
    runs = [load_config(config, [*overrides, *options, *line]) for line in lines or [()]]
    folders = [run.output_dir for run in runs]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"{sweep}: each line needs an output_dir=... of its own")
    for run in runs:
        _check(run)
        refuse_foreign_folder(run)
        if run.parallel.world_size != runs[0].parallel.world_size:
            raise ConfigError(f"{sweep}: all lines must need the same number of ranks")
    name = re.sub(r"[^\w.-]+", "-", f"aspo-{(sweep or runs[0].output_dir).stem}")
    return Job(runs[0], (str(config), *overrides), name, lines, chain)


def render(job: Job, template: str) -> str:
    """The batch script of a job: `template` with its directives and settings replaced.

    Raises:
        UserError: the template lacks a setting.
    """
    slurm = job.run.slurm
    nodes, ranks = shape(job.run)
    values = {
        "RUN": _array(job.words),
        "SWEEP": _array(shlex.join(line) for line in job.sweep),
        "LOGS": shlex.quote(str(slurm.log_dir)),
        "VENV": "" if slurm.container else shlex.quote(str(slurm.venv or sys.prefix)),
        "CONTAINER": _pyxis(slurm),
        "INSIDE": _apptainer(slurm),
        "AT_LIMIT": "end" if job.chain > 1 else "requeue",
        "SERVER_NODES": str(slurm.server_nodes),
        "SERVERS": shlex.quote(str(slurm.servers_of)) if slurm.servers_of else "",
    }
    split = bool(slurm.server_nodes) and not slurm.server_directives
    directives = {
        "job-name": job.name,
        "nodes": nodes + (slurm.server_nodes if split else 0),
        "ntasks-per-node": ranks,
        "gpus-per-node": slurm.gpus_per_node or None,
        "cpus-per-task": slurm.cpus_per_task,
        "time": slurm.time,
        "signal": f"B:USR1@{slurm.save_seconds}",
        "output": slurm.log_dir / "%x-%j.log",
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "array": f"0-{len(job.sweep) - 1}" if job.sweep else None,
        "dependency": "singleton" if job.chain > 1 else None,
    }
    text = _with_directives(template, directives, slurm.directives)
    if slurm.server_directives:
        text = _with_second_component(text, slurm)
    for name, value in values.items():
        found = re.findall(rf"^{name}=.*$", text, flags=re.M)
        if len(found) != 1:
            raise UserError(f"{TEMPLATE}: has {len(found)} lines {name}=..., and must have one")
        text = text.replace(f"\n{found[0]}\n", f"\n{name}={value}\n")
    return text.replace(_OWN_LINES, "".join(f"{line}\n" for line in slurm.setup))


def shape(run: RunConfig) -> tuple[int, int]:
    """Nodes, and ranks on each.

    Raises:
        ConfigError: the ranks of the layout do not fill the nodes evenly, or are more than the GPUs.
    """
    ranks, slurm = run.parallel.world_size, run.slurm
    nodes = slurm.nodes or (-(-ranks // slurm.gpus_per_node) if slurm.gpus_per_node else 1)
    if ranks % nodes:
        raise ConfigError(f"slurm.nodes={nodes}: tp x cp x dp x pp = {ranks} ranks do not divide evenly over them")
    if slurm.gpus_per_node and ranks // nodes != slurm.gpus_per_node:
        raise ConfigError(
            f"slurm: {nodes} nodes with {slurm.gpus_per_node} GPUs are {nodes * slurm.gpus_per_node} ranks, but "
            f"tp x cp x dp x pp = {ranks}; change slurm.nodes, slurm.gpus_per_node or parallel.dp"
        )
    return nodes, ranks // nodes


def submit(job: Job, script: str) -> list[str]:
    """Hand the script to sbatch, as often as the chain is long; the ids of the jobs.

    Raises:
        UserError: there is no sbatch, or it refuses; with its reason.
    """
    job.run.slurm.log_dir.mkdir(parents=True, exist_ok=True)  # Slurm does not make it, and would lose the log
    ids = []
    for _ in range(job.chain):
        try:
            done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UserError("there is no sbatch here: submit on a machine of the cluster") from error
        if done.returncode:
            raise UserError(f"sbatch refuses the job: {' '.join(done.stderr.split())}")
        ids.append(done.stdout.strip().partition(";")[0])
    return ids


def read_template() -> str:
    """The text of slurm/train.sbatch.

    Raises:
        UserError: it is not there, because the package was installed without its repository.
    """
    try:
        return TEMPLATE.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{TEMPLATE} cannot be read ({error.strerror}): install aspo from its repository") from error


def _check(run: RunConfig) -> None:
    shape(run)
    slurm, servers = run.slurm, run.rollout.servers
    elsewhere = bool(slurm.server_nodes or slurm.servers_of)
    if run.rollout.engine == "sglang" and not (servers.addresses or elsewhere) and shape(run)[0] > 1:
        raise ConfigError(
            "rollout.engine=sglang on several nodes: set slurm.server_nodes for servers in the same job, or start them "
            "by slurm/serve.sbatch and set slurm.servers_of"
        )
    if elsewhere and servers.addresses:
        raise ConfigError("rollout.servers.addresses: leave it empty with slurm.server_nodes or slurm.servers_of")


def _sweep_lines(path: Path) -> tuple[tuple[str, ...], ...]:
    try:
        lines = [shlex.split(line, comments=True) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--array {path}: cannot be read ({error})") from error
    if not any(lines):
        raise ConfigError(f"--array {path}: has no line of settings")
    return tuple(tuple(words) for words in lines if words)


def _with_directives(text: str, directives: Mapping[str, object], more: Sequence[str]) -> str:
    """Replaces the `#SBATCH` lines of the keys given (None takes a line out), and adds those that are not there."""
    lines = text.splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH "))
    left = dict(directives)
    kept: list[str] = []
    for number, line in enumerate(lines):
        found = re.match(r"#SBATCH --([\w-]+)", line)
        if found and found[1] in left:
            value = left.pop(found[1])
            kept += [] if value is None else [f"#SBATCH --{found[1]}={value}"]
        else:
            kept.append(line)
        if number == last:
            kept += [f"#SBATCH --{name}={value}" for name, value in left.items() if value is not None]
            kept += [f"#SBATCH {line}" for line in more]
    return "\n".join(kept) + "\n"


def _with_second_component(text: str, slurm: SlurmConfig) -> str:
    """A heterogeneous job: the directives of the server nodes follow those of the ranks, of which they inherit none."""
    lines = text.splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH "))
    own = ["hetjob", f"--nodes={slurm.server_nodes}", "--ntasks-per-node=1", f"--time={slurm.time}"]
    says_gpus = any(re.match(r"--(gpus|gres\b|tres-per-)|-G", line) for line in slurm.server_directives)
    if slurm.gpus_per_node and not says_gpus:
        own.append(f"--gpus-per-node={slurm.gpus_per_node}")
    lines[last + 1 : last + 1] = [f"#SBATCH {line}" for line in (*own, *slurm.server_directives)]
    return "\n".join(lines) + "\n"


def _array(words: Iterable[str]) -> str:
    return f"({shlex.join(words)})"


def _pyxis(slurm: SlurmConfig) -> str:
    if not slurm.container or slurm.container_runtime != "pyxis":
        return "()"
    options = [f"--container-image={slurm.container}"]
    if slurm.mounts:
        options.append(f"--container-mounts={','.join(slurm.mounts)}")
    return f'({shlex.join(options)} --container-workdir="$PWD")'


def _apptainer(slurm: SlurmConfig) -> str:
    if not slurm.container or slurm.container_runtime != "apptainer":
        return "()"
    words = ["apptainer", "exec", *["--nv"] * bool(slurm.gpus_per_node)]
    for mount in slurm.mounts:
        words += ["--bind", mount]
    return f'({shlex.join(words)} --pwd "$PWD" {shlex.quote(slurm.container)})'


if __name__ == "__main__":
    print("finished" if is_finished(load_config(Path(sys.argv[1]), sys.argv[2:])) else "stopped")
