"""The page for a newcomer, done as it stands, but for the installation, the download and the length of the training."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from e2e.command import TINY_MODEL, Finished
from e2e.test_bad_input import call_main
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "first_run.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ELSEWHERE = ("python3.11 -m venv", "hf download", "aspo recipes quickstart")
"""How the blocks begin that are not run here: they fetch gigabytes."""
SHORTER = ["train.steps=1", "eval.max_problems=2", "eval.samples=1", "eval.pass_k=[1]", "parallel.dp=1"]
MODEL = Path("models/SmolLM2-135M-Instruct")


def small_model() -> None:
    """Another model in the place of the one that the page downloads."""
    shutil.copytree(TINY_MODEL, MODEL)
    weights = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL)).state_dict()
    del weights["lm_head.weight"]  # tied
    save_file(weights, MODEL / "model.safetensors", metadata={"format": "pt"})


def test_the_page_from_its_beginning_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_model()
    done: list[tuple[str, Finished]] = []
    for block in BLOCKS:
        if block.startswith(ELSEWHERE):
            continue
        if code := re.fullmatch(r"python - << 'END'\n(.*)^END\n", block, re.MULTILINE | re.DOTALL):
            exec(compile(code[1], "first_run.md", "exec"), {})
            continue
        for command in block.replace("\\\n", " ").splitlines():
            name, *words = shlex.split(command)
            assert name == "aspo", command
            argv = [*words, *SHORTER] if words[0] == "train" else words
            done.append((words[0], call_main(argv, monkeypatch, capfd)))
            assert done[-1][1].code == 0, done[-1]
    said = dict(done)
    assert list(said) == ["init", "doctor", "try-reward", "train", "samples", "plot"]
    assert "problems:  140 to train on, 60 held out\n" in said["train"].stdout
    assert "  | 4 - 6 = -2\n  | 0 + 0 =\n" in said["train"].stdout
    assert "step 1/1 " in said["train"].stdout
    for name in ("curves.png", "curves.html", "summary.json", "hf/model.safetensors"):
        assert f"runs/mine/{name.partition('/')[0]}" in PAGE
        assert (tmp_path / "runs" / "mine" / name).is_file()
    assert "reward" in said["samples"].stdout
    assert json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())["heldout_problems"] == 2


def test_what_is_not_run_here_fits_together() -> None:
    """The model is where the run looks for it, and is the quickstart's; the versions are the tested ones."""
    install, download, otherwise = (next(b for b in BLOCKS if b.startswith(start)) for start in ELSEWHERE)
    assert f"--local-dir {MODEL}\n" in download
    assert f"fetch_smollm2.py {MODEL}\n" in otherwise
    extra = re.search(r"^gguf = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert extra is not None
    packages = " ".join(re.findall('"(.*?)"', extra[1]))
    assert f"pip install {packages}\n" in otherwise
    (torch,) = re.findall(r"^torch==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert f"pip install {torch}\n" in install
    assert (ROOT / "examples" / "quickstart" / "fetch_smollm2.py").is_file()
