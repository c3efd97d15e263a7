"""How often Python looks for garbage: hardly while a program starts, as usual once it computes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.evaluation import main as rank_of_an_evaluation
from aspo_megatron.evaluation.job import EvaluationJob
from aspo_megatron.launch import garbage
from aspo_megatron.launch.rank import PARENT_VARIABLE
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.train import main as rank_of_a_run

SAYS = "import gc; print(json.dumps([gc.get_threshold(), gc.get_freeze_count() > 0]))"
BY_DEFAULT = list(gc.get_threshold())
RARELY = [100_000, 10, 10]


def said(*argv: str, path: Path | None = None) -> list[object]:
    env = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    done = subprocess.run([sys.executable, *argv], env=env, cwd=path, capture_output=True, text=True, check=True)
    answer: list[object] = json.loads(done.stdout)
    return answer


def test_a_rank_starts_with_few_searches(tmp_path: Path) -> None:
    (tmp_path / "speaking_rank.py").write_text(f"import json; {SAYS}")
    path = json.dumps([str(tmp_path), *sys.path])
    assert said("-m", "aspo_megatron.launch.rank", path, "speaking_rank", path=tmp_path) == [RARELY, False]


def test_the_command_starts_with_few_searches() -> None:
    code = (
        f"import json; from aspo_megatron.cli import entry; entry._run = lambda command: exec({SAYS!r}); entry.main()"
    )
    assert said("-c", code) == [RARELY, False]


def test_what_has_started_is_searched_as_usual_but_for_what_was_imported() -> None:
    code = "import json; from aspo_megatron.launch import garbage; garbage.search_rarely(); garbage.started();"
    assert said("-c", code + SAYS) == [BY_DEFAULT, True]


def test_a_run_has_started_once_all_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of the model is there."""
    at_the_start: list[bool] = []
    monkeypatch.setattr(garbage, "started", lambda: at_the_start.append("aspo_megatron.train.trainer" in sys.modules))
    monkeypatch.setattr(rank_of_a_run, "_stopped", lambda *_: True)
    rank_of_a_run._train(*[None] * 5)  # type: ignore[arg-type]
    assert at_the_start == [True]


def test_an_evaluation_has_started_before_it_loads_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def started() -> None:
        raise Started

    monkeypatch.setattr(garbage, "started", started)
    for name in ("load_config", "read_as_rank", "servers_elsewhere"):
        monkeypatch.setattr(rank_of_an_evaluation, name, MagicMock())
    monkeypatch.setattr(rank_of_an_evaluation, "process_grid", MagicMock(return_value=nullcontext(MagicMock())))
    with pytest.raises(Started):
        rank_of_an_evaluation.run_job(EvaluationJob("model", live=True, sets=(MagicMock(),)))


@pytest.mark.parametrize("triton", [True, False])
def test_the_last_search_is_left_out_but_with_triton(triton: bool) -> None:
    """From 3.8 on it lists what is not freed; so what a started program had taken out is in again."""
    modules = "sys.modules['triton._C.libtriton'] = sys; " if triton else ""
    code = "import json, sys; from aspo_megatron.launch import garbage; garbage.started();"
    assert said("-c", f"{code} {modules} garbage.skip_last_search(); {SAYS}") == [BY_DEFAULT, not triton]


def test_a_worker_has_started_before_it_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "speaking_scorer.py").write_text(
        "import gc\ndef score(*_):\n    return gc.get_threshold()[0] + 0.5 * (gc.get_freeze_count() > 0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with RewardPool(RewardConfig(kind="speaking_scorer:score", workers=1)) as pool:
        scores = pool.score([(Problem("p-0", "?", (1, 2), "7"), "a response")])
    assert [score.value for score in scores] == [BY_DEFAULT[0] + 0.5]
