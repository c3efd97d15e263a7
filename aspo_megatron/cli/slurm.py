"""`aspo slurm`: a run as a Slurm job."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.files import write_whole
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import hand_over, show


def slurm(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="slurm.nodes: nodes for the ranks.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="slurm.gpus_per_node; 0: on CPUs.")] = None,
    time: Annotated[str | None, typer.Option(help="slurm.time, e.g. 12:00:00")] = None,
    chain: Annotated[int, typer.Option(min=1, help="This many jobs, each resuming the one before.")] = 1,
    array: Annotated[
        Path | None, typer.Option(help="A sweep: each line of this file has KEY=VALUE words, output_dir among them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the script to this file.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Submit it.")] = False,
    state: Annotated[
        bool, typer.Option("--state", help="Only print how far the run is, as the script asks: finished, or stopped.")
    ] = False,
) -> None:
    """Make a Slurm batch script for a run: print it, write it to a file, or submit it.

    The job saves before its time limit or when it is pre-empted, requeues itself and resumes. See docs/slurm.md.

    \b
      aspo slurm run.yaml --nodes 4 --time 12:00:00 --submit
      aspo slurm run.yaml slurm.partition=h100 --chain 5 --submit
      aspo slurm run.yaml --array sweep.txt --out sweep.sbatch
    """
    from aspo_megatron.config.io import load_config
    from aspo_megatron.slurm import job as jobs

    if state:
        show(one_line(jobs.state(load_config(config, overrides or []))))
        return
    given = {"nodes": nodes, "gpus_per_node": gpus_per_node, "time": None if time is None else f'"{time}"'}
    options = [f"slurm.{key}={value}" for key, value in given.items() if value is not None]
    job = jobs.make_job(config, overrides or [], options, array, chain)
    script = jobs.render(job, jobs.read_template())
    if out is not None:
        write_whole(out, script)
    if submit:
        ids = jobs.submit(job, script)
        log = job.run.slurm.log_dir / f"{job.name}-{'<job>' if job.sweep else ids[0]}.log"
        show(one_line(f"submitted: job {', then '.join(ids)}; log: {log}"))
    elif out is None:
        hand_over(script)
    else:
        log_dir, script_file = job.run.slurm.log_dir, shlex.quote(str(out))
        show(one_line(f"{out}: written; the folder {log_dir} must exist before you submit it: sbatch {script_file}"))
