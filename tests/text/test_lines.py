"""What is shown in a line stays in it: a value in the text of a line is a number, or in one line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aspo_megatron
from aspo_megatron.rollout.client import ServerError
from text.test_printers import name_of

ROOT = Path(aspo_megatron.__file__).parent
SHOWS = {"show", "say", "tell", "warn", "message", "_tell", "_warn", "write", "Outcome"}
ONE_LINE = {"one_line", "len", "reason_of", "markdown", "named"}


PLAIN: dict[str, set[str]] = {
    "checkpoint/states/folders.py": {"why"},
    "checkpoint/states/warmup_weights.py": {"then"},
    "cli/app.py": {"__version__"},
    "cli/entry.py": {"error", "lost[0].strerror"},
    "cli/losses.py": {"each.key", "value"},
    "cli/convert.py": {"count", "counted(layout.world_size, 'rank')"},
    "data/sources/jsonl.py": {"key"},
    "data/sources/read.py": {"key"},
    "data/sources/tables.py": {"key"},
    "check/crowding.py": {"told"},
    "evaluation/start.py": {"crowded", "found", "wanted.benchmark.dataset", "wanted.benchmark.problems", "wanted.name"},
    "evaluation/main.py": {"each", "estimate", "some"},
    "launch/launcher.py": {"signal.Signals(watch.interrupted).name"},
    "launch/outcome.py": {"body", "end", "first.text or ''.join(tail[-1:])", "head", "verdict.text"},
    "evaluation/progress.py": {"average", "done", "self._before", "self._name", "self._total"},
    "metrics/progress.py": {"_duration(left)"},
    "metrics/truncate_on_resume.py": {"'; '.join(told)"},
    "metrics/record.py": {"failure", "name", "reason", "type(error).__name__", "where"},
    "simulation/beside_plan.py": {"child.rank", "figures.stage", "peak"},
    "cli/plan.py": {"simulation_text(run, ranks, left_out, made.ranked_on)", "plan_text(made)"},
    "cli/views/compare.py": {"table.markdown()"},
    "cli/views/plot.py": {"ends"},
    "quantize/run.py": {"asked", "texts.tokens"},
    "rollout/build.py": {"address"},
    "rollout/sglang/local_servers.py": {"log", "what"},
    "train/outputs.py": {"error", "step"},
    "train/phase_timer.py": {"error", "step"},
    "train/save_and_resume.py": {"error", "state.step"},
    "slurm/job.py": {"missing(folder)"},
    "train/start.py": {"_left_at(run)", "crowded", "done", "outcome.text"},
    "rollout/sglang/serving.py": {"' '.join(servers.urls)", "settings.count"},
    "streams.py": {"end", "reason", "safe(text)"},
    "train/policy_engine.py": {"lost", "said"},
    "cli/table.py": {"one.markdown()"},
    "train/main.py": {"counted(summary['heldout_problems'], 'problem')", "counted(summary['steps'], 'step')"},
}
"""By file, what is in one line by itself."""


def loose(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each value in what is shown that may hold more than a line."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or name_of(call).removeprefix(".") not in SHOWS:
            continue
        for text in call.args[:1]:
            whole = isinstance(text, ast.Call) and name_of(text) == "one_line"
            for value in () if whole else ast.walk(text):
                if not isinstance(value, ast.FormattedValue) or value.format_spec or value.conversion == ord("r"):
                    continue
                if not (isinstance(value.value, ast.Call) and name_of(value.value) in ONE_LINE):
                    yield call.lineno, ast.unparse(value.value)


def test_what_is_shown_stays_in_its_line() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        for _, value in loose(path.read_text(encoding="utf-8")):
            found.setdefault(file, set()).add(value)
    assert found == PLAIN


@pytest.mark.parametrize(
    "line", ["show(f'a {name}')", "self._tell(f'{a}{one_line(b)}')", "say(f'{x.path}' if y else z)"]
)
def test_a_loose_value_is_found(line: str) -> None:
    assert list(loose(line))


@pytest.mark.parametrize(
    "line", ["show(f'{a:.1f}')", "say(f'{one_line(a)} {a!r}')", "tell(one_line(f'{a}'))", "read(f'{a}')", "show('a')"]
)
def test_what_is_in_its_line(line: str) -> None:
    assert not list(loose(line))


def test_what_a_server_says_is_one_line() -> None:
    assert "\n" not in str(ServerError("http://a", "Bad status line:\n  b'\\n\x1b'"))
