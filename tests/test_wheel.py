"""A release: the wheel that is built of its sdist has all that runs need, and every command works from it.

Built once, of the files that a checkout has, and installed in an environment of its own, which borrows the packages of
this one but not this checkout.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import aspo_megatron
from aspo_megatron.cli.app import app

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "aspo_megatron", "slurm", "examples")
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.egg-info")

BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"

IN_ONE_PROCESS = """
import json, pathlib, sys
from typer.testing import CliRunner
import aspo_megatron
from aspo_megatron.cli.app import app
from aspo_megatron.models.tiny import tiny_run
runs = [CliRunner().invoke(app, words) for words in json.loads(sys.argv[1])]
tiny, _ = tiny_run(pathlib.Path("qwen3_8b/run.yaml"))
with open("told.json", "w") as file:
    json.dump({
        "package": aspo_megatron.__file__,
        "runs": [[run.exit_code, run.output] for run in runs],
        "tiny": sorted(path.name for path in tiny.model.path.iterdir()),
    }, file)
"""


@dataclass(frozen=True)
class Release:
    """The wheel, the environment that it is installed in, and an empty folder that is neither's."""

    wheel: Path
    environment: Path
    folder: Path

    def names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as content:
            return {name for name in content.namelist() if not name.endswith("/")}

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as content:
            (name,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
            return Parser().parsestr(content.read(name).decode())

    def run(self, program: str, *words: str) -> str:
        return run(self.environment / "bin" / program, *words, folder=self.folder)


def run(*words: str | Path, folder: Path) -> str:
    """stdout of a command that ends well, in an environment that does not name this checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, words)), cwd=folder, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, place: Path) -> Path:
    run(sys.executable, "-c", BUILD.format(kind), place, folder=source)
    (built,) = place.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    place = tmp_path_factory.mktemp("release")
    source, environment, folder = place / "source", place / "environment", place / "folder"
    folder.mkdir()
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=LEFT_BEHIND)
        else:
            shutil.copy(ROOT / name, source / name)
    with tarfile.open(build("sdist", source, place)) as content:
        content.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    wheel = build("wheel", unpacked, place)
    shutil.rmtree(source)
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--isolated", "--python", python, "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", wheel, folder=folder)
    # Python does not read the .pth files of a folder that one names, so that this checkout's does not count. After pip,
    # which would find this checkout's metadata there, and be done.
    (packages,) = environment.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    return Release(wheel, environment, folder)


def kept(folder: Path) -> Iterator[Path]:
    """Files of a folder of the repository, behind links too, relative to it."""
    for top, _, names in os.walk(folder, followlinks=True):
        if not top.endswith("__pycache__"):
            yield from ((Path(top) / name).relative_to(folder) for name in names)


def test_the_wheel_has_the_package_the_recipes_and_the_batch_scripts(release: Release) -> None:
    wanted = {f"recipes/examples/{file}" for file in kept(ROOT / "examples")}
    wanted |= {f"recipes/slurm/{file}" for file in kept(ROOT / "slurm")}
    package = Path(aspo_megatron.__file__).parent
    wanted |= {str(path.relative_to(package)) for path in package.rglob("*.py") if "__pycache__" not in path.parts}
    found = {name for name in release.names() if ".dist-info/" not in name}
    assert found == {f"aspo_megatron/{name}" for name in {*wanted, "py.typed"}}


def test_the_metadata_is_that_of_a_release(release: Release) -> None:
    metadata = release.metadata()
    assert metadata["Version"] == aspo_megatron.__version__
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    assert {"Typing :: Typed", "Intended Audience :: Science/Research"} <= set(metadata.get_all("Classifier", []))
    assert metadata["Keywords"]


def declared(release: Release) -> dict[str, Requirement]:
    found = [Requirement(text) for text in release.metadata().get_all("Requires-Dist", [])]
    return {canonicalize_name(each.name): each for each in found}


def imported() -> Iterator[tuple[str, bool, str]]:
    """Names of packages that modules import, whether as they are imported themselves, and the module."""

    def below(node: ast.AST, first: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((each.name, first) for each in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                yield child.module, first
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try | ast.If)
            yield from below(child, first and not lazy)

    package = Path(aspo_megatron.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for name, first in below(ast.parse(path.read_text(encoding="utf-8")), True):
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "aspo_megatron":
                yield top, first, str(path.relative_to(package))


OF_KERNELS = {
    "parallel/device/triton_merge.py",
    "parallel/device/triton_rotary.py",
    "parallel/log_prob/triton_kernels.py",
}
"""Modules that import Triton, which PyTorch brings where there is a GPU. They are imported as a kernel runs."""


def test_modules_of_kernels_are_imported_by_none() -> None:
    names = {path.removesuffix(".py").rpartition("/")[2] for path in OF_KERNELS}
    for path in Path(aspo_megatron.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = f"{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            if isinstance(node, ast.Import | ast.ImportFrom):
                parts = {part for each in node.names for part in f"{module}{each.name}".split(".")}
                assert not parts & names, path


def test_what_the_package_imports_is_declared_and_installed(release: Release) -> None:
    requirements = declared(release)
    for name, requirement in requirements.items():
        if requirement.marker is None:
            assert version(name) in requirement.specifier, requirement
    of_module = {top: {canonicalize_name(name) for name in names} for top, names in packages_distributions().items()}
    for top, first, path in imported():
        found = [requirements[name] for name in of_module.get(top, ()) if name in requirements]
        assert found, f"{path} imports {top}, of no package that pyproject.toml names"
        late = top == "triton" and path in OF_KERNELS
        assert late or not first or any(one.marker is None for one in found), (
            f"{path} imports {top}, which is an extra's"
        )


def test_every_command_works_without_the_repository(release: Release) -> None:
    group: Any = typer.main.get_command(app)
    commands = group.commands
    words = [[name, "--help"] for name in commands]
    words += [["recipes"], ["recipes", "qwen3_8b"], ["slurm", "qwen3_8b/run.yaml"]]
    release.run("python", "-c", IN_ONE_PROCESS, json.dumps(words))
    told = json.loads((release.folder / "told.json").read_text(encoding="utf-8"))
    assert Path(told["package"]).is_relative_to(release.environment)
    assert [(asked, code) for asked, (code, _) in zip(words, told["runs"], strict=True)] == [(one, 0) for one in words]
    for name, (_, text) in zip(commands, told["runs"], strict=False):
        assert f"Usage: root {name}" in text
    (*_, (_, listed), (_, copied), (_, script)) = told["runs"]
    assert {line.split()[0] for line in listed.splitlines()} > {path.name for path in (ROOT / "examples").iterdir()}
    assert "aspo train qwen3_8b/run.yaml" in copied
    assert script.startswith("#!/bin/bash\n")
    assert "#SBATCH --job-name=aspo-qwen3_8b\n" in script
    assert told["tiny"] == sorted(path.name for path in (ROOT / "examples" / "tiny" / "model").iterdir())


SMALL = ("train.steps=2", "parallel.tp=1", "warmup.updates=2", "data.train.size=300", "eval.max_problems=8")
FEW = ("eval.samples=1", "eval.pass_k=[1]", "rollout.prompts_per_step=8", "train.prompts_per_update=4")


def test_a_copied_recipe_trains_without_the_repository(release: Release) -> None:
    assert release.run("aspo", "--version").startswith(f"aspo-megatron {aspo_megatron.__version__}\n")
    assert "aspo train tiny/run.yaml" in release.run("aspo", "recipes", "tiny")
    release.run("aspo", "train", "tiny/run.yaml", *SMALL, *FEW)
    summary = json.loads((release.folder / "runs" / "tiny" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 2
    assert (release.folder / "runs" / "tiny" / "hf" / "model.safetensors").is_file()
