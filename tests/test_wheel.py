"""A wheel has the files of the repository that commands fill in or copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "aspo_megatron", "slurm", "examples/tiny")

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

READ = """
import aspo_megatron
from aspo_megatron.folders import packaged
from aspo_megatron.slurm.job import read_template
print(aspo_megatron.__file__)
print(len(read_template()))
print(*sorted(path.name for path in packaged("models/tiny_tokenizer").iterdir()))
"""


def python(code: str, *arguments: object, cwd: Path, path: Path | None = None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_wheel_has_the_batch_script_and_the_tiny_tokenizer(tmp_path: Path) -> None:
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    for name in SOURCES:  # beside it, as a build leaves files in its folder
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    python(BUILD, tmp_path, cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(unpacked)
    shutil.rmtree(source)
    package, length, names = python(READ, cwd=tmp_path, path=unpacked)
    assert Path(package) == unpacked / "aspo_megatron" / "__init__.py"
    assert int(length) == len((ROOT / "slurm" / "train.sbatch").read_text(encoding="utf-8"))
    assert names.split() == sorted(path.name for path in (ROOT / "examples" / "tiny" / "model").iterdir())
