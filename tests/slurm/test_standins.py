"""What the batch scripts do, run with programs that stand in for Slurm's and for `aspo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from e2e.command import SETTINGS

from aspo_megatron.slurm import job

from .standins import Ended, Standins

RECIPES = {
    "deepseek_r1_distill_qwen_1_5b/run.yaml": (4, 4),
    "deepseek_r1_distill_qwen_1_5b/code.yaml": (4, 4),
    "qwen3_4b/run.yaml": (4, 4),
    "qwen3_8b/run.yaml": (4, 4),
}
"""Ranks, and GPUs of the servers that rank 0 starts."""
ROOT = job.TEMPLATE.parents[1]
CPUS = ("slurm.gpus_per_node=0", "parallel.dp=2")


def running(notes: Path) -> bool:
    return (notes / "env-train-0").exists()


def begun(notes: Path) -> bool:
    """The ranks' srun was called; its step is not there yet."""
    return (notes / "calls").exists() and '"job-name": "ranks"' in (notes / "calls").read_text()


def asked(notes: Path) -> bool:
    return (notes / "asked").exists()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with blanks, and a configuration in it."""
    folder = tmp_path / "my runs #1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "run 1.yaml").write_text(SETTINGS + "output_dir: runs/the first\n")
    return folder


@pytest.fixture
def standins(tmp_path: Path) -> Standins:
    return Standins(tmp_path / "standins")


def script_of(*overrides: str, config: Path = Path("run 1.yaml"), chain: int = 1) -> str:
    return job.render(job.make_job(config, list(overrides), [], None, chain), job.read_template())


def trained(standins: Standins, work: Path, *overrides: str, chain: int = 1, **given: Any) -> Ended:
    script = script_of(*CPUS, f"slurm.venv={standins.aspo(work / 'conda env')}", *overrides, chain=chain)
    return standins.run(script, work, **given)


@pytest.mark.parametrize(
    ("variable", "exported"),
    [("SLURM_EXPORT_ENV", "NONE"), ("SLURM_EXPORT_ENV", "HF_HOME"), ("SRUN_EXPORT_ENV", "NONE")],
)
def test_what_the_script_sets_reaches_the_ranks(standins: Standins, work: Path, variable: str, exported: str) -> None:
    offline = "slurm.setup=[export HF_HOME=/shared/hf HF_HUB_OFFLINE=1]"
    given: dict[str, Any] = {variable: exported}
    ended = trained(standins, work, offline, **given)
    assert ended.code == 0, ended.log
    assert ended.log.endswith("job 7: finished\n")
    for task in (0, 1):
        found = ended.environment(task=task)
        assert (found["HF_HOME"], found["HF_HUB_OFFLINE"]) == ("/shared/hf", "1")
        assert (found["MASTER_ADDR"], found["OMP_NUM_THREADS"]) == ("node1", "1")
        assert found["PATH"].startswith(f"{work}/conda env/bin:")


@pytest.mark.parametrize(("name", "command"), [("serve", "serve"), ("eval", "eval"), ("convert", "convert")])
def test_the_other_scripts_hand_on_their_environment(standins: Standins, work: Path, name: str, command: str) -> None:
    standins.aspo(work / ".venv")
    script = job.TEMPLATE.with_name(f"{name}.sbatch").read_text()
    ended = standins.run(script, work, "run 1.yaml", "model.path=a b", SLURM_EXPORT_ENV="NONE")
    assert ended.code == 0, ended.log
    assert ended.environment(command)["PATH"].startswith(f"{work}/.venv/bin:")
    assert ended.words(command)[2:4] == ["run 1.yaml", "model.path=a b"]


def test_all_scripts_enter_an_environment_in_the_same_way() -> None:
    scripts = {path.stem: path.read_text() for path in job.TEMPLATE.parent.glob("*.sbatch")}
    begin, end = '[ -z "$VENV" ]; then :', "\nelse\n  echo"
    assert len({text[text.index(begin) : text.index(end)] for text in scripts.values()}) == 1
    for text in scripts.values():
        assert text.index("unset SLURM_EXPORT_ENV SRUN_EXPORT_ENV") < text.index("VENV=")


def test_a_conda_environment_gets_what_its_packages_set(standins: Standins, work: Path) -> None:
    """Even the base one, whose bin/activate enters another."""
    conda = work / "conda env"
    (conda / "conda-meta").mkdir(parents=True)
    standins.program(conda / "bin" / "activate", "exit 5")
    standins.program(conda / "etc" / "conda" / "activate.d" / "cuda.sh", "export CUDA_HOME=$CONDA_PREFIX/cuda")
    found = trained(standins, work).environment()
    assert found["CONDA_PREFIX"] == str(conda)
    assert found["CUDA_HOME"] == f"{conda}/cuda"


def test_aspo_of_a_module_or_of_the_user(standins: Standins, work: Path) -> None:
    module = standins.aspo(work / "apps")
    script = script_of(*CPUS, "slurm.venv=none", f"slurm.setup=['export PATH=\"{module}/bin:$PATH\"']")
    assert "\nVENV=\n" in script
    ended = standins.run(script, work)
    assert ended.code == 0, ended.log
    assert ended.environment()["PATH"].startswith(f"{module}/bin:")


@pytest.mark.parametrize(
    ("venv", "said"), [("none", "there is no aspo in PATH"), ("gone", "there is no environment gone on")]
)
def test_no_aspo_is_said_before_anything_starts(standins: Standins, work: Path, venv: str, said: str) -> None:
    ended = standins.run(script_of(*CPUS, f"slurm.venv={venv}"), work)
    assert ended.code == 1
    assert ended.log.startswith(f"error: {said}")
    assert "slurm.venv" in ended.log


def test_paths_with_blanks_everywhere(standins: Standins, work: Path) -> None:
    ended = trained(standins, work, "slurm.log_dir=my logs #2, 100%t", "model.path=my models/one")
    assert ended.code == 0, ended.log
    folder, _, config, *words = ended.words()
    assert (folder, config) == (str(work), "run 1.yaml")
    assert words[-1] == "model.path=my models/one"
    names = {path.name for path in (work / "my logs #2, 100%t" / "aspo-run-7").iterdir()}
    assert names == {"rank-0.log", "rank-1.log"}


def test_options_of_ones_own_lines_end_with_them(standins: Standins, work: Path) -> None:
    """Else the first exit code that is not 0 would end the script, before it says anything or goes on later."""
    venv = standins.aspo(work / "env")
    standins.program(venv / "bin" / "aspo", '#!/bin/bash\n[[ " $* " != *" --state"* ]] || exit 0\necho why\nexit 3\n')
    script = script_of(*CPUS, f"slurm.venv={venv}", "slurm.setup=[set -euo pipefail]")
    ended = standins.run(script, work)
    assert (ended.code, ended.log.splitlines()[-1]) == (3, "rank-0.log: why")


def test_a_limit_before_anything_was_saved_ends_the_job(standins: Standins, work: Path) -> None:
    """First one that begins anew, then one that goes on: neither would do better at another start."""
    for before in (None, "stopped step-000010"):
        if before:
            (standins.folder / "latest").write_text(before)
        ended = trained(standins, work, signal_when=running, WAITS="1")
        assert ended.code == 1, ended.log
        assert "the time limit is near: saving" in ended.log
        assert "error: stopped, and no state was saved since the start" in ended.log
        assert "Give slurm.time more" in ended.log
        assert not ended.requeued


def test_a_limit_after_something_was_saved_has_the_job_go_on(standins: Standins, work: Path) -> None:
    (standins.folder / "latest").write_text("stopped step-000010")
    ended = trained(standins, work, signal_when=running, WAITS="1", SAVES="step-000011")
    assert ended.code == 0, ended.log
    assert ended.log.endswith("stopped; requeued, to resume from what was saved\n")
    assert ended.requeued


def test_a_chain_that_gets_nowhere_takes_its_other_jobs_back(standins: Standins, work: Path) -> None:
    queue = f"8 singleton(unfulfilled) {work}\n9 (null) {work}\n10 singleton(unfulfilled) /elsewhere"
    given = {"signal_when": running, "WAITS": "1", "QUEUE": queue}
    ended = trained(standins, work, chain=3, **given)
    assert ended.code == 1, ended.log
    assert [words for _, words in ended.calls("scancel") if words[0].isdecimal()] == [["8"]]
    ended = trained(standins, work, chain=3, SAVES="step-000001", **given)
    assert ended.code == 0, ended.log
    assert ended.log.endswith("the next job of the chain goes on\n")
    assert not [words for _, words in ended.calls("scancel") if words[0].isdecimal()]


def test_pre_emption_is_no_fault_of_the_run(standins: Standins, work: Path) -> None:
    ended = trained(standins, work, signal_when=running, WAITS="1", PREEMPTED="2031-01-01T00:00:00")
    assert ended.requeued, ended.log


def test_a_signal_before_the_step_is_there_reaches_its_tasks(standins: Standins, work: Path) -> None:
    ended = trained(standins, work, signal_when=begun, WAITS="1", SAVES="step-000001", SLOW_STEP="1.5")
    assert ended.requeued, ended.log
    told = [words for _, words in ended.calls("scancel")]
    assert told[-2:] == [["--signal=TERM", "7.3"]] * 2  # the first was lost to tasks that had not begun
    assert all(len(words) == 2 for words in told)


def test_a_signal_before_the_ranks_start_spares_their_start(standins: Standins, work: Path) -> None:
    ended = trained(standins, work, signal_when=asked, SLOW_STATE="0.5")
    assert ended.code == 1, ended.log
    assert not begun(standins.folder)
    assert "no state was saved since the start" in ended.log


def test_a_signal_while_modules_are_loaded_is_kept(standins: Standins, work: Path) -> None:
    loads = "slurm.setup=['touch $STANDINS/asked; sleep 0.5']"
    ended = trained(standins, work, loads, signal_when=asked)
    assert ended.code == 1, ended.log
    assert not begun(standins.folder)
    assert "no state was saved since the start" in ended.log


def test_servers_of_another_job_are_waited_for_in_two_starts(standins: Standins, work: Path) -> None:
    given: dict[str, Any] = {"signal_when": asked, "SLOW_STATE": "0.5"}
    assert trained(standins, work, "slurm.servers_of=serve 7", **given).requeued
    ended = trained(standins, work, "slurm.servers_of=serve 7", SLURM_RESTART_COUNT="1", **given)
    assert ended.code == 1
    assert not ended.requeued
    assert "the servers in serve 7 were waited for" in ended.log


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_with_servers_beside_its_ranks(standins: Standins, work: Path, recipe: str) -> None:
    """As it is: one node, all of whose GPUs the step sees, a task for each rank; rank 0 has cores for its servers."""
    ranks, servers = RECIPES[recipe]
    venv = f"slurm.venv={standins.aspo(work / 'env')}"
    script = script_of(venv, config=ROOT / "examples" / recipe)
    lines = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")}
    assert {"nodes=1", f"ntasks-per-node={ranks}", f"gpus-per-node={ranks + servers}", "cpus-per-task=16"} <= lines
    ended = standins.run(script, work)
    assert ended.code == 0, ended.log
    [(options, words)] = [call for call in ended.calls("srun") if call[0]["job-name"] == "ranks"]
    assert (options["nodes"], options["ntasks"], options["cpu-bind"]) == ("1", str(ranks), "none")
    assert not [name for name in options if "gpu" in name]
    assert words[:2] == ["aspo", "train"]
    assert json.dumps(words).count("rollout.servers.addresses") == 0
