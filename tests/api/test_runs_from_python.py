"""The example of a run from Python, from a directory elsewhere; then the blocks of docs/python.md, on what it has made.

The blocks run in a thread, as they may in a notebook or a server. The run that the page begins is the example's, which
is finished: it is not done again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from aspo_megatron import api
from aspo_megatron.launch.launcher import run_ranks

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "python" / "train_and_evaluate.py"
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Done:
    """What example and page have printed and left."""

    folder: Path
    example: str
    page: str
    names: dict[str, Any]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLE), "runs/python"]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    shutil.copy(folder / "runs" / "python" / "config.yaml", folder / "run.yaml")
    names: dict[str, Any] = {}
    errors: list[BaseException] = []

    def read_the_page() -> None:
        try:
            for block in BLOCKS:
                exec(block, names)
        except BaseException as error:
            errors.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(EXAMPLE.parent)])
        shown = (folder / "shown.txt").open("w+")
        patch.setattr(sys, "stdout", shown)
        reader = threading.Thread(target=read_the_page)
        reader.start()
        reader.join()
    shown.seek(0)
    assert errors == []
    return Done(folder, ended.stdout, shown.read(), names)


@pytest.mark.e2e
def test_the_example_trains_evaluates_and_converts(done: Done) -> None:
    lines = done.example.splitlines()
    assert [line for line in lines if line.startswith("step 6/6  reward ")]
    assert re.search(r"^mean reward: +0\.\d+ at step 1, 0\.\d+ at step 6$", done.example, flags=re.MULTILINE)
    assert re.search(r"^evaluated again: +\d+\.\d%  \(", done.example, flags=re.MULTILINE)
    assert lines[-1] == "for two tp ranks:  runs/python-megatron"
    rows = api.read_metrics(done.folder / "runs" / "python")
    assert [row["step"] for row in rows] == list(range(7))
    assert 0 < rows[-1]["soft/weight"] <= 1
    assert (done.folder / "runs" / "python-megatron" / "manifest.json").is_file()


@pytest.mark.e2e
def test_the_page_goes_on_from_it(done: Done) -> None:
    result = done.names["result"]
    assert (result.exit, result.summary.steps, result.summary.heldout_problems) == ("finished", 6, 50)
    assert result.model == Path("runs/python/hf")
    assert list(done.names["curve"]) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(FrozenInstanceError):
        result.exit = "stopped"
    assert "runs/python has done its 6 steps" in done.page
    assert "optimizer.lrr: unknown key; did you mean optimizer.lr?" in done.page


@pytest.mark.e2e
def test_scores_of_an_evaluation_in_a_thread(done: Done) -> None:
    scores = done.names["scores"]
    (heldout,) = scores.sets.values()
    assert (heldout.name, heldout.problems, heldout.samples, len(heldout.right)) == ("held-out", 10, 2, 10)
    assert scores.accuracy == heldout.accuracy == pytest.approx(sum(heldout.right) / 20)
    assert heldout.pass_at[2].value == pytest.approx(sum(right > 0 for right in heldout.right) / 10)
    assert (heldout.failed, heldout.responses, scores.folder, scores.model) == (0, None, None, "python")
    assert "avg@2" not in done.page  # progress=False


@pytest.mark.e2e
def test_a_model_goes_to_megatron_and_back(done: Done) -> None:
    assert (done.names["checkpoint"], done.names["exported"]) == (Path("converted"), Path("exported"))
    with (
        safe_open(done.folder / "runs/python/hf/model.safetensors", "pt") as ours,
        safe_open(done.folder / "exported/model.safetensors", "pt") as theirs,
    ):
        assert set(ours.keys()) == set(theirs.keys())
        for name in ours.keys():  # noqa: SIM118 (not a dict)
            assert torch.equal(ours.get_tensor(name).bfloat16(), theirs.get_tensor(name))
    with pytest.raises(api.CheckpointError, match="exists already"):
        api.convert(done.folder / "runs/python/hf", done.folder / "exported")
    with pytest.raises(api.ConfigError, match="becomes a Hugging Face folder, which has no layout"):
        api.convert(done.folder / "converted", done.folder / "again", tp=2)
    with pytest.raises(api.ConfigError, match="dtype int8: must be one of float32, bfloat16, float16"):
        api.convert(done.folder / "runs/python/hf", done.folder / "again", dtype="int8")
    assert not (done.folder / "again").exists()


def test_the_page_documents_what_is_public_and_nothing_else() -> None:
    table = PAGE.split("\n\n[examples/python]")[0]
    first_cells = re.findall(r"^\| (`[^|]+`) \|", table, flags=re.MULTILINE)
    assert sorted(name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)) == sorted(api.__all__)


@pytest.mark.parametrize("progress", [True, False])
def test_ranks_import_what_their_parent_does_and_print_where_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: bool
) -> None:
    """stdout is a file of Python's here, not descriptor 1, as in a notebook; and this is another thread."""
    folder = tmp_path / "beside the script"
    folder.mkdir()
    (folder / "module_of_a_script.py").write_text("print('here')\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    outcomes = []
    with (tmp_path / "shown.txt").open("w") as shown:
        monkeypatch.setattr(sys, "stdout", shown)
        arguments: Any = ("module_of_a_script", [], 1, 1)
        options: Any = {"log_dir": tmp_path / "logs", "progress": progress}
        caller = threading.Thread(target=lambda: outcomes.append(run_ranks(*arguments, **options)))
        caller.start()
        caller.join()
        monkeypatch.undo()
    assert [(outcome.code, outcome.text) for outcome in outcomes] == [(0, "")]
    assert (tmp_path / "shown.txt").read_text() == "here\n" * progress
