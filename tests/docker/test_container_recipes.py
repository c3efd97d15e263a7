"""The recipes of docker/: what a Dockerfile copies and calls is there, and every version is that of its one place."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from aspo_megatron.parallel.device.packages import engine_window

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "docker" / "install.sh"
SCRIPT = INSTALL.read_text(encoding="utf-8")
STEPS = re.findall(r"^step_([\w-]+)\(\)", SCRIPT, re.MULTILINE)
DOCKERFILES = {path.name: path for path in sorted((ROOT / "docker").glob("Dockerfile.*"))}
PYTHONS = {"debian:bookworm": "3.11", "ubuntu24.04": "3.12"}
PAGE = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")

every_file = pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])


def versions() -> dict[str, str]:
    lines = (ROOT / "docker" / "versions.env").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value.strip('"') for name, _, value in pairs}


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines)


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile and what stands behind it, in one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILES[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def image(name: str) -> list[tuple[str, str]]:
    """The instructions of the stage that is run, `aspo`."""
    found = instructions(name)
    (first,) = (number for number, pair in enumerate(found) if pair == ("FROM", "${BASE} AS aspo"))
    rest = found[first + 1 :]
    ends = [number for number, (instruction, _) in enumerate(rest) if instruction == "FROM"]
    return rest[: min(ends, default=len(rest))]


def words(name: str, instruction: str) -> Iterator[list[str]]:
    yield from (shlex.split(rest) for found, rest in instructions(name) if found == instruction)


def steps_of(name: str) -> list[str]:
    """The script's steps in the order in which a build calls them; all else that is run is named here."""
    found = []
    for line in words(name, "RUN"):
        for command in shlex.join(line).split(" '&&' "):
            program, *rest = shlex.split(command)
            if program in ("docker/install.sh", "/opt/aspo/docker/install.sh"):
                found += rest
            else:
                assert program in ("useradd", "mkdir", "chmod"), command
    return found


def test_there_is_a_recipe_for_cpus_and_one_for_gpus() -> None:
    assert list(DOCKERFILES) == ["Dockerfile.cpu", "Dockerfile.cuda"]


@every_file
def test_what_is_copied_is_there_and_reaches_the_build(name: str) -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [word for line in words(name, "COPY") if not line[0].startswith("--") for word in line[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source.partition('/')[0]}" in kept, source
    assert "*" in kept


@every_file
def test_every_step_that_is_run_exists(name: str) -> None:
    assert set(steps_of(name)) <= set(STEPS)


def test_every_step_has_a_use() -> None:
    assert set(STEPS) == {step for name in DOCKERFILES for step in steps_of(name)}


@every_file
def test_a_build_ends_with_the_doctor_of_the_user_that_runs_it(name: str) -> None:
    order = [(found, rest) for found, rest in image(name) if found in ("RUN", "USER")]
    assert order[-2] == ("USER", "aspo")
    assert order[-1] == ("RUN", "/opt/aspo/docker/install.sh doctor")


@every_file
def test_the_wheel_has_all_that_it_is_made_of(name: str) -> None:
    found = re.search(r"^sources=\((.*)\)$", SCRIPT, re.MULTILINE)
    assert found is not None
    sources = set(found[1].split())
    text = (ROOT / "tests" / "test_wheel.py").read_text(encoding="utf-8")
    tested = re.search(r"^SOURCES = \((.*)\)$", text, re.MULTILINE)
    assert tested is not None
    assert sources == set(re.findall(r'"([^"]+)"', tested[1]))
    there: set[str] = set()
    for instruction, rest in instructions(name):
        if instruction == "COPY":
            there |= set(rest.split()[:-1])
        if instruction == "RUN" and " project" in rest:
            assert sources <= there
            return
    pytest.fail("the wheel is not built")


@every_file
def test_versions_are_those_of_the_one_place(name: str) -> None:
    said = {line[0].partition("=")[0]: line[0].partition("=")[2] for line in words(name, "ARG")}
    there = versions()
    if name == "Dockerfile.cpu":
        assert said == {"BASE": there["CPU_IMAGE"], "TORCH_INDEX": there["CPU_TORCH_INDEX"]}
    else:
        assert said.pop("MAX_JOBS").isdecimal()
        assert said == {"BASE": there["CUDA_IMAGE"]}
    # No other version is in the recipe: no number with a dot, no `==`.
    text = DOCKERFILES[name].read_text(encoding="utf-8").replace(said["BASE"], "")
    assert re.findall(r"\d+\.\d+|==", text) == []
    assert {line[0] for line in words(name, "FROM")} <= {"${BASE}", "build", "aspo"}


def test_each_version_is_used_by_the_script_or_a_recipe() -> None:
    assert "$root/docker/versions.env" in SCRIPT
    for name in set(versions()) - {"CPU_IMAGE", "CUDA_IMAGE"}:
        assert f"${name}" in SCRIPT, name
    numbers = re.findall(r"==[\d.]+", SCRIPT)
    assert numbers == []


@pytest.mark.parametrize("key", ["CPU_IMAGE", "CUDA_IMAGE"])
def test_the_images_python_is_one_that_the_package_is_tried_with(key: str) -> None:
    (python,) = (number for part, number in PYTHONS.items() if part in versions()[key])
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    assert python in SpecifierSet(project["requires-python"])
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]


def test_the_gpu_image_has_the_cuda_of_torch() -> None:
    image = versions()["CUDA_IMAGE"]
    assert re.fullmatch(re.escape(f"nvidia/cuda:{versions()['TORCH_CUDA']}.") + r"\d+-cudnn-devel-ubuntu24\.04", image)
    torch = pins()["torch"]
    assert f"| torch | {torch}, without CUDA | {torch}, CUDA {versions()['TORCH_CUDA']} |" in PAGE


def test_transformer_engine_is_one_that_megatron_core_is_made_for() -> None:
    assert importlib.metadata.version("megatron-core") == pins()["megatron-core"]
    window = engine_window(importlib.metadata.requires("megatron-core") or ())
    assert Version(versions()["TRANSFORMER_ENGINE"]) in window
    (asked,) = re.findall(r'"(transformer_engine\[\S+==)\$TRANSFORMER_ENGINE"', SCRIPT)
    assert Requirement(asked + "1").extras == {"pytorch", f"core_cu{versions()['TORCH_CUDA'].partition('.')[0]}"}


def test_apex_is_nvidias_at_one_commit() -> None:
    assert versions()["APEX_SOURCE"] == "https://github.com/NVIDIA/apex.git"
    assert re.fullmatch(r"[0-9a-f]{40}", versions()["APEX_COMMIT"])
    assert not re.search(r"pip install.*\bapex\b", SCRIPT)


def test_servers_are_of_the_version_that_is_tested_without_gpus() -> None:
    folder = ROOT / "tools" / "sglang_cpu"
    script = (folder / "install.sh").read_text(encoding="utf-8")
    assert re.findall(r"\bsglang==(\S+)", script) == [versions()["SGLANG"]]
    wanted = f"torch=={pins()['torch']}"
    assert re.findall(r"(?<![\w-])torch==[\d.]+", script) == [wanted]
    assert wanted in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    # How the trainer gets the servers' NCCL is said once more on the page about servers.
    page = (ROOT / "docs" / "sglang.md").read_text(encoding="utf-8")
    line = """'import torch.cuda.nccl as n; print(*n.version(), sep=".")'"""
    assert line in SCRIPT
    assert line in page


def test_the_page_has_every_version() -> None:
    there = versions()
    rows = [("image", there["CPU_IMAGE"]), ("image", there["CUDA_IMAGE"]), ("megatron-core", pins()["megatron-core"])]
    rows += [("Transformer Engine", there["TRANSFORMER_ENGINE"]), ("SGLang", there["SGLANG"])]
    rows += [("Apex", there["APEX_COMMIT"][:9]), ("transformers", pins()["transformers"])]
    for what, version in rows:
        assert re.search(rf"^\| {re.escape(what)} \|.*{re.escape(version)}", PAGE, re.MULTILINE), (what, version)


def test_the_extras_are_there() -> None:
    found = re.search(r"^extras=(\S+)$", SCRIPT, re.MULTILINE)
    assert found is not None
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    assert set(found[1].split(",")) <= set(project["optional-dependencies"])


@every_file
def test_the_image_is_no_roots_and_knows_its_folders(name: str) -> None:
    last = dict(image(name))
    assert instructions(name)[-1] in (("FROM", "aspo"), ("CMD", last["CMD"]))  # what is built without --target
    assert (last["USER"], last["WORKDIR"]) == ("aspo", "/workspace")
    assert last["ENTRYPOINT"] == '["/usr/bin/tini", "--"]'
    assert last["CMD"] == '["aspo", "doctor"]'
    assert "tini" in SCRIPT
    env = dict(pair.split("=", 1) for pair in last["ENV"].split())
    assert env["PATH"].startswith("/opt/aspo/.venv/bin:")
    assert env["HF_HOME"] == "/cache/huggingface"
    assert {"HOME", "USER", "LOGNAME", "TMPDIR"} <= set(env)
    made = next(rest for found, rest in image(name) if found == "RUN" and "useradd" in rest)
    assert f"mkdir --mode=1777 --parents /workspace {env['HF_HOME']} " in made
    assert f"chmod 1777 {env['HOME']} " in made


def run(*asked: str, **given: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", **given}
    return subprocess.run([str(INSTALL), *asked], env=env, capture_output=True, text=True, check=False)


def test_the_script_is_valid_and_teaches() -> None:
    assert subprocess.run(["bash", "-n", INSTALL], check=False).returncode == 0
    linter = shutil.which("shellcheck")
    if linter is not None:
        done = subprocess.run([linter, "-x", INSTALL], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    told = run("--help")
    assert told.returncode == 0
    assert "docker/install.sh --python python3.11 --into FOLDER venv torch-cpu" in told.stdout
    assert run().returncode == 2


def test_a_step_that_is_not_there_is_refused_before_any_is_run(tmp_path: Path) -> None:
    done = run("--into", str(tmp_path / "x"), "venv", "nothing")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("docker/install.sh: no step nothing; there are: ")
    assert set(line.partition("there are: ")[2].split()) == set(STEPS)
    assert not (tmp_path / "x").exists()


STAND_IN = """#!/bin/bash
if [ "$1 $2" = "-m pip" ]; then
  shift 2
  echo "$@" >> {log}
  for word; do [ "$before" != --requirement ] || cat "$word" >> {log}; before=$word; done
  exit 0
fi
PYTHONPATH={modules} exec {python} "$@"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder whose environments have a Python that writes down what pip is asked, and a torch with CUDA 12.8."""
    modules = tmp_path / "modules"
    (modules / "torch" / "cuda").mkdir(parents=True)
    (modules / "torch" / "__init__.py").write_text("from . import version")
    (modules / "torch" / "version.py").write_text("cuda = '12.8'")
    (modules / "torch" / "cuda" / "__init__.py").write_text("")
    (modules / "torch" / "cuda" / "nccl.py").write_text("def version(): return 2, 99, 1")
    for name in (".venv", ".venv-sglang"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN.format(log=tmp_path / "log", modules=modules, python=sys.executable))
        python.chmod(0o755)
    return tmp_path


def asked(place: Path, *steps: str, code: int = 0, **given: str) -> tuple[list[str], str]:
    """What pip was asked for, and the last line that was said."""
    done = run("--into", str(place), *steps, **given)
    assert done.returncode == code, done.stderr
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return (place / "log").read_text(encoding="utf-8").splitlines(), lines[-1]


def test_a_torch_of_another_cuda_is_refused(place: Path) -> None:
    pip, line = asked(place, "torch", code=1)
    assert pip == [f"--disable-pip-version-check --no-cache-dir install --quiet torch=={pins()['torch']}"]
    assert line == f"torch is built with CUDA 12.8, and docker/versions.env says TORCH_CUDA={versions()['TORCH_CUDA']}"


@pytest.mark.parametrize("index", [None, ""], ids=["PyTorch's", "pip's"])
def test_the_cpu_image_has_a_torch_without_cuda(place: Path, index: str | None) -> None:
    pip, line = asked(place, "torch-cpu", code=1, **({} if index is None else {"TORCH_INDEX": index}))
    assert line == "this is a torch with CUDA: set TORCH_INDEX"
    first = f"install --quiet --no-deps --index-url {versions()['CPU_TORCH_INDEX']} torch=={pins()['torch']}"
    assert len(pip) == (2 if index is None else 1)
    assert pip[0].endswith(first) == (index is None)


def test_requirements_are_the_projects_at_the_pinned_versions(place: Path) -> None:
    (line, *names), _ = asked(place, "requirements")
    assert f"--constraint {ROOT}/requirements.txt --requirement " in line
    declared = {Requirement(name).name for name in names}
    assert {"torch", "megatron-core", "datasets", "wandb", "nvidia-modelopt", "sortedcontainers"} <= declared
    assert not declared & {"pytest", "mkdocs", "ruff"}


def test_the_trainer_takes_the_servers_nccl(place: Path) -> None:
    pip, _ = asked(place, "nccl")
    assert pip[-1].endswith("install --quiet --no-deps nvidia-nccl-cu13==2.99.1")


def test_transformer_engine_is_built_against_the_torch_that_is_there(place: Path) -> None:
    pip, _ = asked(place, "transformer-engine")
    assert "--no-build-isolation" in pip[0]
    assert f"transformer_engine[core_cu13,pytorch]=={versions()['TRANSFORMER_ENGINE']}" in pip[0]
