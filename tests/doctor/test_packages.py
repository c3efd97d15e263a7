"""Packages in and out of their windows; Transformer Engine, Apex, Triton."""

from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.version import Version

from aspo_megatron.doctor.host import Answer, Torch
from doctor.machines import (
    ENGINE,
    NO_PACKAGES,
    Imitated,
    eight_gpus,
    lines_of,
    marked,
    requirements_of,
    torch_sees,
    without_gpus,
)


def test_a_package_outside_of_its_window_is_wrong_with_the_line_that_mends_it() -> None:
    lines = lines_of(without_gpus(versions={"torch": "2.9.1", "transformers": ""}))
    assert lines["torch"].mark == lines["transformers"].mark == "wrong"
    assert "2.9.1 is installed" in lines["torch"].found
    assert lines["torch"].todo.startswith("pip install 'torch")
    assert "is not installed" in lines["transformers"].found


def test_other_requirements_are_looked_at_too() -> None:
    host = without_gpus(requires=("numpy", "pydantic>=2.10", "xxhash"), versions={"pydantic": "2.5"})
    lines = lines_of(host)
    assert lines["pydantic"].found == "2.5, but >=2.10 is required"
    assert lines["xxhash"].todo == "pip install 'xxhash'"
    assert lines_of(without_gpus())["other packages"].mark == "ok"


def test_an_extra_is_needed_where_the_run_asks_for_it() -> None:
    host = without_gpus(requires=("numpy", 'datasets; extra == "datasets"', 'wandb; extra == "wandb"'))
    assert "datasets" not in lines_of(host)
    lines = lines_of(host, requirements_of("data.train.kind=huggingface", "log.wandb=online", host=host))
    assert lines["datasets"].found == "is not installed (data.train.kind=huggingface)"
    assert lines["wandb"].mark == "wrong"


def test_a_torch_that_cannot_be_imported_is_one_line_and_stops_no_other_check() -> None:
    problem = "ImportError: libcudnn.so.9: cannot open shared object file"
    host = without_gpus(torch=Torch(problem=problem), env={"LD_LIBRARY_PATH": "/opt/cuda/lib64"})
    lines = lines_of(host)
    assert lines["import torch"].found == problem
    assert "LD_LIBRARY_PATH unset" in lines["import torch"].todo
    assert marked(lines, "wrong", "unknown") == ["import torch"]


def test_an_engine_outside_of_megatrons_window_is_a_warning_and_refused_where_it_is_asked_for() -> None:
    packages = replace(ENGINE, transformer_engine=Version("2.14.0"))
    host = Imitated(eight_gpus(), packages=packages)
    line = lines_of(host)["Transformer Engine"]
    assert line.mark == "warn"
    assert "2.14.0 is installed, and this megatron-core is made for <2.12.0,>=2.9.0a0" in line.found
    assert line.todo.startswith("pip install --no-build-isolation 'transformer_engine[pytorch]<2.12.0,>=2.9.0a0'")
    lines = lines_of(host, requirements_of("model.kernels.layers=transformer_engine", host=host))
    assert lines["model.kernels"].mark == "wrong"
    assert lines["model.kernels"].found.startswith("model.kernels.layers=transformer_engine: Transformer Engine 2.14.0")


def test_an_engine_built_for_another_torch_is_wrong() -> None:
    said = "ImportError: transformer_engine_torch.so: undefined symbol: _ZN3c105ErrorC2E"
    host = Imitated(eight_gpus() | {"PYTHON -c import transformer_engine": Answer(1, "", f"Traceback\n{said}\n")})
    line = lines_of(host)["Transformer Engine"]
    assert line.mark == "wrong"
    assert said in line.found
    assert "'transformer_engine_torch==2.11.0'" in line.todo
    lines = lines_of(host, requirements_of("model.kernels.layers=local", host=host))
    assert lines["Transformer Engine"].mark == "unneeded"


def test_an_engine_that_is_slow_to_import_is_not_known() -> None:
    slow = {"PYTHON -c import transformer_engine": Answer(None, problem="no answer within 60 s")}
    line = lines_of(Imitated(eight_gpus() | slow))["Transformer Engine"]
    assert (line.mark, line.found.rpartition(": ")[2]) == ("unknown", "no answer within 60 s")


def test_the_other_apex_is_recognised_and_nvidias_found() -> None:
    host = Imitated(eight_gpus(), packages=replace(ENGINE, other_apex=True))
    assert lines_of(host)["Apex"].mark == "warn"
    assert lines_of(host)["Apex"].todo.startswith("pip uninstall apex")
    host = Imitated(eight_gpus(), packages=replace(NO_PACKAGES, apex=True, apex_gradient_kernels=True))
    assert lines_of(host)["Apex"].found == "NVIDIA's, with its kernels for gradients"
    assert lines_of(host)["Adam"].found == "of Apex"


def test_a_gpu_without_triton_or_engine_is_slower() -> None:
    lines = lines_of(Imitated(eight_gpus(), packages=NO_PACKAGES))
    assert marked(lines, "warn") == ["Transformer Engine", "Triton"]
    assert "megatron-core's own layers" in lines["model.kernels"].found


@pytest.mark.parametrize(("overrides", "found"), [((), "float32"), (("model.dtype=bfloat16",), None)])
def test_fp32_on_a_gpu_is_advised_against(overrides: tuple[str, ...], found: str | None) -> None:
    host = Imitated(eight_gpus())
    line = lines_of(host, requirements_of(*overrides, host=host, config=True)).get("model.dtype")
    assert (line and line.mark) == (found and "warn")
    assert line is None or "Set model.dtype=bfloat16" in line.todo


def test_a_log_prob_by_triton_is_refused_without_it() -> None:
    host = without_gpus()
    assert lines_of(host)["Triton"].mark == "unneeded"
    lines = lines_of(host, requirements_of("model.kernels.log_prob=triton", host=host))
    assert "log_prob=triton: needs Triton" in lines["model.kernels"].found
    lines = lines_of(without_gpus(packages=replace(NO_PACKAGES, triton=True)))
    assert lines["Triton"].found.startswith("found; on a CPU")


def test_gpus_that_torch_does_not_see_have_their_packages_looked_at_all_the_same() -> None:
    host = Imitated(eight_gpus() | torch_sees(0, available=False))
    lines = lines_of(host)
    assert lines["Transformer Engine"].found.endswith("it can be loaded only where torch sees a GPU")
    assert lines["Triton"].mark == "ok"
    assert not any("import transformer_engine" in command for command in host.asked)
