"""`aspo plot` and `aspo samples` as a user calls them."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import typer
from plots.made_runs import make_run, write_run
from typer.testing import CliRunner, Result

from aspo_megatron.cli.views import plot, samples
from aspo_megatron.errors import UserError
from aspo_megatron.metrics.record import Recorder

app = typer.Typer(rich_markup_mode=None)
app.command()(plot.plot)
app.command()(samples.samples)


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_run_alone_gets_its_picture_and_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=("entropy", "grad_norm"))
    result = run_cli("plot", run)
    assert result.output.split() == ["picture:", f"{run}/curves.png", "page:", f"{run}/curves.html"]
    html = (run / "curves.html").read_text()
    pictures = re.findall(r'alt="(.*?) over the steps" src="data:image/png;base64,([^"]+)"', html)
    assert [title for title, _ in pictures] == ["Held-out accuracy", "Entropy", "Gradient norm"]
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for _, picture in pictures)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not re.search(r"https?://|<script|<link|@import|refresh", html)
    assert "<tr><th>Gradient norm</th><td>0." in html


def test_several_runs_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, steps in (("a1", 4), ("a2", 3), ("b<i>", 4)):
        make_run(tmp_path / name, steps, names=("entropy", "grad_norm"))
        (tmp_path / name / "config.yaml").write_text(f"seed: '{name}'\n")
    result = run_cli("plot", "b<i>", "--group", "a=a1,a2")
    assert "picture: comparison.png\n" in result.output
    assert "warning: group a: its runs end at steps 3, 4; drawn as far as all of them go" in result.stderr
    html = (tmp_path / "comparison.html").read_text()
    assert re.search("<th><svg [^\n]*</svg>b&lt;i&gt;</th><th><svg [^\n]*</svg>a</th>", html)
    assert "<tr><th>seed</th><td>b&lt;i&gt;</td><td>a1, a2</td></tr>" in html
    assert "<i>" not in html


def test_the_best_values_and_the_page_by_its_name(tmp_path: Path) -> None:
    """Highest reward is best; of an entropy nobody knows."""
    for name, value in (("a", 0.5), ("b", 0.75), ("c", 0.75)):
        write_run(tmp_path / name, "reward/mean", {1: value})
        with Recorder(tmp_path / name, tensorboard=False) as recorder:
            recorder.log(2, {"entropy": value})
    result = run_cli("plot", *(tmp_path / name for name in "abc"), "--out", tmp_path / "x.html")
    assert result.output == f"page:    {tmp_path}/x.html\n"
    html = (tmp_path / "x.html").read_text()
    best = '<td class="best"><span>0.7500</span></td>'
    assert f"<tr><th>Training reward</th><td>0.5000</td>{best}{best}</tr>" in html
    assert "<tr><th>Entropy</th><td>0.5000</td><td>0.7500</td><td>0.7500</td></tr>" in html
    assert len(set(re.findall("<svg .*?</svg>", html))) == 3


def test_text_alone_writes_no_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = sorted(run.iterdir())
    result = run_cli("plot", run, "--text")
    assert "Held-out accuracy" in result.output
    assert "picture" not in result.output
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no run given"),
        (["nowhere"], "nowhere/metrics.jsonl (in {here}): no such file; is this a run folder?"),
        (["--group", "a"], "--group a: not NAME=RUN,RUN; e.g. --group"),
        (["--group", "=run"], "--group =run: not NAME=RUN,RUN"),
        (["--group", "a=run", "--group", "a=run"], "--group a=run: given twice"),
        (["--group", "a="], "group a: it has no runs"),
        (["run", "--out", "x.html", "--html", "y.html"], "--out x.html: --html already names the page"),
        (["run", "--out", "x.docx"], "x.docx: Format 'docx' is not supported"),
        (["run", "--html", "x.png"], "--html x.png: this is a page; give it a name that ends in .html"),
        (["run", "--html", "run/metrics.jsonl/x.html"], "x.html: cannot be written"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", "entropy", {1: 1.0})
    with pytest.raises(UserError) as caught:
        run_cli("plot", *options)
    assert message.replace("{here}", str(tmp_path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_smooth_must_be_positive(tmp_path: Path) -> None:
    assert run_cli("plot", tmp_path, "--smooth", 0).exit_code == 2


def test_samples(tmp_path: Path) -> None:
    record = {"problem": "p", "question": "q", "answer": "a", "response": "1 < 2", "reward": 1.0, "advantage": 0.5}
    with Recorder(tmp_path, tensorboard=False) as recorder:
        for step in (1, 2):
            recorder.log_samples(step, [record | {"finish_reason": "stop"}])
    result = run_cli("samples", tmp_path, "--step", 2)
    assert "step 2 | problem p | reward 1 | advantage +0.50 (pushed up) | finish stop" in result.output
    assert "step 1 " not in result.output
    result = run_cli("samples", tmp_path, "--problem", "p", "--count", 1, "--html", tmp_path / "pages" / "s.html")
    assert result.output == f"page: {tmp_path}/pages/s.html\n"
    assert '<div class="text">1 &lt; 2</div>' in (tmp_path / "pages" / "s.html").read_text()
    with pytest.raises(UserError, match="no response of step 3; there are steps 1 to 2"):
        run_cli("samples", tmp_path, "--step", 3)
