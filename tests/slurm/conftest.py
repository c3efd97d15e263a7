"""A Slurm of two nodes on this machine, each with a network of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import Cluster

HERE = Path(__file__).parent
DAEMONS = ("munged", "slurmctld", "slurmd")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Started once; all of it is ended afterwards."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in (*DAEMONS, "sbatch", "ip", "nsenter") if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("only root can start a Slurm with nodes of their own")
    lab = tmp_path_factory.mktemp("lab")
    for folder in (lab, lab.parent, lab.parent.parent):  # munge wants its socket's folder to be readable for all
        folder.chmod(0o755)
    sizes = {"SLURM_LAB_CPUS": "96", "SLURM_LAB_MEM": "64000", "SLURM_LAB_GPUS": "8", "SLURM_LAB_NODES": "5"}
    env = {**os.environ, "SLURM_LAB": str(lab), "SLURM_LAB_NET": "netns", **sizes}
    try:
        # Into a file: the daemons keep a pipe open.
        with (lab / "start.log").open("w") as log:
            code = subprocess.run([HERE / "start_slurm.sh"], env=env, stdout=log, stderr=log, check=False).returncode
        if code:
            pytest.fail((lab / "start.log").read_text())
        yield Cluster({**os.environ, "SLURM_CONF": str(lab / "slurm.conf"), "OMP_NUM_THREADS": "1"})
    finally:
        subprocess.run([HERE / "stop_slurm.sh"], env=env, stdout=subprocess.DEVNULL, check=False)
