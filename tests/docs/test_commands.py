"""Commands on the pages and in `--help` are run as they stand, in a folder that has what they name.

Those that take longer than seconds, or want servers, GPUs or a cluster, are marked `LONG`: of these all that can be
read before they begin is read (options, settings and their values, layouts), and the mark says which tests run them.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from comparison import made_groups as compared
from docs.test_extending import block
from docs.test_pages import PAGES, commands, commands_of_helps
from e2e.command import SETTINGS, TINY_MODEL
from e2e.test_bad_input import call_main
from evaluation.test_table import result
from plots.made_runs import make_run
from plots.test_samples import record
from pyarrow.parquet import write_table

from aspo_megatron.check.comparison import parse_layout
from aspo_megatron.cli.app import app
from aspo_megatron.config.io import load_config
from aspo_megatron.metrics.record import Recorder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
GROUP: Any = typer.main.get_command(app)
LONG = {
    "train": "tests/e2e",
    "eval": "tests/e2e/test_eval.py",
    "serve": "tests/rollout",
    "quantize": "tests/quantize",
    "convert": "tests/checkpoint",
    "check": "tests/check",
    "watch": "tests/watch",
    "--submit": "tests/slurm",
    "--simulate": "tests/simulation",
    "--follow": "tests/plots",
}
"""What makes a command long, by a word in it, and where it is run to its end."""
SHORT = {"--once", "--help", "--version"}
"""What makes any command short."""
MODELS = ("MODEL", "FOLDER", "Qwen3-8B", "models/Qwen3-0.6B", "models/SmolLM2-135M-Instruct")
RUNS = (
    "mine",
    "tiny",
    "tiny-grpo",
    "quickstart",
    "aspo",
    "grpo",
    *(f"{loss}-{n}" for loss in ("aspo", "grpo") for n in "123"),
)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command, and the words after its name."""
    command, rest = GROUP, words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def is_named_only(words: list[str]) -> bool:
    """Whether it is no command but the name of one, or of an option of one."""
    command, rest = command_of(words)
    if SHORT & set(rest) or not all(re.fullmatch("--[a-z-]+", word) for word in rest):
        return False
    if hasattr(command, "commands") or command.name in ("plot", "table", "try-reward"):  # they want this or that
        return True
    return bool(rest) or any(parameter.required for parameter in command.params)


def is_left_out(words: list[str]) -> bool:
    """Parts of commands, and what is about a change of the package, which tests/docs/test_extending.py makes."""
    return any("..." in word or word == "loss.name=ratio-power" for word in words)


def is_long(words: list[str]) -> bool:
    return not SHORT & set(words) and bool(LONG.keys() & set(words))


def quoted() -> list[str]:
    """Each command that can be run as it stands, once, without what the shell does after it."""
    found = [*(words for page in PAGES for words in commands(page)), *commands_of_helps()]
    ends = [[number for number, word in enumerate(words) if word in ("&&", "|", ">")] for words in found]
    whole = [words[: min(end, default=len(words))] for words, end in zip(found, ends, strict=True)]
    lines = [shlex.join(words) for words in whole if not is_named_only(words) and not is_left_out(words)]
    one_of_each = {re.sub(r"\bruns/[\w-]+", "RUN", line): line for line in reversed(lines)}  # but for the run's name
    return list(reversed(one_of_each.values()))


COMMANDS = quoted()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages name: a run file, problems, models, a reward and a loss of one's own, runs, evaluations."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "examples").symlink_to(ROOT / "examples")
    rows = [(f"{a} + {b}", str(a + b)) for a in range(5) for b in range(5)]
    (folder / "problems.csv").write_text(
        "".join(f"{left},{right}\n" for left, right in [("question", "answer"), *rows])
    )
    settings = SETTINGS.replace("prompts_per_update: 3", "prompts_per_update: 1")  # any number of prompts has room
    (folder / "run.yaml").write_text(f"output_dir: runs/new\n{settings}")
    (folder / "data").mkdir()
    write_table(
        pa.Table.from_pylist([{"prompt": left, "answer": right} for left, right in rows]),
        folder / "data" / "train.parquet",
    )
    (folder / "sweep.txt").write_text(
        "".join(f"loss.name={loss} output_dir=runs/new-{loss} slurm.gpus_per_node=1\n" for loss in ("aspo", "grpo"))
    )
    (folder / "my_losses.py").write_text(block("python", "my_losses.py"))
    (folder / "my_rewards.py").write_text("def short(problem, response):\n    return 1.0\n\n\nscore = short\n")
    for name in MODELS:
        shutil.copytree(TINY_MODEL, folder / name)
    for name in RUNS:
        run = make_run(folder / "runs" / name)
        samples = [
            record(problem=f"chain_sum-0-{number}", response="The answer is 3.", reward=0.0) for number in range(9)
        ]
        with Recorder(run, tensorboard=False) as recorder:
            recorder.log_samples(12, samples)
        (run / "eval").mkdir()
        (run / "eval" / "step-000020.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        shutil.copyfile(folder / "run.yaml", run / "config.yaml")
    compared.make_groups(folder / "runs" / "rivals", {"aspo": [0.5, 0.6], "grpo": [0.5, 0.7]})
    for rate in ("1e-06", "2e-06"):
        for seed in (1, 2):
            tree = compared.settings("aspo", seed, optimizer={"lr": float(rate)})
            compared.make_run(folder / "runs" / "rates" / f"{rate}-{seed}", tree)
    (folder / "RUN").symlink_to("runs/mine")
    for model in ("aspo", "grpo", "base"):
        result(folder / "evals", model, "aime24", [16] * 30, 64)
    return folder


@pytest.fixture
def folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world as the current directory."""
    shutil.copytree(world, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here"), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path / "here"


@pytest.mark.parametrize("line", [line for line in COMMANDS if not is_long(shlex.split(line))])
def test_it_runs(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    if words[1] == "init":
        (folder / "run.yaml").unlink()  # which it is to write
    done = call_main(words[1:], monkeypatch, capfd)
    sys.modules.pop("my_losses", None)
    sys.modules.pop("my_rewards", None)
    assert done.code == 0 or (words[1] == "doctor" and done.code == 1), done  # 1: it misses a GPU
    assert done.stdout


@pytest.mark.parametrize("line", [line for line in COMMANDS if is_long(shlex.split(line))])
def test_it_is_read(world: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings of its run file, or with the tiny ones."""
    monkeypatch.chdir(world)
    command, words = command_of(shlex.split(line))
    given = command.make_context(command.name, words).params
    if command.name == "check":
        for text in [*(given["layouts"] or []), *(word for word in given["arguments"] or [] if "=" in word)]:
            parse_layout(text)
    else:
        load_config(Path(given.get("config") or "run.yaml"), given.get("overrides") or [])


def test_every_mark_is_of_a_command_and_names_tests() -> None:
    marked = [words for words in map(shlex.split, COMMANDS) if is_long(words)]
    for word, where in LONG.items():
        assert any(word in words for words in marked), word
        assert (ROOT / where).exists(), where
    assert len(COMMANDS) - len(marked) > 60
