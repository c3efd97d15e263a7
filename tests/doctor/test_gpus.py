"""GPUs, their driver, and the torch that is to use them, on machines with all kinds of trouble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.doctor.host import Answer, Torch
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.models.family import read_family
from doctor.machines import (
    CPU_TORCH,
    CUDA_TORCH,
    HANGS,
    NOT_FOUND,
    UUID,
    Imitated,
    eight_gpus,
    gpu_row,
    lines_of,
    marked,
    nvidia_smi,
    requirements_of,
    torch_sees,
    versions_of_driver,
    without_gpus,
)

ROOT = Path(__file__).parents[2]
OLD_DRIVER = versions_of_driver("550.54.15", "12.4")
TOO_OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12040)."


def old(**torch: Any) -> Imitated:
    """Eight GPUs whose driver supports CUDA 12.4."""
    rows = [gpu_row(number, driver="550.54.15") for number in range(8)]
    return Imitated(
        nvidia_smi(rows, driver=OLD_DRIVER) | torch_sees(8, available=False, said=TOO_OLD),
        torch=replace(CUDA_TORCH, **torch),
    )


def test_a_node_that_has_everything_has_nothing_wrong() -> None:
    lines = lines_of(Imitated(eight_gpus()))
    assert marked(lines, "warn", "wrong", "unknown") == []
    assert lines["GPUs"].found == "8 x NVIDIA H100 80GB HBM3, 79.6 GiB each, driver 580.95.05"
    assert lines["torch and driver"].found == "2.13.0+cu130, for CUDA 13.0; the driver supports CUDA 13.0"
    assert lines["peers"].mark == "ok"
    assert lines["links"].found == "between GPUs: NV18"
    assert lines["GPUs for the run"].found == "torch sees 8, 1 rank"
    assert "transformer engine" in lines["model.kernels"].found


def test_a_machine_without_gpus_is_well_and_asks_torch_nothing() -> None:
    host = without_gpus()
    lines = lines_of(host)
    assert marked(lines, "warn", "wrong", "unknown") == []
    assert lines["nvidia-smi"].found == "no NVIDIA GPU or driver here"
    assert not any(command.startswith("PYTHON") for command in host.asked)


def test_a_driver_older_than_torchs_cuda_is_wrong() -> None:
    line = lines_of(old())["torch and driver"]
    assert line.mark == "wrong"
    assert "for CUDA 13.0; the driver supports CUDA 12.4" in line.found
    assert (
        "pip install --force-reinstall 'torch==2.13.0' --index-url https://download.pytorch.org/whl/cu126" in line.todo
    )


def test_a_driver_made_compatible_is_believed_to_torch() -> None:
    host = Imitated(eight_gpus() | {"nvidia-smi --version": Answer(0, OLD_DRIVER)})
    assert lines_of(host)["torch and driver"].mark == "ok"


def test_a_driver_older_by_a_minor_version_is_a_warning() -> None:
    host = Imitated(
        eight_gpus() | {"nvidia-smi --version": Answer(0, OLD_DRIVER)}, torch=replace(CUDA_TORCH, cuda="12.6")
    )
    assert lines_of(host)["torch and driver"].mark == "warn"


@pytest.mark.parametrize(
    ("said", "table"),
    [
        ("NVIDIA-SMI version  : 610.88\nDRIVER version      : Deprecated\nCUDA UMD version    : 13.3\n", ""),
        (
            "Invalid combination of input arguments.\n",
            "| NVIDIA-SMI 470.57.02  Driver Version: 470.57.02  CUDA Version: 13.3 |",
        ),
    ],
)
def test_what_the_driver_supports_is_found_in_all_forms(said: str, table: str) -> None:
    answers = eight_gpus() | {"nvidia-smi --version": Answer(0, said), "nvidia-smi": Answer(0, table)}
    assert "the driver supports CUDA 13.3" in lines_of(Imitated(answers))["torch and driver"].found


def test_a_cpu_build_beside_gpus_is_wrong_unless_the_run_is_for_cpus() -> None:
    host = Imitated(eight_gpus(), torch=CPU_TORCH)
    line = lines_of(host)["torch's build"]
    assert line.mark == "wrong"
    assert line.todo == "pip install --force-reinstall 'torch==2.13.0'"
    assert lines_of(host, requirements_of("platform.device=cpu", host=host))["torch's build"].mark == "warn"


@pytest.mark.parametrize(
    ("capability", "mark"),
    [("7.0", "wrong"), ("7.5", "ok"), ("8.9", "ok"), ("10.3", "ok"), ("11.0", "wrong"), ("12.1", "ok")],
)
def test_torch_has_kernels_for_a_generation_or_not(capability: str, mark: str) -> None:
    answers = nvidia_smi([gpu_row(0, capability=capability)]) | torch_sees(1)
    line = lines_of(Imitated(answers))["torch's kernels"]
    assert line.mark == mark
    assert f"compute capability {capability}" in line.found


def test_kernels_for_one_chip_alone_and_those_that_the_driver_compiles() -> None:
    hopper = nvidia_smi([gpu_row(0)]) | torch_sees(1)
    only = replace(CUDA_TORCH, architectures=("sm_90a",))
    assert lines_of(Imitated(hopper, torch=only))["torch's kernels"].mark == "ok"
    ada = nvidia_smi([gpu_row(0, capability="8.9")]) | torch_sees(1)
    assert lines_of(Imitated(ada, torch=only))["torch's kernels"].mark == "wrong"
    blackwell = nvidia_smi([gpu_row(0, capability="10.3")]) | torch_sees(1)
    for built, mark in (("sm_90a", "wrong"), ("sm_100a", "wrong"), ("sm_100f", "ok"), ("sm_103a", "ok")):
        torch = replace(CUDA_TORCH, architectures=(built,))
        assert lines_of(Imitated(blackwell, torch=torch))["torch's kernels"].mark == mark, built
    portable = replace(CUDA_TORCH, architectures=("compute_80",))
    assert lines_of(Imitated(hopper, torch=portable))["torch's kernels"].mark == "ok"


def test_a_driver_that_does_not_know_a_field_is_asked_without_it() -> None:
    row = ", ".join(part for index, part in enumerate(gpu_row(0, name="Tesla V100").split(", ")) if index != 6)

    class Old(Imitated):
        def run(self, command: Sequence[str], seconds: float) -> Answer:
            if "compute_cap" in " ".join(command):
                return Answer(2, 'Field "compute_cap" is not a valid field to query.\n')
            return super().run(command, seconds)

    lines = lines_of(Old(nvidia_smi([row]) | torch_sees(1)))
    assert lines["GPUs"].mark == "ok"
    assert lines["GPUs"].found.startswith("1 x Tesla V100")


@pytest.mark.parametrize(
    ("answer", "mark", "found"),
    [
        (HANGS, "wrong", "no answer within 15 s: the driver hangs"),
        (Answer(0, "\x00\x01 garbage\n<html>"), "wrong", "what it prints is not understood: "),
        (Answer(18, "Failed to initialize NVML: Driver/library version mismatch\n"), "wrong", "version mismatch"),
        (
            Answer(255, "", "Unable to determine the device handle for GPU0000:5E:00.0: Unknown Error\n"),
            "wrong",
            "Unknown Error",
        ),
        (NOT_FOUND, "warn", "not found, although NVIDIA's driver is loaded"),
        (Answer(0, ""), "wrong", "it lists no GPU"),
    ],
)
def test_an_nvidia_smi_that_does_not_work_beside_a_loaded_driver(answer: Answer, mark: str, found: str) -> None:
    lines = lines_of(Imitated({"nvidia-smi": answer} | torch_sees(0, available=False)))
    assert lines["nvidia-smi"].mark == mark
    assert found in lines["nvidia-smi"].found


@pytest.mark.parametrize("answer", [HANGS, Answer(9, "NVIDIA-SMI has failed because it couldn't communicate\n")])
def test_an_nvidia_smi_that_does_not_work_without_a_driver_stops_nothing(answer: Answer) -> None:
    lines = lines_of(without_gpus(answers={"nvidia-smi": answer}))
    assert lines["nvidia-smi"].mark == "warn"
    assert marked(lines, "wrong") == []


def test_a_torch_that_crashes_on_the_gpus_is_wrong() -> None:
    crash = {"PYTHON -c \nimport json, warnings, torch": Answer(-11)}
    line = lines_of(Imitated(nvidia_smi([gpu_row(0)]) | crash))["torch and driver"]
    assert line.mark == "wrong"
    assert "exit code -11" in line.found


def test_values_that_are_not_told_are_no_values() -> None:
    row = gpu_row(0, name="NVIDIA GB10", memory="[N/A]", used="[N/A]", mig="[N/A]", errors="[N/A]", capability="12.1")
    lines = lines_of(Imitated(nvidia_smi([row]) | torch_sees(1)))
    assert lines["GPUs"].found == "1 x NVIDIA GB10, driver 580.95.05"
    assert not {"MIG", "memory errors", "persistence"} & set(lines)


def test_mig_errors_and_persistence_are_warned_of() -> None:
    lines = lines_of(Imitated(eight_gpus(mig="Enabled", persistence="Disabled", errors=3)))
    assert [lines[what].mark for what in ("MIG", "memory errors", "persistence")] == ["warn"] * 3
    assert lines["MIG"].todo.startswith("sudo nvidia-smi -i 0,1,2,3,4,5,6,7 -mig 0")
    assert "3 on GPU 0" in lines["memory errors"].found


def test_memory_of_other_programs_is_named_with_them() -> None:
    rows = [gpu_row(0, used=40960), gpu_row(1)]
    apps = Answer(0, f"{UUID}0, 4711, /usr/bin/python3, 40950\n{UUID}1, 1, x, 2\n")
    line = lines_of(Imitated(nvidia_smi(rows) | torch_sees(2) | {"nvidia-smi --query-compute-apps=": apps}))
    assert line["memory in use"].mark == "warn"
    assert line["memory in use"].found == "GPU 0: 40.0 GiB held by python3 (pid 4711)"


def test_gpus_that_are_no_peers_are_warned_of_and_so_is_pcie_under_tensor_parallelism() -> None:
    rows = [gpu_row(0), gpu_row(1)]
    host = Imitated(nvidia_smi(rows, p2p="CNS", link="PHB") | torch_sees(2))
    lines = lines_of(host, requirements_of("parallel.tp=2", host=host, config=True))
    assert "1 of 1 pairs cannot read each other's memory, such as GPU 0 and 1 (CNS)" in lines["peers"].found
    assert (lines["peers"].mark, lines["links"].mark) == ("warn", "warn")
    assert lines_of(host)["links"].mark == "ok"


@pytest.mark.parametrize(
    ("overrides", "mark"),
    [
        (("parallel.dp=4", "rollout.servers.count=4"), "ok"),
        (("parallel.dp=4", "rollout.servers.count=5"), "wrong"),
        (("parallel.dp=8", "rollout.servers.count=4"), "wrong"),
        (("parallel.dp=8", "rollout.servers.count=4", "rollout.servers.colocate=true"), "ok"),
        (("parallel.dp=8", "rollout.servers.addresses=[http://n:1]"), "ok"),
    ],
)
def test_ranks_and_servers_have_a_gpu_each_or_not(overrides: tuple[str, ...], mark: str) -> None:
    host = Imitated(eight_gpus())
    needs = requirements_of("rollout.engine=sglang", *overrides, host=host, config=True)
    assert lines_of(host, needs)["GPUs for the run"].mark == mark


def test_a_run_that_insists_on_gpus_is_told_that_there_are_none() -> None:
    host = without_gpus()
    assert lines_of(host, requirements_of("platform.device=cuda", host=host))["GPUs for the run"].mark == "wrong"


def test_hidden_gpus_are_said_by_the_variable_that_hides_them() -> None:
    host = Imitated(eight_gpus() | torch_sees(0, available=False), env={"CUDA_VISIBLE_DEVICES": ""})
    lines = lines_of(host)
    assert lines["CUDA_VISIBLE_DEVICES"].mark == "wrong"
    assert lines["torch and driver"].mark == "wrong"
    host = Imitated(eight_gpus() | torch_sees(0, available=False), env={"CUDA_VISIBLE_DEVICES": "9"})
    assert lines_of(host)["torch and driver"].found.endswith("torch sees no GPU; CUDA_VISIBLE_DEVICES=9 may hide them")
    host.env = {}
    assert lines_of(host)["torch and driver"].found.endswith("torch sees no GPU")


def test_gpu_memory_is_held_against_what_is_always_there() -> None:
    host = Imitated(eight_gpus())
    needs = requirements_of("model.dtype=bfloat16", host=host, config=True)
    family = read_family(ROOT / "examples" / "qwen3_8b" / "model")
    line = lines_of(host, replace(needs, family=family))["GPU memory"]
    assert line.mark == "wrong"  # 18 bytes for each of 8.2 billion parameters
    assert "weights, gradients and optimizer take 137" in line.found
    split = replace(requirements_of("model.dtype=bfloat16", "parallel.tp=8", host=host, config=True), family=family)
    assert lines_of(host, split)["GPU memory"].mark == "ok"


def small_and_large() -> dict[str, Answer]:
    """A display card that torch has no kernels for beside an H100, which alone is shown to torch."""
    display = gpu_row(0, name="Quadro K620", memory=2000, used=1900, capability="5.0", persistence="Disabled")
    return nvidia_smi([display, gpu_row(1)]) | torch_sees(1, memory=[(f"{UUID}1".removeprefix("GPU-"), 80 << 30)])


def test_gpus_that_are_hidden_from_torch_are_not_looked_at() -> None:
    host = Imitated(small_and_large(), env={"CUDA_VISIBLE_DEVICES": "0"})
    lines = lines_of(host, of_30_gib("model.dtype=bfloat16", host=host))
    assert lines["GPUs"].found == "1 x NVIDIA H100 80GB HBM3, 79.6 GiB each, driver 580.95.05"
    assert lines["torch's kernels"].found == "for NVIDIA H100 80GB HBM3, compute capability 9.0"
    assert lines["GPU memory"].mark == lines["memory in use"].mark == lines["model.kernels"].mark == "ok"
    assert marked(lines, "wrong") == ["model.path", "data.train.path"]
    assert "persistence" not in lines


def test_a_slice_has_the_memory_that_torch_says() -> None:
    slices = torch_sees(1, memory=[("b0c1d2e3-0000-5000-8000-000000000000", 10 << 30)])
    host = Imitated(nvidia_smi([gpu_row(0, mig="Enabled")]) | slices)
    lines = lines_of(host, of_30_gib("model.dtype=bfloat16", host=host))
    assert lines["GPU memory"].mark == "wrong"
    assert lines["GPU memory"].found.startswith("10.0 GiB; ")
    assert lines["MIG"].mark == "warn"


def of_30_gib(*overrides: str, host: Imitated) -> Requirements:
    """A run with a model that takes some 30 GiB with its gradients and optimizer."""
    family = read_family(ROOT / "examples" / "deepseek_r1_distill_qwen_1_5b" / "model")
    return replace(requirements_of(*overrides, host=host, config=True), family=family)


def test_gpus_that_are_well_are_listed_beside_one_that_is_not() -> None:
    rows = "".join(f"{gpu_row(number)}\n" for number in range(7))
    for code, said in (
        (14, "WARNING: infoROM is corrupted at gpu 0000:04:00.0"),
        (15, "Unable to determine the device handle for GPU 0000:81:00.0: GPU is lost. Reboot the system"),
    ):
        answers = eight_gpus() | {"nvidia-smi --query-gpu=": Answer(code, f"{rows}{said}\n")} | torch_sees(7)
        lines = lines_of(Imitated(answers))
        assert lines["GPUs"].found.startswith("7 x NVIDIA H100")
        assert (lines["nvidia-smi"].mark, lines["nvidia-smi"].found) == ("warn", said)
        assert marked(lines, "wrong") == []


def test_all_that_nvidia_smi_complains_of_is_said() -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.183\n"
    line = lines_of(Imitated({"nvidia-smi": Answer(18, said)} | torch_sees(0, available=False)))["nvidia-smi"]
    assert "version mismatch NVML library version: 535.183" in line.found


@pytest.mark.parametrize("torch", [CPU_TORCH, CUDA_TORCH])
def test_a_container_without_gpus_on_a_machine_with_them_computes_on_cpus(torch: Torch) -> None:
    host = Imitated({}, torch=torch)
    del host._files["/dev/nvidiactl"]
    lines = lines_of(host)
    assert marked(lines, "wrong") == []
    assert lines["nvidia-smi"].found.endswith("no GPU is visible to this container")
    assert "docker --gpus all" in lines["nvidia-smi"].todo
    assert lines_of(host, requirements_of("platform.device=cuda", host=host))["GPUs for the run"].mark == "wrong"


def test_a_job_that_asked_for_no_gpus_computes_on_cpus() -> None:
    none = {"nvidia-smi": Answer(6, "No devices were found\n")} | torch_sees(0, available=False)
    lines = lines_of(Imitated(none, env={"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "OMP_NUM_THREADS": "1"}))
    assert marked(lines, "wrong") == []
    assert "Slurm --gpus-per-node=N" in lines["nvidia-smi"].todo
    assert lines_of(Imitated(none))["nvidia-smi"].mark == "wrong"


@pytest.mark.parametrize(
    ("answers", "torch", "env"),
    [
        ({"nvidia-smi": HANGS} | torch_sees(0, available=False), CUDA_TORCH, {}),
        ({"nvidia-smi": Answer(18, "Failed to initialize NVML")} | torch_sees(0, available=False), CUDA_TORCH, {}),
        (eight_gpus() | torch_sees(0, available=False), CUDA_TORCH, {"CUDA_VISIBLE_DEVICES": ""}),
        (eight_gpus() | torch_sees(0, available=False, said=TOO_OLD), CUDA_TORCH, {}),
        (eight_gpus() | {"PYTHON -c \nimport json, warnings, torch": Answer(-11)}, CUDA_TORCH, {}),
        (eight_gpus(capability="7.0"), CUDA_TORCH, {}),
        (eight_gpus(), replace(CUDA_TORCH, nccl=None), {}),
        (eight_gpus() | {"PYTHON -c import transformer_engine": Answer(1, "", "undefined symbol")}, CUDA_TORCH, {}),
    ],
)
def test_a_run_for_cpus_is_not_stopped_by_gpus(answers: dict[str, Answer], torch: Torch, env: dict[str, str]) -> None:
    host = Imitated(answers, torch=torch, env=env)
    lines = lines_of(host, requirements_of("platform.device=cpu", host=host))
    assert marked(lines, "wrong") == []
    assert lines["Transformer Engine"].mark == "unneeded"
    assert marked(lines_of(host), "wrong") != []
