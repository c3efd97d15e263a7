"""What `aspo slurm` writes, and what Slurm says to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from e2e.command import SETTINGS
from thorough import some_of

from aspo_megatron.cli.app import app
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.launch.rank import slurm_environment
from aspo_megatron.slurm.job import TEMPLATE, make_job, read_template, render

from .cluster import Cluster

GPUS = ["parallel={tp: 2, dp: 16}", "slurm.cpus_per_task=8"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(SETTINGS + "output_dir: runs/first\n")
    return path


def script_of(config: Path, *overrides: str, sweep: Path | None = None, chain: int = 1) -> str:
    job = make_job(config, list(overrides), [], sweep, chain)
    return render(job, read_template())


def directives(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]
    return dict(line.split("#")[0].strip().partition("=")[::2] for line in lines)


def test_every_script_is_valid_bash(config: Path) -> None:
    folder = TEMPLATE.parent
    scripts = [path.read_text() for path in sorted(folder.glob("*.sbatch"))] + [script_of(config, *GPUS)]
    assert len(scripts) == 5
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_layout_gives_nodes_and_tasks(config: Path) -> None:
    found = directives(script_of(config, *GPUS))
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"]) == ("4", "8", "8")
    on_cpus = directives(script_of(config, "parallel={tp: 2, dp: 2}", "slurm={nodes: 2, gpus_per_node: 0}"))
    assert (on_cpus["nodes"], on_cpus["ntasks-per-node"]) == ("2", "2")
    assert "gpus-per-node" not in on_cpus


def test_layout_that_does_not_fit(config: Path) -> None:
    with pytest.raises(ConfigError, match="3 nodes with 8 GPUs each hold 24 ranks, but tp x cp x dp x pp = 48"):
        script_of(config, "parallel.dp=48", "slurm.nodes=3")
    with pytest.raises(ConfigError, match=r"slurm.nodes=3: .* = 32 ranks do not divide"):
        script_of(config, *GPUS, "slurm.nodes=3")
    with pytest.raises(ConfigError, match=r"slurm: directives: 'mem=0' is no option of sbatch"):
        script_of(config, *GPUS, "slurm.directives=[mem=0]")
    with pytest.raises(ConfigError, match=r"set slurm\.server_nodes for servers in the same job"):
        script_of(config, *GPUS, "rollout.engine=sglang")
    with pytest.raises(ConfigError, match=r"rollout\.servers\.addresses: leave it empty when slurm\.server_nodes"):
        script_of(config, *GPUS, "slurm.server_nodes=1", "rollout.servers.addresses=[http://a:1]")
    with pytest.raises(ConfigError, match="server_directives: are for server_nodes"):
        script_of(config, *GPUS, "slurm.server_directives=[--partition=spare]")


def test_nodes_for_servers(config: Path) -> None:
    split = script_of(config, *GPUS, "slurm.server_nodes=2")
    assert directives(split)["nodes"] == "6"
    assert "\nSERVER_NODES=2\n" in split
    apart = script_of(config, *GPUS, "slurm.server_nodes=2", "slurm.server_directives=[--partition=spare]")
    ranks, servers = apart.split("#SBATCH hetjob\n")
    assert directives(ranks)["nodes"] == "4"
    found = directives(servers)
    assert (found["nodes"], found["ntasks-per-node"], found["partition"]) == ("2", "1", "spare")
    assert found["gpus-per-node"] == "8"  # a component inherits nothing of the other
    fewer = script_of(config, *GPUS, "slurm.server_nodes=2", "slurm.server_directives=[--gres=gpu:h200:4]")
    assert "gpus-per-node" not in directives(fewer.split("#SBATCH hetjob\n")[1])
    other = script_of(config, *GPUS, "slurm.servers_of=aspo-serve-7")
    assert "\nSERVERS=aspo-serve-7\n" in other


def test_settings_reach_the_script(config: Path) -> None:
    own = ["slurm.partition=h100", "slurm.save_seconds=120", "slurm.directives=[--mem=0]", "slurm.time=1-00:00:00"]
    found = directives(script_of(config, *GPUS, *own))
    assert found["partition"] == "h100"
    assert found["signal"] == "B:USR1@120"
    assert found["mem"] == "0"
    assert found["time"] == "1-00:00:00"
    script = script_of(config, *GPUS, "data.template={prompt} it's =", 'slurm.setup=["module load cuda/12"]')
    assert "\nmodule load cuda/12\n" in script
    [line] = [line for line in script.splitlines() if line.startswith("RUN=")]
    shown = f'{line}; printf "%s\\n" "${{RUN[@]}}"'
    words = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "data.template={prompt} it's =" in words


def test_chain_and_sweep(config: Path, tmp_path: Path) -> None:
    chained = script_of(config, *GPUS, chain=3)
    assert directives(chained)["dependency"] == "singleton"
    assert "\nAT_LIMIT=end\n" in chained
    sweep = tmp_path / "sweep.txt"
    sweep.write_text("# two\noptimizer.lr=1e-6 output_dir=a\noptimizer.lr=2e-6 'output_dir=b c'\n")
    script = script_of(config, *GPUS, sweep=sweep)
    assert directives(script)["array"] == "0-1"
    lines = [line for line in script.splitlines() if line.startswith(("RUN=", "SWEEP=", '[ -z "${SLURM_ARRAY'))]
    shown = "\n".join(["SLURM_ARRAY_TASK_ID=1", *lines, 'printf "%s\\n" "${RUN[@]: -2}"'])
    words = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == ["optimizer.lr=2e-6", "output_dir=b c"]
    sweep.write_text("parallel.dp=8 output_dir=a\nparallel.dp=16 output_dir=b\n")
    with pytest.raises(ConfigError, match="must need the same number of ranks"):
        script_of(config, *GPUS, sweep=sweep)
    sweep.write_text("output_dir=runs/a\noutput_dir=runs/b/../a\n")
    with pytest.raises(ConfigError, match=r"its own output_dir=\.\.\."):
        script_of(config, *GPUS, sweep=sweep)
    sweep.write_text("slurm.partition=x output_dir=a\noutput_dir=b\n")
    with pytest.raises(ConfigError, match=r"all lines are one job: set slurm\.\*"):
        script_of(config, *GPUS, sweep=sweep)
    with pytest.raises(ConfigError, match="--dependency=afterok:5: would make the jobs of --chain 2"):
        script_of(config, *GPUS, "slurm.directives=['--dependency=afterok:5']", chain=2)
    sweep.write_text("optimizer.lr=1e-6\noptimizer.lr=2e-6\n")
    with pytest.raises(ConfigError, match="each line needs its own output_dir"):
        script_of(config, *GPUS, sweep=sweep)


def test_containers(config: Path) -> None:
    box = ["slurm.container=/images/a b.sqsh", "slurm.mounts=[/data:/data,/home:/home]"]
    pyxis = script_of(config, *GPUS, *box)
    assert """CONTAINER=('--container-image=/images/a b.sqsh' --container-mounts=/data:/data,/home:/home""" in pyxis
    assert "\nVENV=\n" in pyxis
    apptainer = script_of(config, *GPUS, *box, "slurm.container_runtime=apptainer")
    assert "INSIDE=(apptainer exec --nv --bind /data:/data --bind /home:/home" in apptainer
    assert "\nCONTAINER=()\n" in apptainer


def test_how_far_a_run_is(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the script asks before and after: of a folder that is not there yet, and of one with states elsewhere."""

    def said() -> str:
        with pytest.raises(SystemExit) as ended:
            app(["slurm", str(config), "train.steps=3", "--state"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert said() == "stopped\n"
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "checkpoints").symlink_to(tmp_path / "disk")
    assert said() == "stopped\n"
    (tmp_path / "disk" / "latest").write_text("step-000002\n")
    assert said() == "stopped step-000002\n"
    (tmp_path / "runs" / "first" / "summary.json").write_text('{"steps": 3}')
    assert said() == "finished\n"


def test_template_that_lacks_a_setting(config: Path) -> None:
    job = make_job(config, GPUS, [], None, 1)
    with pytest.raises(UserError, match="has 0 lines VENV"):
        render(job, read_template().replace("VENV=", "ENV=").replace("$VENV", "$ENV"))


def test_ranks_take_the_rendezvous_of_the_script() -> None:
    task = {
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "2",
        "SLURM_STEP_NUM_TASKS": "7",
        "SLURM_STEP_NUM_NODES": "3",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
        "SLURM_JOB_ID": "71",
        "SLURM_STEP_ID": "0",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "12345",
    }
    found = slurm_environment(task)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("node1", "12345")
    assert found["LOCAL_WORLD_SIZE"] == "3"
    assert slurm_environment(task | {"SLURM_NODEID": "1"})["LOCAL_WORLD_SIZE"] == "2"


@pytest.mark.slurm
def test_slurm_accepts_production_size(cluster: Cluster, config: Path, tmp_path: Path) -> None:
    """Four nodes with eight GPUs each; and the other scripts as they are shipped."""
    (tmp_path / "train.sbatch").write_text(script_of(config, *GPUS))
    (tmp_path / "chain.sbatch").write_text(script_of(config, *GPUS, chain=3))
    (tmp_path / "split.sbatch").write_text(script_of(config, "parallel.dp=24", "slurm.server_nodes=1"))
    no_limit = ["slurm.time=UNLIMITED", "slurm.log_dir=my logs", "slurm.directives=[--gres=gpu:8]"]
    (tmp_path / "no limit.sbatch").write_text(script_of(config, *GPUS, *no_limit))
    folder = TEMPLATE.parent
    by_hand = [[str(path)] for path in sorted(folder.glob("*.sbatch"))] + [["--nodes=4", str(TEMPLATE)]]
    for argv in [["train.sbatch"], ["chain.sbatch"], ["split.sbatch"], ["no limit.sbatch"], *by_hand]:
        cluster.run("sbatch", "--test-only", *argv, "run.yaml", folder=tmp_path)


SEEN = """#!/bin/bash
[[ " $* " != *" --state"* ]] || { cat seen/finished 2>/dev/null || echo stopped; exit; }
echo "$SLURM_NTASKS $SLURM_LOCALID $CUDA_VISIBLE_DEVICES $MASTER_ADDR" >"seen/$SLURM_PROCID"
echo finished >seen/finished
"""
"""Stands in for `aspo`."""


@pytest.mark.slurm
@pytest.mark.timeout(300)
@pytest.mark.parametrize("asks", some_of(["--gpus-per-node", "--gres"], ["--gpus-per-node"]))
def test_recipe_on_one_node(cluster: Cluster, tmp_path: Path, asks: str) -> None:
    """Four ranks and their servers' GPUs, by a job with a clean environment, from a folder with blanks."""
    work = tmp_path / "my runs"
    (work / "seen").mkdir(parents=True)
    (work / "env" / "bin").mkdir(parents=True)
    (work / "env" / "bin" / "aspo").write_text(SEEN)
    (work / "env" / "bin" / "aspo").chmod(0o755)
    recipe = TEMPLATE.parents[1] / "examples" / "deepseek_r1_distill_qwen_1_5b" / "run.yaml"
    directives = ["--export=NONE", "--exclude=node4", *(["--gres=gpu:8"] if asks == "--gres" else [])]
    own = [
        f"slurm.directives=[{','.join(directives)}]",
        "slurm.venv=env",
        "slurm.log_dir=my logs",
        "slurm.time=INFINITE",
    ]
    [job] = cluster.aspo_slurm(str(recipe), *own, folder=work)
    cluster.wait("end of the job", lambda: cluster.ended(job), 120)
    log = (work / "my logs" / f"aspo-deepseek_r1_distill_qwen_1_5b-{job}.log").read_text()
    assert log.splitlines()[-1].endswith(": finished"), log
    assert cluster.state(job)["TimeLimit"] == "UNLIMITED"
    seen = [(work / "seen" / str(rank)).read_text().split() for rank in range(4)]
    assert [line[:3] for line in seen] == [["4", str(rank), "0,1,2,3,4,5,6,7"] for rank in range(4)]
    assert len({line[3] for line in seen}) == 1
    assert not (work / "seen" / "4").exists()
