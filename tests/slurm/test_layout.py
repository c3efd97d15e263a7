"""Ranks, servers and GPUs of a job. Whatever is refused is refused with settings that make a right job."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from aspo_megatron.config import RunConfig, ServersConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError
from aspo_megatron.rollout.sglang.environment import server_environment
from aspo_megatron.slurm.job import TEMPLATE, make_job, read_template, render

EXAMPLES = TEMPLATE.parents[1] / "examples"
SMALL = "qwen3_4b/run.yaml"
LARGE = "qwen3_30b_a3b/run.yaml"
HETJOB = "#SBATCH hetjob"
RECIPES = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*/*.yaml"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def job_of(recipe: str, *overrides: str) -> tuple[RunConfig, list[str]]:
    """The run, and the directives of its job."""
    job = make_job(EXAMPLES / recipe, overrides, [], None, 1)
    script = render(job, read_template())
    return job.run, [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]


def assert_right(run: RunConfig, directives: list[str]) -> None:
    """A task for each rank; a GPU for each rank and each part of a server; none without a use on the ranks' nodes."""
    found = dict(line.partition("=")[::2] for line in directives[: [*directives, HETJOB].index(HETJOB)])
    servers = run.rollout.servers
    nodes = int(found["nodes"]) - (0 if run.slurm.server_directives else run.slurm.server_nodes)
    tasks = int(found["ntasks-per-node"])
    assert nodes * tasks == run.parallel.world_size
    said = [found[name].removeprefix("gpu:") for name in ("gpus-per-node", "gres") if name in found]
    numbers = [part.rpartition(":")[2] for part in ",".join(said).split(",") if not part.startswith("nvme")]
    gpus = sum(map(int, numbers)) if said else int(found.get("gpus-per-task", "0")) * tasks
    own = run.rollout.engine == "sglang" and not (run.slurm.server_nodes or run.slurm.servers_of or servers.addresses)
    beside = servers.count * servers.tp if own and not servers.colocate else 0
    assert nodes == 1 or not own
    assert gpus == (tasks + beside if run.slurm.gpus_per_node else 0)
    if run.slurm.server_nodes and run.slurm.gpus_per_node:
        assert servers.count * servers.tp <= gpus


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_as_they_are(recipe: str) -> None:
    one_process = load_config(EXAMPLES / recipe).rollout.engine == "embedded"
    assert_right(*job_of(recipe, *(["slurm.gpus_per_node=0"] if one_process else [])))


@pytest.mark.parametrize("recipe", RECIPES)
def test_steps_of_recipes_fit_before_the_limit(recipe: str) -> None:
    """By the plan in their README; only on a GPU is there one."""
    readme = EXAMPLES / recipe.partition("/")[0] / "README.md"
    planned = re.search(r"^step +(\d+)", readme.read_text(), re.M) if readme.exists() else None
    assert planned is None or int(planned[1]) < load_config(EXAMPLES / recipe).slurm.save_seconds


REFUSED = [
    (
        SMALL,
        ["slurm.gpus_per_node=4"],
        "4 ranks and rollout.servers.count=4 x tp=1 = 4 GPUs for servers take 8 in total",
    ),
    (SMALL, ["rollout.servers.count=8"], "a node has 8 GPUs, .* 12 in total"),
    (SMALL, ["rollout.servers.count=2"], "a node has 8 GPUs, .* 6 in total"),
    (SMALL, ["rollout.servers.count=3", "rollout.servers.tp=2"], "count=3 x tp=2 = 6 GPUs .* 10 in total"),
    (SMALL, ["parallel.dp=2"], "8 ranks .* 12 in total"),
    (SMALL, ["parallel.dp=4"], "on several nodes"),
    (SMALL, ["slurm.nodes=2"], "on several nodes"),
    (SMALL, ["slurm.nodes=3"], "do not divide evenly"),
    (SMALL, ["rollout.servers.colocate=true"], "1 nodes with 8 GPUs each hold 8 ranks, but .* = 4"),
    (SMALL, ["rollout.servers.colocate=true", "slurm.gpus_per_node=4", "rollout.servers.tp=2"], "= 8 GPUs on the node"),
    (SMALL, ["slurm.server_nodes=1"], "1 nodes with 8 GPUs each hold 8 ranks, but .* = 4"),
    (SMALL, ["rollout.engine=embedded"], "1 nodes with 8 GPUs each hold 8 ranks, but .* = 4"),
    (SMALL, ["slurm.directives=[--gres=gpu:4]"], "--gres=gpu:4: 4 GPUs per node, but slurm.gpus_per_node=8"),
    (SMALL, ["slurm.directives=[--gpus-per-node=h100:4]"], "4 GPUs per node"),
    (SMALL, ["slurm.directives=[--gres=gpu]"], "1 GPUs per node"),
    (SMALL, ["slurm.directives=[--gpus-per-task=1]"], "rank 0 would not see"),
    (SMALL, ["slurm.directives=[--gpu-bind=single:1]"], "rank 0 would not see"),
    (SMALL, ["slurm.directives=[--gpus=8]"], "request the GPUs of each node"),
    (SMALL, ["slurm.directives=[--ntasks=12]"], "nodes and tasks follow"),
    (SMALL, ["slurm.directives=[--nodes=3]", "slurm.gpus_per_node=0"], "nodes and tasks follow"),
    (SMALL, ["slurm.directives=[--array=0-3]"], "would be the same run"),
    (SMALL, ["slurm.directives=['--gres=gpu:2080ti:4']"], "4 GPUs per node"),
    (SMALL, ["slurm.directives=['--gres=gpu:3090:4,nvme:1']"], "4 GPUs per node"),
    (SMALL, ["slurm.directives=['--gpus-per-node=3090:4']"], "4 GPUs per node"),
    (SMALL, ["slurm.directives=['--gres=gpu:a100:2,gpu:h100:2']", "slurm.server_nodes=1"], "each hold 8 ranks, but"),
    (LARGE, ["slurm.directives=[--gpus-per-task=1]"], "servers on slurm.server_nodes would not see"),
    (LARGE, ["slurm.directives=[--gpu-bind=closest]"], "servers on slurm.server_nodes would not see"),
    (LARGE, ["slurm.server_directives=[--partition=x,--nodes=4]"], "server_directives: --nodes=4: nodes and tasks"),
    (LARGE, ["slurm.nodes=4"], r"4 nodes .* 32 ranks, but .* = 16 \(slurm.nodes counts the ranks' nodes; the 2 of"),
    (LARGE, ["rollout.servers.count=8"], "= 16 GPUs on each node of slurm.server_nodes, which has 8"),
    (LARGE, ["slurm.server_nodes=0"], "on several nodes"),
    (LARGE, ["slurm.gpus_per_node=4"], "= 8 GPUs on each node of slurm.server_nodes, which has 4"),
    (LARGE, ["slurm.server_directives=[--gres=gpu:a100:4]"], "which has 4"),
    (LARGE, ["parallel.dp=3", "slurm.nodes=5"], "do not divide evenly"),
]


@pytest.mark.parametrize(("recipe", "overrides", "reason"), REFUSED)
def test_advice_makes_a_right_job(recipe: str, overrides: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        job_of(recipe, *overrides)
    advice = [way.split(", or ")[0] for way in re.split(r"; set |, or set ", str(refused.value))[1:]]
    assert advice, refused.value
    for way in advice:
        run, directives = job_of(recipe, *overrides, *shlex.split(way))
        assert_right(run, directives)


@pytest.mark.parametrize(
    "line",
    [
        "--gres=gpu:8",
        "--gres=gpu:h100:8",
        "--gres=gpu:8,nvme:1",
        "--gpus-per-node=h100:8",
        "--tres-per-node=gres/gpu:8",
        "--gres=gpu:2080ti:8",
        "--gres=gpu:3090:8",
        "--gres=gpu:1g.10gb:8",
        "--gres=gpu:a100:4,gpu:h100:4",
        "--gpus-per-node=a100:4,h100:4",
    ],
)
def test_gpus_by_a_directive_of_ones_own(line: str) -> None:
    _, directives = job_of(SMALL, f"slurm.directives=['{line}']")
    assert [found for found in directives if re.match("gpu|gres|tres", found)] == [line.removeprefix("--")]


def test_other_resources_ask_for_no_gpus() -> None:
    _, directives = job_of(SMALL, "slurm.directives=[--gres=nvme:1]")
    assert "gpus-per-node=8" in directives
    _, directives = job_of(LARGE, "slurm.server_directives=[--gres=nvme:1]")
    assert directives.count("gpus-per-node=8") == 2


def test_a_gpu_for_each_task_where_no_servers_are_beside() -> None:
    _, directives = job_of(
        SMALL, "rollout.engine=embedded", "slurm.gpus_per_node=4", "slurm.directives=[--gpus-per-task=1]"
    )
    assert "gpus-per-task=1" in directives
    assert not [line for line in directives if line.startswith("gpus-per-node")]


@pytest.mark.parametrize("recipe", ["deepseek_r1_distill_qwen_1_5b/run.yaml", SMALL, "qwen3_8b/run.yaml"])
def test_ranks_and_servers_have_gpus_of_their_own(recipe: str) -> None:
    """Ranks take the GPUs of their numbers on the node, servers count from the last that the task sees."""
    run = load_config(EXAMPLES / recipe)
    servers: ServersConfig = run.rollout.servers
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(run.slurm.gpus_per_node)))}
    taken = [
        server_environment(servers, "cuda", number, seen)["CUDA_VISIBLE_DEVICES"] for number in range(servers.count)
    ]
    assert sorted([*taken, *map(str, range(run.parallel.world_size))]) == [str(gpu) for gpu in range(8)]


def test_advice_goes_before_an_option() -> None:
    with pytest.raises(ConfigError, match=r"set slurm\.nodes=1$"):
        make_job(EXAMPLES / SMALL, [], ["slurm.nodes=2"], None, 1)
    job = make_job(EXAMPLES / SMALL, ["slurm.nodes=1"], ["slurm.nodes=2"], None, 1)
    assert job.run.slurm.nodes == 1
    assert load_config(EXAMPLES / SMALL, job.words[1:]).slurm.nodes == 1
