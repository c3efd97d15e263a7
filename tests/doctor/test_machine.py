"""Memory, control groups, limits, disks, environment variables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aspo_megatron.doctor.demand import demand_of
from aspo_megatron.doctor.host import Disk
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.family import read_family
from aspo_megatron.plan.cpu_ranks import training_bytes
from aspo_megatron.plan.machine import core_quota, memory_limit
from doctor.machines import Imitated, eight_gpus, lines_of, marked, requirements_of, without_gpus

ROOT = Path(__file__).parents[2]
CARDS = {"/sys/class/infiniband/mlx5_0/node_type": ""}
MIB = 1 << 20


def test_a_container_with_little_shared_memory_is_warned_of_with_several_gpus() -> None:
    small = {"/dev/shm": Disk(64 * MIB, 64 * MIB)}
    line = lines_of(Imitated(eight_gpus(), disks=small))["/dev/shm"]
    assert line.mark == "warn"
    assert line.found.startswith("64 MiB free of 64 MiB: NCCL may fail")
    assert "--shm-size" in line.todo
    assert lines_of(without_gpus(disks=small))["/dev/shm"].mark == "ok"


def test_buckets_of_weights_want_shared_memory_of_servers_on_cpus() -> None:
    host = without_gpus(disks={"/dev/shm": Disk(64 * MIB, 64 * MIB)})
    needs = requirements_of("rollout.engine=sglang", "rollout.servers.sync=tensor", host=host)
    assert "two buckets of weights take 512 MiB" in lines_of(host, needs)["/dev/shm"].found


def test_no_shared_memory_at_all_is_wrong() -> None:
    class Bare(Imitated):
        def writable(self, folder: str | Path) -> bool:
            return str(folder) != "/dev/shm"

    assert marked(lines_of(Bare(eight_gpus())), "wrong") == ["/dev/shm"]


@pytest.mark.parametrize(
    ("limit", "files", "nodes", "mark"),
    [
        (65536, {}, 1, "ok"),
        (65536, CARDS, 1, "warn"),
        (65536, CARDS, 2, "wrong"),
        (None, CARDS, 2, "ok"),
        (64 << 30, CARDS, 2, "ok"),
    ],
)
def test_locked_memory_matters_with_infiniband(limit: int | None, files: dict[str, str], nodes: int, mark: str) -> None:
    host = Imitated(eight_gpus(), limits={"memlock": limit}, files=files)
    line = lines_of(host, requirements_of(host=host, config=True, nodes=nodes))["locked memory"]
    assert line.mark == mark
    assert limit != 65536 or line.found.startswith("64 KiB")
    assert mark in ("ok",) or line.todo.startswith("ulimit -l unlimited")


def test_few_open_files_are_too_few_for_many_requests() -> None:
    host = Imitated(eight_gpus(), limits={"nofile": 1024})
    assert lines_of(host)["open files"].mark == "ok"
    needs = requirements_of("rollout.engine=sglang", "rollout.servers.count=4", host=host)
    line = lines_of(host, needs)["open files"]
    assert line.found == "1024; a rank needs 1536, 1024 of them for requests"
    assert line.todo == "ulimit -n 1024"  # the user may not raise it further


def test_few_processes_and_core_files_are_warned_of() -> None:
    lines = lines_of(Imitated(eight_gpus(), limits={"nproc": 1024, "core": None}))
    assert (lines["processes"].mark, lines["core files"].mark) == ("warn", "warn")


V2 = {"/proc/self/cgroup": "0::/system.slice/job_7/step_0\n"}
V1 = {"/proc/self/cgroup": "9:memory:/docker/4711\n3:cpu,cpuacct:/docker/4711\n1:name=systemd:/\n"}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        (V2 | {"/sys/fs/cgroup/system.slice/job_7/memory.max": "4294967296\n"}, 4 << 30),
        (
            V2
            | {
                "/sys/fs/cgroup/system.slice/job_7/step_0/memory.max": "max\n",
                "/sys/fs/cgroup/memory.max": "8589934592\n",
            },
            8 << 30,
        ),
        (V1 | {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n"}, 2 << 30),
        (V1 | {"/sys/fs/cgroup/memory/docker/4711/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"/proc/self/cgroup": "rubbish"}, None),
        ({}, None),
    ],
)
def test_limits_of_control_groups_of_both_versions(files: dict[str, str], limit: int | None) -> None:
    assert memory_limit(Imitated(files=files)) == limit


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        (V2 | {"/sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n"}, 1.5),
        (V2 | {"/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            V1
            | {
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4.0,
        ),
        (
            V1 | {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
    ],
)
def test_quotas_of_control_groups_of_both_versions(files: dict[str, str], quota: float | None) -> None:
    assert core_quota(Imitated(files=files)) == quota


def test_a_control_group_is_what_the_ranks_have() -> None:
    host = without_gpus(files=V2 | {"/sys/fs/cgroup/memory.max": f"{1 << 30}"})
    line = lines_of(host)["host memory"]
    assert line.mark == "warn"
    assert "limited to 1.0 GiB by a control group" in line.found


def test_ranks_on_cpus_take_what_a_run_is_refused_for() -> None:
    """Not their weights alone: activations of a long micro-batch are more."""
    family = read_family(ROOT / "examples" / "tiny" / "model")
    host = without_gpus(files={"/proc/meminfo": "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n"})
    long = "train.max_tokens_per_micro_batch=60000"
    needs = replace(requirements_of("platform.device=cpu", long, host=host, config=True), family=family)
    demand = demand_of(host, needs, on_gpu=False)
    assert demand is not None
    assert demand.host == max(training_bytes(needs.run, family, longest_prompt=1)) > 2 * demand.device
    line = lines_of(host, needs)["host memory"]
    assert line.mark == "wrong"
    assert "; the peak of 1 rank is " in line.found
    assert "set a smaller train.max_tokens_per_micro_batch" in line.todo


def test_ranks_that_lock_more_than_the_machine_has_are_wrong() -> None:
    """Of 8.2 billion parameters over tp=4 on four ranks: 2 bytes for the reference, 2 and 12 for a save."""
    family = read_family(ROOT / "examples" / "qwen3_8b" / "model")
    host = Imitated(eight_gpus(), files={"/proc/meminfo": "MemTotal: 104857600 kB\nMemAvailable: 104857600 kB\n"})
    words = ("parallel.tp=4", "parallel.sequence_parallel=true", "model.dtype=bfloat16", "loss.kl_coef=0.001")
    needs = replace(requirements_of(*words, host=host, config=True), family=family)
    demand = demand_of(host, needs, on_gpu=True)
    assert demand is not None
    assert demand.host == pytest.approx(16 * model_elements(family), rel=0.001)
    assert demand.state == 14 * model_elements(family)
    line = lines_of(host, needs)["host memory"]
    assert line.mark == "wrong"
    assert "4 ranks lock 122.1 GiB" in line.found
    without = requirements_of(*words[:3], "loss.kl_coef=0", "checkpoint.async_save=false", host=host, config=True)
    assert lines_of(host, replace(without, family=family))["host memory"].mark == "ok"
    offload = requirements_of(
        *words[:3], "optimizer.offload=true", "loss.kl_coef=0", "checkpoint.every=0", host=host, config=True
    )
    demand = demand_of(host, replace(offload, family=family), on_gpu=True)
    assert demand is not None
    assert demand.host == pytest.approx(12 * model_elements(family), rel=0.001)


def test_a_disk_without_room_for_states_is_said() -> None:
    family = read_family(ROOT / "examples" / "qwen3_8b" / "model")
    host = Imitated(eight_gpus(), disks={"/": Disk(1 << 40, 200 << 30)})
    needs = replace(
        requirements_of("model.dtype=bfloat16", "output_dir=/runs/a", host=host, config=True), family=family
    )
    assert lines_of(host, needs)["disk for runs"].mark == "warn"
    assert "3 saved states take 320.4 GiB, the model 15.3 GiB" in lines_of(host, needs)["disk for runs"].found
    host._disks["/"] = Disk(1 << 40, 15 << 30)
    assert lines_of(host, needs)["disk for runs"].mark == "wrong"


def test_a_folder_that_cannot_be_written_is_wrong() -> None:
    class ReadOnly(Imitated):
        def writable(self, folder: str | Path) -> bool:
            return str(folder) == "/dev/shm"

        def temporary(self) -> None:  # type: ignore[override]
            return None

    assert marked(lines_of(ReadOnly(eight_gpus())), "wrong") == ["disk for runs", "TMPDIR"]


def test_more_threads_than_cores_are_warned_of() -> None:
    host = without_gpus(cores=2)
    assert lines_of(host)["CPU cores"].mark == "ok"
    line = lines_of(host, requirements_of("parallel.tp=4", host=host, config=True))["CPU cores"]
    assert line.found == "2; 4 ranks x 1 thread compete for them"
    few = Imitated(eight_gpus(), cores=8)
    assert lines_of(few, requirements_of("parallel.dp=8", host=few, config=True))["CPU cores"].mark == "warn"


def test_a_clock_before_the_installation_is_warned_of() -> None:
    class Past(Imitated):
        def now(self) -> float:
            return 86400.0

    line = lines_of(Past(eight_gpus()))["clock"]
    assert line.mark == "warn"
    assert line.found.startswith("1970-01-02")


def test_a_machine_that_shuts_off_no_programs_cannot_score_code() -> None:
    host = without_gpus(sandbox="")
    assert lines_of(host)["code sandbox"].mark == "warn"
    line = lines_of(host, requirements_of("reward.kind=code", host=host))["code sandbox"]
    assert line.mark == "wrong"
    assert "reward.code.sandbox=rlimits" in line.todo


@pytest.mark.parametrize(
    ("env", "warned"),
    [
        ({"CUDA_LAUNCH_BLOCKING": "1"}, ["CUDA_LAUNCH_BLOCKING"]),
        ({"CUDA_LAUNCH_BLOCKING": "0"}, []),
        ({"TORCH_NCCL_BLOCKING_WAIT": "1"}, ["TORCH_NCCL_BLOCKING_WAIT"]),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, ["PYTORCH_CUDA_ALLOC_CONF"]),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, []),
        ({"PYTORCH_CUDA_ALLOC_CONF": "a:1", "PYTORCH_ALLOC_CONF": "b:1"}, ["PYTORCH_CUDA_ALLOC_CONF"]),
        ({"PYTHONPATH": "/src/Megatron-LM:/mine"}, ["PYTHONPATH"]),
        ({"PYTHONPATH": "/mine"}, []),
        ({"LD_LIBRARY_PATH": "/opt/nccl/lib"}, ["LD_LIBRARY_PATH"]),
        ({"LD_LIBRARY_PATH": "/mine"}, []),
        ({"SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "64"}, ["OMP_NUM_THREADS"]),
        ({"SLURM_JOB_ID": "7"}, ["OMP_NUM_THREADS"]),
        ({"CUDA_DEVICE_MAX_CONNECTIONS": "32"}, ["CUDA_DEVICE_MAX_CONNECTIONS"]),
        ({"CUDA_DEVICE_MAX_CONNECTIONS": "1"}, []),
        ({"SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "8"}, []),
    ],
)
def test_variables_that_disturb(env: dict[str, str], warned: list[str]) -> None:
    files = {
        "/src/Megatron-LM/megatron/core/__init__.py": "",
        "/mine/tool.py": "",
        "/opt/nccl/lib/libnccl.so.2.28.9": "",
    }
    host = Imitated(eight_gpus(), env=env, files=files)
    lines = lines_of(host, requirements_of("parallel.dp=4", "parallel.tp=2", host=host, config=True))
    assert [what for what in marked(lines, "warn") if what in {*env, "OMP_NUM_THREADS"}] == warned
    assert ("variables" in lines) == (not warned)


def test_servers_of_others_must_have_the_same_nccl_settings() -> None:
    host = Imitated(eight_gpus(), env={"NCCL_CUMEM_ENABLE": "0"})
    needs = requirements_of("rollout.engine=sglang", "rollout.servers.addresses=[http://127.0.0.1:30000]", host=host)
    assert lines_of(host, needs)["NCCL_CUMEM_ENABLE"].mark == "warn"
    assert "NCCL_CUMEM_ENABLE" not in lines_of(host)
