"""The frame of the check: what becomes of sections that fail in every way, of time, and of a machine without a GPU."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from children import are_gone
from thorough import some_of

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import runner
from benchmarks.gpu_check.lines import Line, Status
from benchmarks.gpu_check.runner import Outcome, Plan, run_sections
from benchmarks.gpu_check.sections import SECTIONS, Section

BODIES = {
    "good": "sheet.at_most('small', 0.5, 1.0, reference='one')",
    "wrong": "sheet.at_most('large', 2.0, 1.0, reference='one')",
    "raises": "sheet.holds('before', True, reference='')\nprint('some words')\nraise ValueError('a bad value')",
    "signal": "import os\nsheet.holds('before', True, reference='')\nos.kill(os.getpid(), 11)",
    "parts": """
        with sheet.part('the first'):
            sheet.holds('before', True, reference='')
            raise TypeError('a bad call')
        with sheet.part('the second'):
            sheet.holds('after', True, reference='')
        """,
    "kernel": """
        import torch
        with sheet.part('the first'):
            raise torch.AcceleratorError('an illegal address')
        """,
    "place": """
        sheet.holds('an absolute folder', place.work.is_absolute(), reference='')
        sheet.at_most('seconds that are left', place.seconds, 2997.0, reference='')
        """,
    "silent": "pass",
    "leaves": "import sys\nsheet.holds('before', True, reference='')\nsys.exit(3)",
    "hangs": """
        import os, subprocess, sys, time
        sheet.holds('before', True, reference='')
        sleeper = [sys.executable, '-c', 'import time; time.sleep(600)']
        same_group = subprocess.Popen(sleeper)
        other_group = subprocess.Popen(sleeper, start_new_session=True)
        pids = [os.getpid(), same_group.pid, other_group.pid]
        (place.work / 'pids').write_text(' '.join(map(str, pids)))
        (place.work / 'begun').touch()
        time.sleep(600)
        """,
    "orphan": """
        import subprocess, sys
        code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
        code += "start_new_session=True, stdout=subprocess.DEVNULL); print(p.pid)"
        pid = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, start_new_session=True)
        sheet.measured('pid', float(pid.stdout), '')
        """,
    "half": """
        import os
        sheet.holds('before', True, reference='')
        with sheet._path.open('a') as file:
            file.write('{"section": "half", ')
        os._exit(7)
        """,
}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Sections of every kind, found by their processes through PYTHONPATH."""
    for name, body in BODIES.items():
        code = f"def run(sheet, place):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
        (tmp_path / f"section_{name}.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Plan((), tmp_path / "out", True, 0, 600.0, {**os.environ, "PYTHONPATH": path})


def section(name: str, seconds: float = 1000.0, gpus: int = 1) -> Section:
    return Section(name, f"Title of {name}", f"section_{name}", seconds, gpus)


def run(plan: Plan, *sections: Section, cpu: bool = True, gpus: int = 0, budget: float = 1e6) -> Outcome:
    shown: list[Line] = []
    kept: list[int] = []
    whole = Plan(sections, plan.out, cpu, gpus, budget, plan.env)
    outcome = run_sections(whole, shown.append, lambda outcome: kept.append(len(outcome.lines)))
    assert shown == outcome.lines
    assert len(kept) == len(sections)
    assert kept[-1] == len(shown)
    return outcome


def rows(outcome: Outcome, name: str) -> list[tuple[str, Status]]:
    return [(line.name, line.status) for line in outcome.lines if line.section == name]


DYING = [
    ("raises", ["exit code 1", "some words", "ValueError: a bad value"]),
    ("signal", ["killed by SIGSEGV", "section_signal.py"]),
    ("leaves", ["exit code 3"]),
    ("half", ["exit code 7"]),
]


@pytest.mark.parametrize(("name", "said"), some_of(DYING, DYING[1:2]))
def test_section_that_dies_keeps_its_lines_and_does_not_end_the_others(plan: Plan, name: str, said: list[str]) -> None:
    outcome = run(plan, section(name), section("good"))
    assert rows(outcome, name) == [("before", Status.ON_CPU), ("runs to its end", Status.FAILED)]
    note = next(line.note for line in outcome.lines if line.status is Status.FAILED)
    assert all(words in note for words in said), note
    assert rows(outcome, "good") == [("small", Status.ON_CPU)]
    assert (plan.out / "sections" / name / "work").is_dir()
    assert not (plan.out / "sections" / "good" / "work").exists()


def test_error_in_a_part_of_a_section_does_not_end_the_others(plan: Plan) -> None:
    outcome = run(plan, section("parts"), section("kernel"))
    passed, failed = Status.ON_CPU, Status.FAILED
    assert rows(outcome, "parts") == [("before", passed), ("the first: runs to its end", failed), ("after", passed)]
    assert outcome.lines[1].note == "TypeError: a bad call"
    assert "raise TypeError" in (plan.out / "sections" / "parts" / "output.txt").read_text()
    assert rows(outcome, "kernel") == [("runs to its end", failed)]  # nothing can be shown after it


def test_section_is_told_what_its_process_has_left(plan: Plan) -> None:
    (absolute, left) = run(plan, section("place")).lines
    assert absolute.status is Status.ON_CPU
    assert left.status is Status.ON_CPU
    assert left.figure is not None
    assert left.figure > 2800.0


def test_section_without_a_line_or_a_module_has_not_shown_anything(plan: Plan) -> None:
    outcome = run(plan, section("silent"), section("missing"))
    assert rows(outcome, "silent") == [("shows something", Status.FAILED)]
    assert rows(outcome, "missing") == [("runs to its end", Status.FAILED)]


class Clock:
    """Jumps ahead when the section that hangs has begun to, however long that took."""

    def __init__(self, plan: Plan, jump: float) -> None:
        self._begun, self._jump = plan.out / "sections" / "hangs" / "work" / "begun", jump
        self.sleep = time.sleep

    def monotonic(self) -> float:
        return time.monotonic() + (self._jump if self._begun.exists() else 0.0)


def test_section_that_hangs_is_ended_with_all_that_it_started(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "time", Clock(plan, 4000.0))
    outcome = run(plan, section("hangs", seconds=1000.0), section("good", seconds=1000.0), budget=1e6)
    assert rows(outcome, "hangs") == [("before", Status.ON_CPU), ("runs to its end", Status.FAILED)]
    assert "not finished after 3000 s" in outcome.lines[1].note
    assert rows(outcome, "good") == [("small", Status.ON_CPU)]
    pids = (plan.out / "sections" / "hangs" / "work" / "pids").read_text().split()
    assert len(pids) == 3
    assert are_gone(map(int, pids))


def test_nothing_is_left_of_a_section_that_ended_well(plan: Plan) -> None:
    (line,) = run(plan, section("orphan")).lines
    assert line.figure is not None
    assert are_gone([int(line.figure)])


def test_what_no_time_is_left_for_is_named(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "time", Clock(plan, 4000.0))
    cut = run(plan, section("hangs", seconds=1000.0), section("good", seconds=1000.0), budget=2000.0)
    assert rows(cut, "hangs") == [("before", Status.ON_CPU), ("the rest of it", Status.NOT_DONE)]
    assert rows(cut, "good") == [("Title of good", Status.NOT_DONE)]
    assert "no time" in cut.lines[2].note
    assert cut.unfinished == ["hangs", "good"]
    assert not any(line.status is Status.FAILED for line in cut.lines)


def test_what_needs_more_gpus_is_named(plan: Plan) -> None:
    outcome = run(plan, section("good", gpus=2), cpu=False, gpus=1)
    assert rows(outcome, "good") == [("Title of good", Status.NOT_DONE)]
    assert outcome.lines[0].note == "needs 2 GPUs, 1 here"
    assert not (plan.out / "sections" / "good").exists()
    assert rows(run(plan, section("good", gpus=2)), "good") == [("small", Status.ON_CPU)]  # its small form needs none


def options(*argv: str) -> object:
    return command._parser().parse_args(argv)


@pytest.mark.parametrize(
    ("argv", "gpus", "lines", "unfinished", "code"),
    [
        ((), 1, [Status.PASSED], [], command.ALL_SHOWN),
        ((), 1, [Status.PASSED, Status.NOT_DONE], ["nccl", "weight_sync"], command.ALL_SHOWN),
        ((), 1, [Status.PASSED, Status.NOT_DONE], ["train"], command.UNFINISHED),
        (("--only", "start,nccl"), 1, [Status.PASSED, Status.NOT_DONE], ["nccl"], command.UNFINISHED),
        ((), 2, [Status.PASSED, Status.NOT_DONE], ["nccl"], command.UNFINISHED),
        ((), 1, [Status.PASSED, Status.FAILED], ["train"], command.SOMETHING_FAILED),
        ((), 0, [Status.ON_CPU], [], command.NO_GPU),
        ((), 0, [Status.ON_CPU, Status.FAILED], [], command.SOMETHING_FAILED),
        (("--cpu",), 0, [Status.ON_CPU], [], command.ALL_SHOWN),
        (("--cpu",), 0, [Status.ON_CPU], ["train"], command.UNFINISHED),
    ],
)
def test_exit_codes(argv: list[str], gpus: int, lines: list[Status], unfinished: list[str], code: int) -> None:
    outcome = Outcome([Line("s", "n", status, None, "", "", "", "", 0.0) for status in lines], unfinished)
    given = command._parser().parse_args(argv)
    assert command.exit_code(outcome, given.only or SECTIONS, given, gpus=gpus) == code


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "strat"], "no section strat; there are start, attention"),
        (["--only", ","], "no section named"),
        (["--budget", "0"], "'0' is no number of seconds above 0"),
        (["--budget", "nan"], "'nan' is no number"),
        (["--speed"], "unrecognized arguments: --speed"),
    ],
)
def test_bad_arguments_are_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(argv)
    assert ended.value.code == command.BAD_ARGUMENTS
    output = capsys.readouterr()
    assert said in output.err
    assert (output.err.count("\n"), output.out) == (1, "")


def test_list_names_the_sections_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    names = [row.split()[0] for row in capsys.readouterr().out.splitlines()]
    assert names == [one.name for one in SECTIONS]
    one_gpu = (
        "attention attention_time ceilings layer log_prob matrix model start step_time train two_processes update "
    )
    one_gpu += "update_time weights"
    assert sorted(one.name for one in SECTIONS if one.gpus == 1) == one_gpu.split()
    assert sorted(one.name for one in SECTIONS if one.gpus == 2) == ["nccl", "weight_sync"]


@pytest.mark.parametrize("number", some_of([signal.SIGINT, signal.SIGTERM], [signal.SIGTERM]))
def test_interrupted_check_ends_what_runs_and_writes_what_it_has(tmp_path: Path, plan: Plan, number: int) -> None:
    """A whole process, whose sections are replaced by one that hangs and one after it."""
    code = """
        import sys
        from benchmarks.gpu_check import __main__ as command
        from benchmarks.gpu_check.sections import Section
        sections = tuple(Section(name, name, f"section_{name}", 1000.0) for name in ("hangs", "good"))
        command.SECTIONS = sections
        sys.exit(command.main(["--out", sys.argv[1], "--budget", "10000"]))
        """
    argv = [sys.executable, "-c", textwrap.dedent(code), str(plan.out)]
    process = subprocess.Popen(argv, env=dict(plan.env), stdout=subprocess.PIPE, text=True)
    pids = plan.out / "sections" / "hangs" / "work" / "pids"
    while not pids.with_name("begun").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == command.INTERRUPTED
    assert are_gone(map(int, pids.read_text().split()))
    assert "0 passed, 0 failed, 0 measured, 2 not done" in output
    report = json.loads((plan.out / "gpu_check.json").read_text())
    assert [(line["section"], line["status"]) for line in report["lines"]] == [
        ("hangs", "held on cpu"),
        ("hangs", "not done"),
        ("good", "not done"),
    ]


def test_without_a_gpu_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    monkeypatch.setattr(command, "SECTIONS", (section("good"),))
    monkeypatch.setattr(command, "_end_by_signals", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("PYTHONPATH", plan.env["PYTHONPATH"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command.main(["--out", str(plan.out), "--budget", "10000"]) == command.NO_GPU
    report = json.loads((plan.out / "gpu_check.json").read_text())
    assert report["small"]
    assert report["totals"] == {"passed": 0, "failed": 0, "held on cpu": 1, "measured": 0, "not done": 0}
    assert "says nothing of a GPU" in (plan.out / "gpu_check.html").read_text()
