"""`aspo watch` and `aspo plot --follow`, as a user calls them, on runs at every point of their course."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from aspo_megatron.cli.views import plot, watch
from aspo_megatron.errors import UserError
from aspo_megatron.metrics.phase_note import PhaseNote, read_phase
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.watch.alarms import alarms, silence
from aspo_megatron.watch.follow import follow, watch_run
from aspo_megatron.watch.page import ago
from aspo_megatron.watch.run_view import read_run

app = typer.Typer(rich_markup_mode=None)
app.command()(plot.plot)
app.command()(watch.watch)

STEP = {
    "reward/mean": 0.5, "reward/failed": 0.0, "groups/all_agree": 0.2, "response_tokens/cut": 0.1, "entropy": 1.0,
    "grad_norm": 0.5,
    "clip/pos_high": 0.02, "clip/pos_low": 0.01, "seconds/step": 2.0, "seconds/generate": 1.2, "seconds/update": 0.7,
    "tokens_per_second": 1234.0,
}  # fmt: skip
SAMPLE = {
    "problem": "sum-1", "question": "1 + 1?", "answer": "2", "response": "It is\n2. \x1b[2J", "reward": 1.0,
    "advantage": 0.5, "finish_reason": "stop",
}  # fmt: skip


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def begin(folder: Path, total: int = 8) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"train: {{steps: {total}}}\n")
    return folder


def go_on(folder: Path, steps: range, **changes: float) -> None:
    with Recorder(folder, tensorboard=False) as recorder:
        for step in steps:
            recorder.log(step, STEP | {"reward/mean": step / 10} | changes)
            recorder.log_samples(step, [SAMPLE | {"reward": float(step % 2)}])


def end(folder: Path, steps: int) -> None:
    (folder / "summary.json").write_text(json.dumps({"steps": steps}))


def sleeps(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> list[float]:
    """Each wait of a command that follows does the next of the acts, after the last it is as if Ctrl-C were pressed."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) > len(acts):
            raise KeyboardInterrupt
        acts[len(waited) - 1]()

    monkeypatch.setattr(time, "sleep", sleep)
    return waited


# ---- the page of a terminal --------------------------------------------------------------------------------------


def test_a_run_that_goes(tmp_path: Path) -> None:
    run = begin(tmp_path / "tiny")
    go_on(run, range(1, 5))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')  # being written
    os.utime(run / "metrics.jsonl", (0, os.stat(run).st_mtime - 200))
    note = PhaseNote(run, leader=True)
    note("old log-probs")
    PhaseNote(run, leader=False)("of another rank")
    os.utime(run / "logs" / "phase", (0, os.stat(run).st_mtime - 30))
    before = sorted(run.rglob("*"))
    lines = run_cli("watch", run).output.splitlines()
    assert lines[0] == "tiny  step 4 of 8; last line 3 min ago"
    assert re.fullmatch(r"now     old log-probs, for 3\d s", lines.pop(1))
    assert lines[1] == "speed   1,234 tokens/s, 2 s a step, about 8 s left"
    assert lines[2] == "phases  generate 1.2 s, update 0.7 s"
    assert lines[3] == "! silent: the run has stopped or hangs, or its disk is slow to show it here"
    curves = "\n".join(lines[4:])
    assert re.search(r"^  Reward +0\.1000 ▁[▁-█]+█ +0\.4000$", curves, re.MULTILINE)
    assert re.search(r"^  Clip, A > 0: r above the range +2\.0% ▄+ 2\.0%$", curves, re.MULTILINE)
    assert "  wrong  reward 0  step 4, problem sum-1\n    1 + 1? -> It is␊2. ␛[2J" in curves
    assert curves.count("right  reward 1") == 1
    assert max(map(len, lines)) <= 80
    assert sorted(run.rglob("*")) == before  # nothing is written there


def test_a_folder_that_is_no_run_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path / "run", total=2)
    with pytest.raises(UserError, match=f"^{tmp_path}: holds no run; runs in it: {tmp_path / 'run'}$"):
        run_cli("watch", tmp_path, "--once")
    (tmp_path / "other").mkdir()
    assert run_cli("watch", tmp_path / "other", "--once").exit_code == 0  # its run may be about to begin
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(UserError, match=f"^{tmp_path / 'other'}: holds no run; name the output_dir of a run$"):
        run_cli("watch", tmp_path / "other", "--once")

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(UserError, match=f"^{tmp_path / 'other'}: cannot be read: Permission denied$"):
        run_cli("watch", tmp_path / "other", "--once")


def test_a_run_before_its_first_step_and_after_its_last(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", total=2)
    text = run_cli("watch", run, "--once").output
    assert re.match(r"run  not begun; last change \d s ago\nno step is recorded yet", text)
    go_on(run, range(1, 3))
    end(run, 2)
    PhaseNote(run, leader=True)("export")
    text = run_cli("watch", run).output
    assert "now " not in text
    assert text.startswith("run  step 2 of 2; the run has ended\n")
    assert "left" not in text
    (run / "config.yaml").write_text("train: {steps: 4}\n")  # it is resumed
    assert not read_run(run).ended


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder; name the output_dir of a run"):
        run_cli("watch", tmp_path / "nowhere")
    run = begin(tmp_path / "run")
    (run / "config.yaml").write_text("a: [1,")
    go_on(run, range(1, 3))
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\0\0\n")
    (run / "samples.jsonl").write_text("no response\n")
    text = run_cli("watch", run).output
    assert text.startswith("run  step 2; last line")
    assert re.search(r"^! warning: .*metrics\.jsonl, line 3: damaged", text, re.MULTILINE)
    assert re.search(r"^! .*config\.yaml: cannot be read", text, re.MULTILINE)
    assert "last responses" not in text
    (run / "metrics.jsonl").write_text("other\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: not a line of metrics"):
        run_cli("watch", run)


def test_a_phase_that_cannot_be_noted_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    PhaseNote(tmp_path, leader=True)("generate")
    assert read_phase(tmp_path) is None
    (tmp_path / "run" / "logs" / "phase").mkdir(parents=True)
    PhaseNote(tmp_path / "run", leader=True)("generate")
    assert read_phase(tmp_path / "run") is None


def test_a_terminal_is_kept_up_to_date_until_the_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(tmp_path / "run", total=3)
    file = io.StringIO()
    console = Console(file=file, width=80, height=30, force_terminal=True, color_system=None, legacy_windows=False)
    waited = sleeps(monkeypatch, lambda: go_on(run, range(1, 3)), lambda: (go_on(run, range(3, 4)), end(run, 3)))
    watch_run(run, console, 7.0, once=False)
    assert waited == [7.0, 7.0]
    shown = re.findall(r"run  (not begun|step \d of 3; (?:last line|the run))", file.getvalue())
    assert shown == ["not begun", "step 2 of 3; last line", "step 3 of 3; the run"]
    assert file.getvalue().rindex("\x1b[?1049l") < file.getvalue().rindex("step 3")  # it stays, after the page is gone


def test_ctrl_c_leaves_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(tmp_path / "run")
    go_on(run, range(1, 3))
    file = io.StringIO()
    sleeps(monkeypatch)
    watch_run(run, Console(file=file, width=80, force_terminal=True), 1.0, once=False)
    assert file.getvalue().count("step 2 of 8") == 2


# ---- the page of a browser ---------------------------------------------------------------------------------------


def test_a_page_follows_a_run_until_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, page = begin(tmp_path / "run", total=3), tmp_path / "live.html"
    seen: list[Any] = []

    def look() -> None:
        html = page.read_text()
        refresh = re.search('<meta http-equiv="refresh" content="(\\d+)">', html)
        seen.append(
            (re.findall('<p class="note">(step .*?);', html), refresh[1] if refresh else None, page.stat().st_mtime_ns)
        )

    acts = (lambda: go_on(run, range(1, 3)), look, look, lambda: (go_on(run, range(3, 4)), end(run, 3)))
    waited = sleeps(monkeypatch, *acts)
    result = run_cli("plot", run, "--html", page, "--follow", "--interval", 2.5)
    look()
    assert result.exit_code == 0
    assert waited == [2.5] * 4
    assert [(found, refresh) for found, refresh, _ in seen] == [
        (["step 2 of 3"], "3"), (["step 2 of 3"], "3"), (["step 3 of 3"], None),
    ]  # fmt: skip
    assert seen[0][2] == seen[1][2]  # only what is new is drawn
    assert "the run has ended" in page.read_text()
    assert result.output.splitlines() == [
        "waiting: no step is recorded yet in run",
        f"page:    {page}, written again with each new step; Ctrl-C ends",
        f"page:    {page}",
    ]


def test_ctrl_c_leaves_a_page_that_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(tmp_path / "run")
    go_on(run, range(1, 3))
    sleeps(monkeypatch)
    assert run_cli("plot", run, "--out", tmp_path / "live.html", "--follow").exit_code == 0
    html = (tmp_path / "live.html").read_text()
    assert "refresh" not in html
    assert "step 2 of 8; last line" in html


def test_ctrl_c_in_the_last_look_leaves_a_whole_page(tmp_path: Path) -> None:
    looks: list[bool] = []

    def look(last: bool) -> bool:
        looks.append(last)
        if looks == [False, True]:
            raise KeyboardInterrupt
        return True

    follow([tmp_path], look, 1.0)
    assert looks == [False, True, True]


@pytest.mark.parametrize("options", [[], ["--out", "x.png"], ["--html", "x.html", "--text"]])
def test_what_cannot_be_followed(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(UserError, match=r"--follow writes only a page: give --html PAGE\.html"):
        run_cli("plot", tmp_path, "--follow", *options)


def test_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run given"):
        run_cli("plot", "--html", tmp_path / "x.html", "--follow")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run_cli("plot", tmp_path / "nowhere", "--html", tmp_path / "x.html", "--follow")


# ---- alarms ------------------------------------------------------------------------------------------------------


def after(*changes: dict[str, float]) -> list[str]:
    return alarms([{"step": number, **STEP, **change} for number, change in enumerate(changes, start=1)])


def test_alarms() -> None:
    nan = float("nan")
    assert after() == after({}) == after({}, {}, {}) == alarms([{"step": 0, "eval/avg@4": 0.0}]) == []
    assert after({}, {"grad_norm": nan, "loss/total": float("inf")}) == [
        "not a number in step 2: grad_norm, loss/total"
    ]
    assert after(dict.fromkeys("abcde", nan)) == ["not a number in step 1: a, b, c and 2 more"]
    for changes, words in (
        (
            {"groups/all_agree": 0.95, "reward/mean": 0.0},
            "the responses to 95% of the prompts got equal rewards (0 on average) and teach nothing",
        ),
        ({"response_tokens/cut": 0.6}, "60% of the responses were cut before they had ended"),
        ({"reward/failed": 0.5}, "50% of the responses could not be scored, and count as 0"),
    ):
        assert after(changes, changes, changes) == [f"for 3 steps {words}"]
        assert after({}, changes, changes) == after(changes, changes, changes, {}) == []
    skipped = {name: value for name, value in STEP.items() if name != "grad_norm"}
    assert alarms([{"step": step, **skipped} for step in (1, 2)]) == [
        "for 2 steps no update was made, as there was nothing to learn from"
    ]


def test_alarms_of_a_collapse_now_and_before() -> None:
    low = {"entropy": 0.01}
    said = "the entropy has fallen (0.01 nats per token, 1 at the start) and the reward has not risen to match"
    (line,) = after(*[{}] * 6, low)
    assert line.startswith(f"in the last step {said}")
    (line,) = after(*[{}] * 6, low, low)
    assert line.startswith(f"for 2 steps {said}")
    assert after(*[{}] * 6, low, {}) == ["earlier, and over: local optimum (step 7)"]
    assert after(*[{}] * 6, *[{"groups/all_agree": 1.0}] * 3, {}) == []  # of a collapse alone


def test_the_page_has_them_unless_they_are_off(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    go_on(run, range(1, 7))
    go_on(run, range(7, 9), **{"approx_kl": 30.0, "grad_norm": float("nan"), "reward/mean": 0.6})
    text = run_cli("watch", run, "--once").output
    assert "! for 2 steps the updates of a step move the policy too far (approx_kl is 30 nats per token)" in text
    assert "! not a number in step 8: grad_norm" in text
    (run / "config.yaml").write_text("train: {steps: 8}\nlog: {alarms: false}\n")
    text = run_cli("watch", run, "--once").output
    assert "too far" not in text
    assert "! not a number in step 8: grad_norm" in text


def test_silence() -> None:
    assert silence([], 1e6) is None
    assert silence([{"step": 0, "eval/avg@4": 0.5}], 1e6) is None
    brief = [{"step": 1, "seconds/step": 2.0}]
    assert silence(brief, 110) is None
    assert silence(brief, 130) is not None
    assert silence([*brief, {"step": 2, "seconds/step": 2.0, "seconds/evaluate": 50.0}], 130) is None


def test_times() -> None:
    assert [ago(seconds) for seconds in (0, 119, 121, 7199, 7200, 200_000)] == [
        "0 s", "119 s", "2 min", "120 min", "2 h", "2 days",
    ]  # fmt: skip
