"""Runs as jobs of a real Slurm, from sbatch to their ends. The ranks' start takes most of the time, so jobs overlap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from e2e.command import SETTINGS, RunFolder

from .cluster import COMMAND, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.distributed, pytest.mark.timeout(600)]

STEPS = 40
JOB = """
parallel: {tp: 2, dp: 2}
warmup: {updates: 40, batch_size: 48, lr: 3e-3}
checkpoint: {every: 1000}
slurm: {nodes: 2, gpus_per_node: 0, cpus_per_task: 4, time: "0:30:00"}
"""
CHAIN_STEPS = 60


@dataclass(frozen=True)
class Jobs:
    """All that was submitted, ended: a run; those that were pre-empted and lost a node meanwhile; and a chain."""

    work: Path
    undisturbed: str
    preempted: str
    lost: str
    chain: list[str]

    def log(self, name: str, job: str) -> str:
        """The log for people."""
        return (self.work / "slurm-logs" / f"aspo-{name}-{job}.log").read_text()


def steps_done(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) - 1 if path.exists() else -1


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    work = tmp_path_factory.mktemp("jobs")
    (work / "small.yaml").write_text(SETTINGS.replace("every: 2,", "every: 20,") + JOB)

    def submit(name: str, *more: str) -> list[str]:
        return cluster.aspo_slurm("small.yaml", f"output_dir={name}", *more, folder=work)

    steps = f"train.steps={STEPS}"
    nodes = 'slurm.directives=["--nodelist=node[1-2]"]'
    [preempted] = submit("preempted", steps, nodes, "slurm.partition=spare", "slurm.cpus_per_task=40")
    [undisturbed] = submit("undisturbed", steps, nodes)
    cluster.wait("first steps", lambda: steps_done(work / "preempted") >= 3)
    wants_its_cpus = ["--nodes=2", "--nodelist=node[1-2]", "--ntasks-per-node=20", "--output=urgent.log"]
    cluster.run("sbatch", *wants_its_cpus, "--wrap", "true", folder=work)
    elsewhere = 'slurm.directives=["--exclude=node[1-2]"]'
    [lost] = submit("lost", steps, elsewhere, "checkpoint.every=5", "checkpoint.async_save=false")
    cluster.wait("saved steps of the run that loses a node", lambda: steps_done(work / "lost") >= 7)
    cluster.lose("node4", work)
    chain = submit("chain", nodes, "parallel={tp: 1, dp: 2}", f"train.steps={CHAIN_STEPS}", "--chain", "3")
    cluster.wait("first steps of the chain", lambda: steps_done(work / "chain") >= 3)
    # What `--signal=B:USR1@300` makes Slurm do before the time limit, which it keeps to the minute only.
    cluster.run("scancel", "--batch", "--signal=USR1", chain[0], folder=work)
    for job in (undisturbed, preempted, lost, *chain):
        cluster.wait(f"end of job {job}", partial(cluster.ended, job))
    return Jobs(work, undisturbed, preempted, lost, chain)


def test_two_nodes_train_to_the_end(jobs: Jobs, cluster: Cluster) -> None:
    log = jobs.log("undisturbed", jobs.undisturbed)
    assert cluster.state(jobs.undisturbed)["ExitCode"] == "0:0", log
    assert "4 ranks on 2 nodes meet at node1:" in log
    assert "trained model:     undisturbed/hf" in log
    assert log.splitlines()[-1].endswith(": finished")
    assert RunFolder(jobs.work / "undisturbed").summary()["steps"] == STEPS
    ranks = jobs.work / "slurm-logs" / f"aspo-undisturbed-{jobs.undisturbed}"
    assert sorted(path.name for path in ranks.iterdir()) == [f"rank-{rank}.log" for rank in range(4)]


def test_pre_empted_run_goes_on_as_if_nothing_had_happened(jobs: Jobs, cluster: Cluster) -> None:
    log = jobs.log("preempted", jobs.preempted)
    assert cluster.state(jobs.preempted)["Restarts"] == "1", log
    assert "stopped; requeued" in log
    assert "resuming after step" in log
    assert log.splitlines()[-1].endswith(": finished")
    one, other = RunFolder(jobs.work / "undisturbed"), RunFolder(jobs.work / "preempted")
    assert any(one.step(step)["reward/mean"] > 0 for step in range(1, STEPS + 1))
    for step in range(STEPS + 1):
        assert other.step(step) == one.step(step), step


def test_run_that_loses_a_node_goes_on_on_others(jobs: Jobs, cluster: Cluster) -> None:
    """The node's power is cut: nothing is saved, and Slurm requeues the job."""
    log = jobs.log("lost", jobs.lost)
    assert cluster.state(jobs.lost)["Restarts"] == "1", log
    assert log.count("ranks on 2 nodes meet at node3:") == 2
    assert "resuming after step" in log
    assert log.splitlines()[-1].endswith(": finished")
    one, other = RunFolder(jobs.work / "undisturbed"), RunFolder(jobs.work / "lost")
    for step in range(STEPS + 1):
        assert other.step(step) == one.step(step), step


def test_jobs_at_once_on_the_same_nodes_have_ports_of_their_own(jobs: Jobs) -> None:
    logs = [jobs.log("undisturbed", jobs.undisturbed), jobs.log("preempted", jobs.preempted)]
    ports = {line.partition("meet at node1:")[2].split(";")[0] for log in logs for line in log.splitlines()[:1]}
    assert len(ports) == 2


def test_chain_finishes_one_run(jobs: Jobs, cluster: Cluster) -> None:
    first, second, third = (jobs.log("chain", job) for job in jobs.chain)
    assert "the time limit is near: saving" in first
    assert first.splitlines()[-1].endswith("stopped; the next job of the chain goes on")
    assert "resuming after step" in second
    assert second.splitlines()[-1].endswith(": finished")
    assert f"has done its {CHAIN_STEPS} steps" in third
    assert [line["step"] for line in RunFolder(jobs.work / "chain").metrics()] == list(range(CHAIN_STEPS + 1))
    assert {cluster.state(job)["ExitCode"] for job in jobs.chain} == {"0:0"}


def test_time_limit_of_a_job_that_waits_for_its_servers(jobs: Jobs, cluster: Cluster) -> None:
    [job] = cluster.aspo_slurm("small.yaml", "output_dir=waits", "slurm.servers_of=nobody-7", folder=jobs.work)
    log = jobs.work / "slurm-logs" / f"aspo-waits-{job}.log"
    cluster.wait("the job's start", lambda: log.exists() and "waiting for the servers" in log.read_text())
    cluster.run("scancel", "--batch", "--signal=USR1", job, folder=jobs.work)
    cluster.wait("the requeued job", lambda: cluster.state(job)["Restarts"] == "1")
    cluster.run("scancel", job, folder=jobs.work)
    assert "stopped; requeued, to resume" in log.read_text()


def test_array_has_a_run_for_each_line(jobs: Jobs, cluster: Cluster) -> None:
    lines = [f"seed={seed} output_dir=seed-{seed}" for seed in (3, 4)]
    (jobs.work / "sweep.txt").write_text("\n".join(lines))
    short = ["parallel={dp: 1}", "slurm.nodes=1", "train.steps=1", "warmup.updates=1", "--array", "sweep.txt"]
    updated = "loss.entropy_coef=0.001"  # also without any reward
    [job] = cluster.aspo_slurm("small.yaml", *short, updated, folder=jobs.work)
    cluster.wait("end of the array", lambda: all(cluster.ended(f"{job}_{task}") for task in (0, 1)))
    for task, seed in ((0, 3), (1, 4)):
        assert cluster.state(f"{job}_{task}")["ExitCode"] == "0:0"
        assert RunFolder(jobs.work / f"seed-{seed}").summary()["steps"] == 1
    first, second = (RunFolder(jobs.work / f"seed-{seed}").metrics()[-1]["entropy"] for seed in (3, 4))
    assert first != second


def test_bad_configuration_fails_with_its_reason(jobs: Jobs, cluster: Cluster) -> None:
    # Not by `aspo slurm`, which would refuse it.
    script = cluster.run(*COMMAND, "small.yaml", "output_dir=bad", folder=jobs.work)
    script = script.replace("output_dir=bad", "output_dir=bad optimizer.lrr=1")
    (jobs.work / "bad.sbatch").write_text(script)
    job = cluster.run("sbatch", "--parsable", "bad.sbatch", folder=jobs.work).strip()
    cluster.wait("failure", lambda: cluster.ended(job), 60)
    log = jobs.log("bad", job)
    assert cluster.state(job)["JobState"] == "FAILED"
    assert "optimizer.lrr: unknown key; did you mean optimizer.lr?" in log
    assert "failed with exit code" in log
    assert not (jobs.work / "bad").exists()
