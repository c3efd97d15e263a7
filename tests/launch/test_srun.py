"""Tasks of srun become ranks."""

import pytest

from aspo_megatron.errors import UserError
from aspo_megatron.launch.rank import rank_settings, running_under_launcher, slurm_environment

TASK = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_ID": "0",
}


def test_a_task_on_one_node():
    assert running_under_launcher(TASK)
    found = slurm_environment(TASK)
    assert found["RANK"] == "3"
    assert found["LOCAL_RANK"] == "1"
    assert found["WORLD_SIZE"] == "4"
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert slurm_environment(TASK | {"SLURM_JOB_ID": "72"})["MASTER_PORT"] != found["MASTER_PORT"]


def test_tasks_of_one_node_meet_where_no_other_machine_reaches_them():
    given = {"MASTER_ADDR": "node1", "MASTER_PORT": "12345"}
    found = slurm_environment(TASK | given)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("127.0.0.1", "12345")
    assert slurm_environment(TASK | given | {"SLURM_STEP_NUM_NODES": "2"})["MASTER_ADDR"] == "node1"


def test_torchrun_wins():
    assert slurm_environment(TASK | {"RANK": "0", "WORLD_SIZE": "4"}) == {}


def test_several_nodes_without_scontrol(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="scontrol show hostnames"):
        slurm_environment(TASK | {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "node[1-2]"})


def test_what_the_user_has_set_for_cuda_stays():
    both = {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert rank_settings({}) == both
    assert rank_settings({"CUDA_DEVICE_MAX_CONNECTIONS": "8", "PYTORCH_ALLOC_CONF": "backend:native"}) == {}
    older = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}
    assert rank_settings(older) == {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
