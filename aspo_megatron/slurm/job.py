"""Fills in slurm/train.sbatch for a run, and submits it."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aspo_megatron.config import RunConfig, SlurmConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.folders import CHECKPOINTS, LATEST, packaged
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch.run_folder import is_finished, refuse_foreign_folder
from aspo_megatron.models.hub_name import fetch_first, missing
from aspo_megatron.reading import read_text
from aspo_megatron.slurm.batch_script import (
    array,
    option,
    options,
    own_lines,
    quoted_option,
    value,
    with_component,
    with_options,
    with_settings,
    word,
    words,
)
from aspo_megatron.slurm.layout import cores_per_task, gpus_beside, says_gpus, shape
from aspo_megatron.slurm.time_limit import refuse_short_limit, time_option
from aspo_megatron.streams import say

TEMPLATE = packaged("recipes/slurm/train.sbatch")


@dataclass(frozen=True)
class SlurmJob:
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


def make_job(
    config: Path, overrides: Sequence[str], options: Sequence[str], sweep: Path | None, chain: int
) -> SlurmJob:
    """Check a run, and each run of a sweep, as far as that can be done before it has its nodes.

    Args:
        config: YAML file of the run.
        overrides: `key=value` words that the ranks get too.
        options: further `slurm.key=value` words; those of `overrides` go before them.
        sweep: File with `key=value` words on each line.
        chain: Jobs that follow one another.

    Raises:
        ConfigError: names the key, or the line of the sweep's file.
    """
    lines = () if sweep is None else _sweep_lines(sweep)
    runs = [load_config(config, [*options, *overrides, *line]) for line in lines or [()]]
    _check_models(runs, config, [*overrides, *itertools.chain(*lines)])
    folders = [run.output_dir.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"{sweep}: each line needs its own output_dir=...")
    for run in runs:
        _check(run)
        refuse_foreign_folder(run)
        if _size(run) != _size(runs[0]):
            raise ConfigError(f"{sweep}: all lines must need the same number of ranks, and of GPUs for servers")
        if run.slurm != runs[0].slurm:
            raise ConfigError(
                f"{sweep}: all lines are one job: set slurm.* in CONFIG or on the command line, not in a line"
            )
    _refuse_dependency(runs[0].slurm, chain)
    name = re.sub(r"[^\w.-]+", "-", f"aspo-{(sweep or runs[0].output_dir).stem}")
    return SlurmJob(runs[0], (str(config), *options, *overrides), name, lines, chain)


def render(job: SlurmJob, template: str) -> str:
    """The batch script of a job: `template` with its directives and settings replaced.

    Raises:
        ConfigError: names a key whose value has no place in a script.
        UserError: the template lacks a setting.
    """
    slurm = job.run.slurm
    script = with_options(template, _directives(job), options("slurm.directives", slurm.directives))
    if slurm.server_directives:
        script = with_component(script, _component(slurm))
    return with_settings(script, _settings(job), own_lines("slurm.setup", slurm.setup), str(TEMPLATE))


def _directives(job: SlurmJob) -> dict[str, str | None]:
    """By name; None: the directive has no place in the script."""
    slurm = job.run.slurm
    nodes, ranks = shape(job.run)
    split = bool(slurm.server_nodes) and not slurm.server_directives
    gpus = None if says_gpus(slurm.directives) else slurm.gpus_per_node or None
    values = {
        "job-name": ("output_dir", job.name),
        "nodes": ("slurm.nodes", nodes + (slurm.server_nodes if split else 0)),
        "ntasks-per-node": ("parallel", ranks),
        "gpus-per-node": ("slurm.gpus_per_node", gpus),
        "cpus-per-task": ("slurm.cpus_per_task", cores_per_task(job.run)),
        "time": ("slurm.time", time_option(slurm.time)),
        "signal": ("slurm.save_seconds", f"B:USR1@{slurm.save_seconds}"),
        "partition": ("slurm.partition", slurm.partition),
        "account": ("slurm.account", slurm.account),
        "qos": ("slurm.qos", slurm.qos),
        "constraint": ("slurm.constraint", slurm.constraint),
        "array": ("--array", f"0-{len(job.sweep) - 1}" if job.sweep else None),
        "dependency": ("--chain", "singleton" if job.chain > 1 else None),
    }
    known = {name: None if value is None else option(key, name, value) for name, (key, value) in values.items()}
    log_dir = value("slurm.log_dir", str(slurm.log_dir)).replace("%", "%%")  # which Slurm would replace
    return known | {"output": quoted_option("slurm.log_dir", "output", f"{log_dir}/%x-%j.log")}


def _component(slurm: SlurmConfig) -> list[str]:
    """The directives of the server nodes, where they are a component of their own."""
    own = [f"--nodes={slurm.server_nodes}", "--ntasks-per-node=1"]
    if (limit := time_option(slurm.time)) is not None:
        own.append(option("slurm.time", "time", limit))
    if slurm.gpus_per_node and not says_gpus(slurm.server_directives):
        own.append(f"--gpus-per-node={slurm.gpus_per_node}")
    return [*own, *options("slurm.server_directives", slurm.server_directives)]


def _settings(job: SlurmJob) -> dict[str, str]:
    """What bash is told, by name."""
    slurm = job.run.slurm
    return {
        "RUN": array(word("CONFIG", job.words[0]), *map(_override, job.words[1:])),
        "SWEEP": array(*(words("--array", [" ".join(map(_override, line))]) for line in job.sweep)),
        "LOGS": word("slurm.log_dir", str(slurm.log_dir)),
        "VENV": _environment(slurm),
        "CONTAINER": _pyxis(slurm),
        "INSIDE": _apptainer(slurm),
        "BIND": array("--cpu-bind=none") if gpus_beside(job.run) else array(),
        "AT_LIMIT": "end" if job.chain > 1 else "requeue",
        "SERVER_NODES": str(slurm.server_nodes),
        "SERVERS": word("slurm.servers_of", str(slurm.servers_of)) if slurm.servers_of else "",
    }


def state(run: RunConfig) -> str:
    """What the script asks before and after: `finished`, or `stopped` with the state that the run would go on from."""
    if is_finished(run):
        return "finished"
    try:
        return f"stopped {read_text(run.output_dir / CHECKPOINTS / LATEST, UserError).strip()}"
    except UserError:  # none, or a folder that nobody can go on from
        return "stopped"


def submit(job: SlurmJob, script: str) -> list[str]:
    """Hand the script to sbatch, as often as the chain is long; the ids of the jobs.

    Raises:
        UserError: there is no sbatch, or it refuses; with its reason.
    """
    job.run.slurm.log_dir.mkdir(parents=True, exist_ok=True)  # Slurm does not make it, and would lose the log
    ids = []
    for _ in range(job.chain):
        try:
            done = subprocess.run(
                ["sbatch", "--parsable"],
                input=script,
                capture_output=True,
                encoding="utf-8",  # the script's own, whatever the locale is
                errors="backslashreplace",
                check=False,
            )
        except OSError as error:
            raise UserError("sbatch is not installed here: submit from a machine of the cluster") from error
        if done.returncode:
            raise UserError(f"sbatch refused the job: {one_line(' '.join(done.stderr.split()))}")
        ids.append(done.stdout.strip().partition(";")[0])
    return ids


def read_template() -> str:
    """The text of slurm/train.sbatch, which is in the package.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return TEMPLATE.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{TEMPLATE} cannot be read ({error.strerror}): reinstall aspo") from error


def _size(run: RunConfig) -> tuple[object, ...]:
    """What an array has in common, as it has one script."""
    return (*shape(run), run.slurm.gpus_per_node, gpus_beside(run), run.slurm.server_nodes)


def _refuse_dependency(slurm: SlurmConfig, chain: int) -> None:
    for line in slurm.directives:
        if chain > 1 and line.startswith("--dependency"):
            raise ConfigError(
                f"slurm.directives: {one_line(line)}: would make the jobs of --chain {chain} run at the same time, as "
                "each has --dependency=singleton; leave out one of the two"
            )


def _check(run: RunConfig) -> None:
    refuse_short_limit(run.slurm)
    if run.rollout.servers.addresses and (run.slurm.server_nodes or run.slurm.servers_of):
        raise ConfigError(
            "rollout.servers.addresses: leave it empty when slurm.server_nodes or slurm.servers_of is set"
        )
    shape(run)


def _check_models(runs: Sequence[RunConfig], config: Path, overrides: Sequence[str]) -> None:
    """See that the ranks can use the models, before they wait in a queue; those of them that are on this machine.

    Raises:
        UserError: see `usable_here`.
    """
    try:
        from aspo_megatron.checkpoint.usable import usable_here
        from aspo_megatron.models.tiny import model_shape
    except (ImportError, OSError):  # no torch: a machine that only submits
        return
    wanted = sorted({(model_shape(run, config, overrides), run.model.init) for run in runs})
    there = [(folder, init) for folder, init in wanted if (folder / "config.json").is_file()]
    for folder, init in there:
        usable_here(folder, init)
    for folder, _ in wanted:
        if fetch_first(folder):  # the nodes may have a folder that this machine has not
            say(f"warning: {missing(folder)}")


def _sweep_lines(path: Path) -> tuple[tuple[str, ...], ...]:
    try:
        # Not `splitlines`, which knows more ends of lines than an editor shows.
        lines = [shlex.split(line, comments=True) for line in read_text(path, ConfigError).split("\n")]
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"--array {one_line(path)}: cannot be read ({one_line(error)})") from error
    if not any(lines):
        raise ConfigError(f"--array {one_line(path)}: has no lines with settings")
    return tuple(tuple(line) for line in lines if line)


def _override(text: str) -> str:
    return words(text.partition("=")[0], [text])


def _environment(slurm: SlurmConfig) -> str:
    """The folder whose `aspo` the ranks run; empty if it is in PATH, or in a container."""
    if slurm.container or slurm.venv == Path("none"):
        return ""
    if slurm.venv is None and not (Path(sys.prefix) / "bin" / "aspo").exists():  # installed for the user alone
        return ""
    return word("slurm.venv", str(slurm.venv or sys.prefix))


def _pyxis(slurm: SlurmConfig) -> str:
    if not slurm.container or slurm.container_runtime != "pyxis":
        return array()
    image = words("slurm.container", [f"--container-image={value('slurm.container', slurm.container)}"])
    mounts = ",".join(value("slurm.mounts", mount) for mount in slurm.mounts)
    return array(
        image, words("slurm.mounts", [f"--container-mounts={mounts}"] * bool(mounts)), '--container-workdir="$PWD"'
    )


def _apptainer(slurm: SlurmConfig) -> str:
    if not slurm.container or slurm.container_runtime != "apptainer":
        return array()
    mounts = [f"--bind {word('slurm.mounts', mount)}" for mount in slurm.mounts]
    runs = ["apptainer exec", *["--nv"] * bool(slurm.gpus_per_node), *mounts, '--pwd "$PWD"']
    return array(*runs, word("slurm.container", slurm.container))
