"""Jobs with real SGLang servers on other nodes: of the same job, of its second component, or of another job."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from e2e.command import SETTINGS, RunFolder

from aspo_megatron.slurm.job import TEMPLATE

from .cluster import Cluster

SGLANG_PYTHON = Path(__file__).parents[2] / ".venv-sglang" / "bin" / "python"
STEPS = 3

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.sglang,
    pytest.mark.thorough,
    pytest.mark.distributed,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not SGLANG_PYTHON.exists(), reason="SGLang is not installed: make sglang-cpu"),
]

JOB = """
parallel: {dp: 2}
checkpoint: {every: 1000}
slurm: {nodes: 2, gpus_per_node: 0, cpus_per_task: 4, time: "0:30:00"}
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    text = SETTINGS.replace("rollout:", f"rollout:\n  servers: {{python: {SGLANG_PYTHON}, max_cached_tokens: 4096}}")
    text = text.replace("kl_coef: 0.01}", "kl_coef: 0.01, entropy_coef: 0.001}")  # updates, also without any reward
    (tmp_path / "small.yaml").write_text(text + JOB)
    return tmp_path


def assert_trained(cluster: Cluster, work: Path, job: str, servers: str) -> None:
    """To the end, with responses of these nodes' servers, whose log-probs are the trainer's."""
    cluster.wait(f"end of job {job}", lambda: cluster.ended(job), 600)
    log = (work / "slurm-logs" / f"aspo-run-{job}.log").read_text()
    assert cluster.state(job)["ExitCode"] == "0:0", log
    assert log.splitlines()[-1].endswith(": finished"), log
    run = RunFolder(work / "run")
    assert run.summary()["steps"] == STEPS
    assert max(run.step(step)["engine_log_prob_diff/max"] for step in range(1, STEPS + 1)) < 1e-4
    addresses = (work / servers / "addresses").read_text().split()
    assert addresses
    assert all(address.startswith("http://node") for address in addresses)


@pytest.mark.parametrize("directives", [(), ("slurm.server_directives=[--cpus-per-task=8]",)])
def test_servers_in_the_same_job(cluster: Cluster, work: Path, directives: tuple[str, ...]) -> None:
    """On the last nodes of it, or as the second component of a heterogeneous job."""
    steps = f"train.steps={STEPS}"
    [job] = cluster.aspo_slurm("small.yaml", "output_dir=run", steps, "slurm.server_nodes=1", *directives, folder=work)
    assert_trained(cluster, work, job, f"slurm-logs/aspo-run-{job}/servers")


def test_servers_of_another_job(cluster: Cluster, work: Path) -> None:
    (work / ".venv").symlink_to(Path(sys.prefix))
    options = ["--gpus-per-node=0", "--cpus-per-task=8", "--nodes=1"]
    script = str(TEMPLATE.with_name("serve.sbatch"))
    serving = cluster.run("sbatch", "--parsable", *options, script, "small.yaml", folder=work).strip()
    folder = f"aspo-serve-{serving}"
    [job] = cluster.aspo_slurm(
        "small.yaml", "output_dir=run", f"train.steps={STEPS}", f"slurm.servers_of={folder}", folder=work
    )
    assert_trained(cluster, work, job, folder)
    cluster.run("scancel", serving, folder=work)
    cluster.wait("end of the servers", lambda: cluster.ended(serving))
