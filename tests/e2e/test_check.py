"""`aspo check`: the built-in model in one layout, a failing row, and what is refused."""

import json
import re
import subprocess
import sys

import pytest

from .test_bad_input import call_main

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aspo_megatron.cli", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_a_layout_passes(tmp_path):
    rows = tmp_path / "rows.json"
    passing = run("--layouts", "tp=2,sp", "--json", str(rows))
    assert passing.returncode == 0, passing.stderr
    found = {row["layout"]: row for row in json.loads(rows.read_text())}
    assert list(found) == ["one process", "hugging face", "tp=2,sp"]
    assert 0 < found["tp=2,sp"]["gradient_difference"] <= 2e-5
    assert found["tp=2,sp"]["weight_difference"] <= 1e-6
    assert all(row["passed"] and row["failed"] == [] for row in found.values())
    assert found["hugging face"]["loss"] == pytest.approx(found["one process"]["loss"], rel=1e-5)
    assert found["hugging face"]["grad_norm"] == pytest.approx(found["one process"]["grad_norm"], rel=1e-5)


@pytest.mark.thorough
def test_an_impossible_tolerance_fails():
    failing = run("--layouts", "cp=2", "--gradient-tolerance", "1e-12", "--loss", "grpo")
    assert failing.returncode == 1
    assert re.search(r"^cp=2 .* FAIL \(gradients\)  model\.", failing.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layouts", "tp=x"], "'tp=x' is not one of"),
        (["--layouts", "sp"], "sequence_parallel needs tp > 1"),
        (["--layouts", "tp=3"], "parallel.tp=3 does not divide"),
        (["--layouts", "pp=5"], "5 pipeline stages (pp=5 x vpp=1) are more than the model's 4 layers"),
        (["--layouts", "vpp=2"], "vpp > 1 needs pp > 1"),
        (["--layouts", "ep=2,dp=2"], "parallel.ep and parallel.etp are for experts, but qwen2 has none"),
        (["qwen3-moe", "--layouts", "tp=2"], "needs parallel.sequence_parallel=true"),
        (["qwen3-moe", "--layouts", "dp=3,ep=3"], "parallel.ep=3 does not divide the model's 8 experts"),
        (["qwen3-moe", "--layouts", "dp=2,ep=4"], "ep x etp = 4 does not divide tp x cp x dp = 2"),
        (["no-such-folder"], "there is no folder no-such-folder"),
        (["--loss", "aspro"], "aspo"),
    ],
)
def test_refused(arguments, message, monkeypatch, capfd):
    result = call_main(["check", *arguments], monkeypatch, capfd)
    assert result.code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
