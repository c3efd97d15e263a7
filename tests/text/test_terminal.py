"""Commands in a terminal, with hostile names of models, benchmarks, runs, files, keys, problems; what ranks say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.metrics.record import Recorder
from text.hostile import HOSTILE, KINDS, NAME, faults, on_a_terminal

CONFIG = {"output_dir": "run", "model": {"path": "model"}, "data": {"train": {"kind": "jsonl", "path": "x"}}}
Words = Callable[[Path], list[str]]


def results(folder: Path) -> Path:
    (folder / "results").mkdir()
    for number, model in enumerate(["mine", f"m{HOSTILE}"]):
        content = {
            "benchmark": f"b{HOSTILE}", "model": model, "complete": True, "problems": 2, "samples": 1, "right": [1, 0],
            "identity": {"problems": HOSTILE}, "scores": {},
        }  # fmt: skip
        (folder / "results" / f"{number}.scores.json").write_text(json.dumps(content))
        known = content | {
            "benchmark": "aime24",
            "complete": False,
            "right": [1],
            "identity": {"sampling.top_k": HOSTILE},
        }
        (folder / "results" / f"aime-{number}.scores.json").write_text(json.dumps(known))
    return folder / "results"


def run(folder: Path, name: str = NAME) -> Path:
    path = folder / name
    with Recorder(path, tensorboard=True) as recorder:
        for step in (1, 2):
            recorder.log(step, {"reward/mean": 0.5, f"eval/{HOSTILE}/avg@4": 0.5})
        texts = dict.fromkeys(("problem", "question", "answer", "response", "finish_reason"), HOSTILE)
        recorder.log_samples(
            1, [texts | {"reward": 1.0, "tokens": [HOSTILE, "b"], "weights": [2.0, 0.0]}, texts | {"reward": 0}]
        )
    return path


def two_runs(folder: Path) -> list[str]:
    runs = [run(folder, f"{number}{NAME}") for number in range(2)]
    for number, path in enumerate(runs):
        (path / "config.yaml").write_text(json.dumps({HOSTILE: f"{HOSTILE}{number}"}), encoding="utf-8")
    return [str(path) for path in runs]


def config(folder: Path, **changes: Any) -> str:
    path = folder / f"{NAME}.yaml"
    path.write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    return str(path)


def finished(folder: Path) -> list[str]:
    (folder / NAME).mkdir()
    path = config(folder, output_dir=str(folder / NAME))
    from aspo_megatron.config.io import load_config, save_config

    save_config(load_config(Path(path)), folder / NAME / "config.yaml")
    (folder / NAME / "summary.json").write_text('{"steps": 1000000000}')
    return ["train", path]


COMMANDS: dict[str, tuple[int, Words]] = {
    "table": (0, lambda folder: ["table", str(results(folder)), "--against", "mine"]),
    "table --pass": (0, lambda folder: ["table", str(results(folder)), "--pass", "--published", "none"]),
    "table --markdown": (0, lambda folder: ["table", str(results(folder)), "--against", "mine", "--markdown"]),
    "table --against": (2, lambda folder: ["table", str(results(folder)), "--against", HOSTILE]),
    "table twice": (2, lambda folder: ["table", str(results(folder)), str(folder / "results")]),
    "table of nothing": (2, lambda folder: ["table", str(folder / NAME)]),
    "table option": (2, lambda folder: ["table", f"--{HOSTILE}"]),
    "plot --text": (0, lambda folder: ["plot", "--text", str(run(folder))]),
    "plot of two": (0, lambda folder: ["plot", "--text", *two_runs(folder)]),
    "plot of a group": (
        0,
        lambda folder: ["plot", "--text", "--group", f"{HOSTILE.replace('=', '')}={','.join(two_runs(folder))}"],
    ),
    "plot into a file": (0, lambda folder: ["plot", str(run(folder)), "--html", str(folder / f"{NAME}.html")]),
    "plot of nothing": (2, lambda folder: ["plot", str(folder / NAME)]),
    "plot --group": (2, lambda folder: ["plot", "--group", HOSTILE]),
    "plot of what is no YAML": (2, lambda folder: bad_settings(two_runs(folder))),
    "samples": (0, lambda folder: ["samples", str(run(folder))]),
    "samples --problem": (2, lambda folder: ["samples", str(run(folder)), "--problem", f"{HOSTILE}x"]),
    "plan": (2, lambda folder: ["plan", config(folder, **{HOSTILE: 3})]),
    "plan of a value": (2, lambda folder: ["plan", config(folder, seed=HOSTILE)]),
    "plan of a reference": (
        2,
        lambda folder: ["plan", config(folder, seed="${" + "oc.env:" + "NOT_THERE" + "}" + HOSTILE)],
    ),
    "plan of a model": (2, lambda folder: ["plan", config(folder, model={"path": HOSTILE})]),
    "plan --gpu": (2, lambda folder: ["plan", config(folder), "--gpu", HOSTILE]),
    "plan of nothing": (2, lambda folder: ["plan", str(folder / f"{NAME}.yaml")]),
    "train": (2, lambda folder: ["train", config(folder, model={"path": HOSTILE})]),
    "train with an override": (2, lambda folder: ["train", config(folder), HOSTILE]),
    "train what is done": (0, finished),
    "train in a folder of something else": (2, lambda folder: ["train", config(folder, output_dir=str(other(folder)))]),
    "eval": (2, lambda folder: ["eval", f"{HOSTILE}/{HOSTILE}", "--problems", f"{NAME}.jsonl"]),
    "eval --benchmark": (2, lambda folder: ["eval", "m", "--benchmark", HOSTILE]),
    "eval --output": (2, lambda folder: ["eval", "m", "--benchmark", "aime24", "--output", f"{NAME}.jsonl"]),
    "check": (2, lambda folder: ["check", "--layouts", f"tp={HOSTILE}"]),
    "check two": (2, lambda folder: ["check", HOSTILE, HOSTILE]),
    "convert": (2, lambda folder: ["convert", "hf-to-megatron", str(folder / NAME), "x"]),
    "convert --dtype": (2, lambda folder: ["convert", "megatron-to-hf", str(folder / NAME), "x", "--dtype", HOSTILE]),
    "quantize": (2, lambda folder: ["quantize", str(folder / NAME), "x", "--format", HOSTILE]),
    "serve": (2, lambda folder: ["serve", config(folder, model={"path": HOSTILE})]),
    "slurm": (2, lambda folder: ["slurm", config(folder, **{HOSTILE: 3})]),
    "no command": (2, lambda folder: [HOSTILE]),
}


def bad_settings(runs: list[str]) -> list[str]:
    (Path(runs[0]) / "config.yaml").write_text("a: [", encoding="utf-8")
    return ["plot", "--text", *runs]


def other(folder: Path) -> Path:
    (folder / NAME).mkdir()
    (folder / NAME / "file").touch()
    return folder / NAME


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_reaches_the_terminal_as_more_than_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, words = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    ended, shown = on_a_terminal(words(tmp_path), monkeypatch)
    assert ended == code, shown
    assert faults(shown) == []
    assert "Traceback" not in shown
    assert "␛" in shown or "\\x1b" in shown or name == "plan of a reference", shown


def test_the_doctor_says_what_variables_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", HOSTILE)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", HOSTILE)
    monkeypatch.chdir(tmp_path)
    _, shown = on_a_terminal(["doctor", config(tmp_path, model={"path": HOSTILE})], monkeypatch)
    assert "␛]0;TITLE" in shown
    assert faults(shown) == []


@pytest.mark.parametrize("kind", ["a library's error", "sys.exit"])
def test_what_ends_a_command_by_surprise(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error: BaseException = RuntimeError(HOSTILE) if kind == "a library's error" else SystemExit(HOSTILE)

    def fail(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr("aspo_megatron.cli.views.plot.show", fail)
    monkeypatch.chdir(tmp_path)
    code, shown = on_a_terminal(["plot", str(run(tmp_path))], monkeypatch)
    assert code == 1
    assert faults(shown) == []
    assert ("Traceback" in shown) == (kind != "sys.exit")
    assert "␛]0;TITLE" in shown


LAUNCHER = """
import sys
from pathlib import Path
from aspo_megatron import streams
from aspo_megatron.launch.launcher import launch
with streams.unfailing():
    code = launch("hostile_rank", sys.argv[2:], 2, 1, log_dir=Path(sys.argv[1]) / "logs", grace_seconds=1.0)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("what", "code"), [("raise", 1), ("user error", 2), ("exit", 2), ("killed", 1), ("exit with text", 1)]
)
def test_what_ranks_say(what: str, code: int, tmp_path: Path) -> None:
    reading, writing = os.openpty()
    path = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), what, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=writing,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    got = b""
    try:
        while chunk := os.read(reading, 1 << 16):
            got += chunk
    except OSError:
        pass
    os.close(reading)
    shown = got.decode().replace("\x1b[?25h", "", 1)
    assert process.wait() == code, shown
    assert faults(shown) == []
    assert "said by a library ␛]0;TITLE" in shown
    assert "printed ␛]0;TITLE" in shown
    assert "written ␛]0;TITLE" in shown
    assert shown.count("␛]0;TITLE") >= (3 if what == "killed" else 4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_printed_above_a_bar_is_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from aspo_megatron.evaluation.progress import EvalProgress
    from aspo_megatron.evaluation.scores import Scores
    from aspo_megatron.metrics.progress import progress_display
    from aspo_megatron.streams import show

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=300)
    text = f"before{KINDS[kind]}after"
    with progress_display(2, leader=True, console=console) as display:
        print(text)
        print(text, end="", flush=True)
        show(text)
        display.message(text)
        display.phase(text)
        display.update(1, reward=0.5, tokens_per_second=1.0)
        display.phase(text)
    with EvalProgress(text, 1, 3, console) as progress:
        print(text)
        progress.update(2, Scores.of([1, 1], 2, (1,)))
        progress.message(text)
    assert faults(file.getvalue()) == []
    assert file.getvalue().count("after") >= 7
    assert "\x1b[31m" not in file.getvalue()
