"""Machines of a cluster with Slurm: where jobs are submitted, and inside of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aspo_megatron.doctor.host import Answer
from aspo_megatron.doctor.report import text
from aspo_megatron.doctor.requirements import placed
from aspo_megatron.models.family import read_family
from doctor.machines import (
    Imitated,
    eight_gpus,
    gpu_row,
    lines_of,
    marked,
    nvidia_smi,
    requirements_of,
    torch_sees,
    without_gpus,
)

ROOT = Path(__file__).parents[2]
PROGRAMS = ("sbatch", "srun", "scontrol", "squeue", "scancel", "g++")
CONTROLLER = {
    "sbatch --version": Answer(0, "slurm 23.11.4\n"),
    "scontrol ping": Answer(0, "Slurmctld(primary) at head1 is UP\n"),
    "sinfo": Answer(0, "cpu|(null)|1-00:00:00\nh100|gpu:h100:8(S:0-1),nvme:1|7-00:00:00\n"),
}
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "8", "SLURM_GPUS_ON_NODE": "8"}
TASK = JOB | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "8", "OMP_NUM_THREADS": "1"}


def head(**answers: Answer) -> Imitated:
    """A machine without GPUs from which jobs are submitted."""
    return without_gpus(answers=CONTROLLER | answers, programs=PROGRAMS, cores=4)


def test_without_slurm_there_is_a_note() -> None:
    assert lines_of(without_gpus())["Slurm"].mark == "unneeded"


def test_a_machine_that_submits_is_not_blamed_for_what_the_nodes_have() -> None:
    host = head()
    words = ("parallel.dp=8", "model.dtype=bfloat16", "model.kernels.layers=transformer_engine")
    lines = lines_of(host, requirements_of(*words, host=host, config=True))
    assert marked(lines, "wrong") == ["model.path", "data.train.path"]  # which are to be seen from here
    assert lines["CPU cores"].mark == "ok"
    assert lines["Slurm"].found == "slurm 23.11.4"
    assert lines["controller"].found == "Slurmctld(primary) at head1 is UP"
    assert lines["its nodes"].found == "all partitions: up to 8 GPUs per node"
    assert "srun --nodes=1 --gpus-per-node=8 aspo doctor run.yaml parallel.dp=8 " in lines["GPUs for the run"].found
    assert lines_of(host)["GPUs for the run"].found.endswith("srun --nodes=1 --gpus-per-node=1 aspo doctor")


def test_a_machine_that_submits_need_not_hold_the_model() -> None:
    host = head()
    host._files["/proc/meminfo"] = "MemTotal: 8388608 kB\nMemAvailable: 8388608 kB\n"
    family = read_family(ROOT / "examples" / "qwen3_8b" / "model")
    words = ("parallel.tp=8", "parallel.sequence_parallel=true", "model.dtype=bfloat16")
    needs = replace(requirements_of(*words, host=host, config=True), family=family)
    assert lines_of(host, needs)["host memory"].mark == "ok"
    on_cpus = requirements_of(*words, "platform.device=cpu", host=host, config=True)
    assert lines_of(host, replace(on_cpus, family=family))["host memory"].mark == "wrong"


def test_a_run_for_cpus_runs_here_even_so() -> None:
    host = head()
    lines = lines_of(host, requirements_of("platform.device=cpu", "parallel.tp=8", host=host, config=True))
    assert lines["CPU cores"].mark == "warn"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(0, "Slurmctld(primary) at head1 is DOWN\n"), "Slurmctld(primary) at head1 is DOWN"),
        (Answer(None, problem="no answer within 10 s"), "no answer within 10 s"),
        (Answer(1, "", "slurm_load_ctl_conf error: Unable to contact slurm controller\n"), "Unable to contact"),
    ],
)
def test_a_controller_that_does_not_answer_is_warned_of(answer: Answer, found: str) -> None:
    line = lines_of(head(**{"scontrol ping": answer}))["controller"]
    assert line.mark == "warn"
    assert found in line.found


def test_nodes_with_fewer_gpus_and_partitions_that_are_not_there() -> None:
    four = Answer(0, "a100|gpu:a100:4|1:00\n")
    host = head(sinfo=four)
    line = lines_of(host, requirements_of("parallel.dp=8", host=host, config=True))["its nodes"]
    assert line.found == "all partitions: at most 4 GPUs per node, but a job asks for 8"
    host = head(sinfo=Answer(0, ""))
    needs = requirements_of("parallel.dp=8", "slurm.partition=h200", host=host, config=True)
    assert lines_of(host, needs)["its nodes"].mark == "wrong"
    assert any("--partition=h200" in command for command in host.asked)


def test_ranks_that_do_not_fill_nodes_are_said_as_aspo_slurm_says_it() -> None:
    host = head()
    line = lines_of(host, requirements_of("parallel.dp=12", host=host, config=True))["section slurm"]
    assert line.mark == "warn"
    assert line.found.startswith("slurm: 2 nodes with 8 GPUs each hold 16 ranks")


def test_programs_that_the_script_calls_are_looked_for() -> None:
    host = without_gpus(answers=CONTROLLER, programs=("sbatch", "srun"))
    assert lines_of(host)["its programs"].found == "scontrol, squeue, scancel not in PATH"


def in_job(seen: int, env: dict[str, str]) -> Imitated:
    """Inside a task that is shown so many GPUs."""
    rows = [gpu_row(number) for number in range(seen)]
    answers = nvidia_smi(rows) | torch_sees(seen, available=seen > 0) | CONTROLLER
    return (
        Imitated(answers, env=env, programs=PROGRAMS)
        if seen
        else without_gpus(answers=CONTROLLER, env=env, programs=PROGRAMS)
    )


def test_a_task_that_sees_one_gpu_takes_it() -> None:
    host = in_job(1, TASK | {"SLURM_GPUS_PER_TASK": "1"})
    line = lines_of(host)["its GPUs"]
    assert line.mark == "ok"
    assert line.found.endswith("1 for each task: each task uses the one that it sees")
    assert lines_of(in_job(8, TASK))["its GPUs"].mark == "ok"


@pytest.mark.parametrize(("seen", "on_node", "mark"), [(1, "1", "wrong"), (4, "4", "wrong"), (0, "", "warn")])
def test_tasks_without_a_gpu_each(seen: int, on_node: str, mark: str) -> None:
    host = in_job(seen, TASK | {"SLURM_GPUS_ON_NODE": on_node})
    assert lines_of(host)["its GPUs"].mark == mark


def test_tasks_are_ranks() -> None:
    host = in_job(8, TASK)
    lines = lines_of(host, requirements_of("parallel.dp=4", host=host, config=True))
    assert lines["allocation"].mark == "wrong"
    assert lines["allocation"].todo.startswith("srun --ntasks=4")
    assert lines_of(host, requirements_of("parallel.dp=8", host=host, config=True))["allocation"].mark == "ok"


def test_nodes_and_ranks_are_those_of_the_section() -> None:
    host = Imitated(eight_gpus() | CONTROLLER, programs=PROGRAMS)
    needs = requirements_of("parallel.dp=32", host=host, config=True)
    assert (needs.nodes, needs.ranks_here) == (4, 8)
    alone = Imitated(eight_gpus())
    assert requirements_of("parallel.dp=32", host=alone, config=True).ranks_here == 32


def test_a_task_with_the_gpu_of_its_rank_lacks_no_other() -> None:
    host = in_job(1, TASK | {"SLURM_GPUS_PER_TASK": "1"})
    host._cores = 4
    lines = lines_of(host, requirements_of("parallel.dp=8", host=host, config=True))
    assert lines["GPUs for the run"].found == "torch sees the one GPU of this task's rank"
    assert lines["CPU cores"].mark == "ok"
    assert marked(lines, "wrong") == ["model.path", "data.train.path"]


def test_the_shell_of_salloc_is_where_it_was_called() -> None:
    host = head()
    host.env = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_JOB_NUM_NODES": "1"}
    lines = lines_of(host, requirements_of("parallel.dp=8", "platform.device=cuda", host=host, config=True))
    assert marked(lines, "wrong") == ["model.path", "data.train.path"]
    assert "srun --nodes=1 --gpus-per-node=8 aspo doctor" in lines["GPUs for the run"].found
    assert not {"its GPUs", "allocation"} & set(lines)


def test_an_environment_without_aspo_is_warned_of(tmp_path: Path) -> None:
    host = head()
    line = lines_of(host, requirements_of(f"slurm.venv={tmp_path}", host=host, config=True))["slurm.venv"]
    assert (line.mark, line.found) == ("warn", f"{tmp_path} has no bin/aspo here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "aspo").touch()
    for venv in (tmp_path, "none"):
        assert "slurm.venv" not in lines_of(host, requirements_of(f"slurm.venv={venv}", host=host, config=True))


def test_where_jobs_are_submitted_the_next_step_is_to_submit() -> None:
    needs = requirements_of("parallel.dp=8", host=head(), config=True)
    assert "next: aspo slurm run.yaml" in text([], placed(needs, head(), gpus=False))
    assert "next: aspo train run.yaml" in text([], placed(needs, Imitated(eight_gpus()), gpus=True))
