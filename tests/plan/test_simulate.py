"""`aspo plan --simulate`: its processes, its text and its JSON, on a model that takes seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aspo_megatron.cli.app import app
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.models.family import read_family
from aspo_megatron.plan.hardware import H100
from aspo_megatron.simulation.beside_plan import compared, simulate_ranks, simulated_form
from aspo_megatron.simulation.report import simulation_text
from aspo_megatron.simulation.run import RankFigures, ranks_of

from .conftest import ROOT

TINY = ROOT / "examples" / "tiny"
SETTINGS = ("platform.device=cuda", "model.dtype=bfloat16", "parallel={tp: 2, pp: 2}")


def test_figures_beside_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    kernels = "model.kernels={layers: transformer_engine, fp8: hybrid}"
    done = CliRunner().invoke(app, ["plan", str(TINY / "run.yaml"), *SETTINGS, kernels, "--simulate", "--json"])
    assert done.exit_code == 0, done.output
    progress = [line for line in done.stderr.splitlines() if line.startswith("rank ")]
    assert sorted(line.partition(":")[0] for line in progress) == ["rank 0, stage 0", "rank 2, stage 1"]
    simulated = json.loads(done.stdout)["simulated"]
    assert [line.split()[0] for line in simulated["left_out"]] == [
        "model.kernels.layers=transformer_engine",
        "model.kernels.fp8=hybrid",
    ]
    for rank in simulated["ranks"]:
        assert rank["planned"].keys() == rank["phases"].keys() >= {"weight sync", "generation", "update: backward"}
        assert sum(rank["phases"]["update: backward"]["calls"].values()) > 0
    run = load_config(TINY / "run.yaml", SETTINGS)
    family = read_family(run.model.path)
    ranks = [compared(run, family, RankFigures.from_json(rank), H100) for rank in simulated["ranks"]]
    assert [each.as_json() for each in ranks] == simulated["ranks"]
    text = simulation_text(run, ranks, simulated["left_out"], H100)
    for word in ("rank 2 of 4, stage 1, 3 micro-batches", "update: backward", "put into collectives", "locked memory"):
        assert word in text
    assert "Transformer" not in text.replace("model.kernels.layers=transformer_engine", "")


def test_what_cannot_be_simulated_is_said(tmp_path: Path) -> None:
    run = load_config(TINY / "run.yaml", [f"model.path={TINY / 'model'}"])
    with pytest.raises(ConfigError, match=r"platform\.device=cpu"):
        simulated_form(run, TINY / "model")
    on_gpu, left_out = simulated_form(load_config(TINY / "run.yaml", [*SETTINGS[:2]]), TINY / "model")
    assert left_out == []
    unknown = replace(H100, name="a GPU that nobody knows")
    with pytest.raises(UserError, match=r"^rank 0 of 2 cannot be simulated: [^\n]*StopIteration[^\n]*$"):
        simulate_ranks(on_gpu, read_family(TINY / "model"), unknown, print)


def test_a_rank_of_each_kind_of_stage() -> None:
    def ranks(**axes: int) -> list[int]:
        return ranks_of(load_config(TINY / "run.yaml", [f"parallel={json.dumps(axes)}"]).parallel)

    assert ranks(tp=4) == [0]
    assert ranks(tp=2, pp=2) == [0, 2]
    assert ranks(tp=2, pp=8) == [0, 8, 14]
