"""Recipes: each is listed in a line of its own README, and its copy is whole and names itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from aspo_megatron.cli.app import app
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import UserError
from aspo_megatron.recipes import copies

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name for path in (ROOT / "examples").iterdir())
ALL = [*NAMES, "slurm"]
FOLDERS = ("copy", "a folder/of: mine #1")


def files(folder: Path) -> set[str]:
    found = (Path(top) / name for top, _, names in os.walk(folder, followlinks=True) for name in names)
    return {str(path.relative_to(folder)) for path in found if path.suffix != ".pyc"}


def test_every_recipe_is_listed_in_a_line() -> None:
    assert [recipe.name for recipe in copies.recipes()] == ALL
    shown = CliRunner().invoke(app, ["recipes"])
    *lines, last = shown.output.splitlines()
    assert "aspo recipes NAME" in last
    for name, line in zip(ALL, lines, strict=True):
        heading = (copies.find(name).folder / "README.md").read_text(encoding="utf-8").splitlines()[0]
        assert line.split(maxsplit=1) == [name, heading.removeprefix("# ")]
        assert len(line) <= 120


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", ALL)
def test_a_copy_is_whole_and_names_itself(
    name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = copies.find(name)
    copies.copy(recipe, Path(folder))
    assert files(Path(folder)) == files(recipe.folder)
    assert not any(path.is_symlink() for path in Path(folder).rglob("*"))
    for path in Path(folder).rglob("*"):
        assert not path.is_file() or os.access(path, os.X_OK) == os.access(
            recipe.folder / path.relative_to(folder), os.X_OK
        )
        if path.suffix in (".md", ".yaml", ".py", ".sh", ".sbatch"):
            text = path.read_text(encoding="utf-8")
            assert "](.." not in text
            assert not re.search(rf"(?<![\w./-]){re.escape(recipe.place)}/", text)
            assert folder in text or recipe.place not in (recipe.folder / path.relative_to(folder)).read_text()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_copied_configuration_finds_its_model(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file in (("tiny", "run.yaml"), ("aspo_vs_grpo", "start.yaml")):
        copies.copy(copies.find(name), Path(folder, name))
        run = load_config(Path(folder, name, file))
        assert run.model.path == Path(folder, name, "model")
        assert json.loads((run.model.path / "config.json").read_text())["model_type"] == "llama"


def test_where_models_are_to_be_downloaded_stays() -> None:
    text = (ROOT / "examples" / "qwen3_8b" / "run.yaml").read_text(encoding="utf-8")
    assert copies.named_from(text, "examples/qwen3_8b", Path("copy")) == text
    assert yaml.safe_load(text)["model"]["path"] == "models/Qwen3-8B"


@pytest.mark.parametrize("name", ALL)
def test_what_to_run_next_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["recipes", name])
    assert shown.exit_code == 0
    first, *commands = shown.output.splitlines()
    assert first == f"{name}: copied; {name}/README.md explains it. Next:"
    assert any(f" {name}/" in command for command in commands)
    for path in re.findall(rf"(?<= ){name}/[\w./-]+", "\n".join(commands)):
        assert Path(path).is_file()


def test_a_script_of_a_copy_runs_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a run: the tests of the script itself make some."""
    monkeypatch.chdir(tmp_path)
    copies.copy(copies.find("aspo_vs_grpo"), Path("my copy"))
    script = "import compare; print(compare.HERE, compare.LOSSES[0])"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'my copy'}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"{tmp_path / 'my copy'} aspo"


def test_a_name_as_in_the_repository_is_the_same() -> None:
    assert copies.find("examples/tiny/") == copies.find("tiny")


def test_what_cannot_be_copied_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^nothing: no such recipe; there are aspo_vs_grpo, .*, slurm$"):
        copies.find("nothing")
    tiny = copies.find("tiny")
    Path("there").mkdir()
    with pytest.raises(UserError, match=r"^there: is there already; .* aspo recipes tiny FOLDER$"):
        copies.copy(tiny, Path("there"))
    assert not list(Path("there").iterdir())
    with pytest.raises(UserError, match="printable"):
        copies.copy(tiny, Path("two\nlines"))
    Path("file").touch()
    with pytest.raises(UserError, match=r"^file/copy: cannot be written: "):
        copies.copy(tiny, Path("file", "copy"))


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """So that the same command works once there is room."""
    source = tmp_path / "recipe"
    (source / "model").mkdir(parents=True)
    (source / "README.md").write_text("# A recipe\n")
    (source / "model" / "gone.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"copy: cannot be written"):
        copies.copy(copies.Recipe("recipe", "examples/recipe", source), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
