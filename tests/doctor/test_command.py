"""`aspo doctor` on this machine, and its programs that hang, crash or print rubbish."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import are_gone

from aspo_megatron.cli.entry import main
from aspo_megatron.doctor import report
from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, LineGroup
from aspo_megatron.doctor.requirements import read_requirements
from aspo_megatron.errors import ConfigError
from doctor.machines import Imitated, eight_gpus, requirements_of

ROOT = Path(__file__).parents[2]


def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["aspo", "doctor", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def program(folder: Path, name: str, script: str) -> None:
    """An executable shell script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_this_machine_is_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(monkeypatch, capsys)
    assert code == 0, out
    assert out.splitlines()[0] == "Python and packages"
    assert " 0 wrong; next: aspo recipes tiny, aspo train tiny/run.yaml" in out.splitlines()[-1]


def test_a_recipe_is_told_what_it_lacks_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("examples/qwen3_8b/run.yaml", f"model.path={tmp_path}/Qwen3-8B", f"output_dir={tmp_path}/run", "--json")
    code, out, _ = doctor(monkeypatch, capsys, *words)
    made = json.loads(out)
    lines = {line["what"]: line for line in made["lines"]}
    assert code == made["exit_code"] == 1
    assert lines["model.path"]["mark"] == "wrong"
    assert lines["model.path"]["found"] == f"there is no folder {tmp_path}/Qwen3-8B"
    assert made["counts"]["wrong"] == sum(line["mark"] == "wrong" for line in made["lines"])
    assert set(lines["model.path"]) == {"group", "mark", "what", "found", "todo"}
    assert made["next"].endswith("aspo doctor " + " ".join(words[:-1]))


def test_a_run_that_works_here_has_nothing_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = doctor(monkeypatch, capsys, "examples/tiny/run.yaml", f"output_dir={tmp_path}/run")
    assert code == 0, out
    assert "examples/tiny/model, llama" in out
    assert out.splitlines()[-1].endswith(f"next: aspo train examples/tiny/run.yaml output_dir={tmp_path}/run")


def test_what_a_configuration_names_is_looked_for(tmp_path: Path) -> None:
    words = [f"data.train={{kind: jsonl, path: {tmp_path}/none.jsonl}}", "parallel.tp=3", f"output_dir={tmp_path}"]
    (tmp_path / "something").touch()
    host = Host()
    lines = {
        line.what: line
        for group in report.examine(host, read_requirements(ROOT / "examples" / "tiny" / "run.yaml", words, host))
        for line in group.lines
    }
    assert {what for what in ("layout", "data.train.path", "output_dir") if lines[what].mark == "wrong"} == {
        "layout",
        "data.train.path",
        "output_dir",
    }
    assert "parallel.tp=3 does not divide" in lines["layout"].found


def test_settings_alone_change_the_default_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = Host.which  # a machine that submits jobs need have no GPU
    monkeypatch.setattr(Host, "which", lambda self, program: None if program == "sbatch" else find(self, program))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    code, out, _ = doctor(monkeypatch, capsys, "platform.device=cuda", "--json")
    (line,) = (line for line in json.loads(out)["lines"] if line["what"] == "GPUs for the run")
    assert line["mark"] == ("ok" if torch.cuda.is_available() else "wrong")
    assert torch.cuda.is_available() or code == 1


def test_a_wrong_setting_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = doctor(monkeypatch, capsys, "rollout.engin=sglang")
    assert (code, out) == (2, "")
    assert err.startswith("error: rollout.engin: unknown key")
    assert doctor(monkeypatch, capsys, "none.yaml")[0] == 2


def test_a_torch_that_cannot_be_imported_is_a_line(tmp_path: Path) -> None:
    """In a process of its own: a folder before the environment's has a `torch` that lacks a library."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    command = [sys.executable, "-m", "aspo_megatron.cli", "doctor", "examples/tiny/run.yaml"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "WRONG import torch         OSError: libcudart.so.13: cannot open shared object file" in done.stdout
    assert (
        f"PYTHONPATH           {tmp_path} has torch, which Python imports instead of what is installed" in done.stdout
    )


def test_an_nvidia_smi_that_prints_rubbish_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program(tmp_path / "bin", "nvidia-smi", r"printf '\377\376\000 no table\n'")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    _, out, _ = doctor(monkeypatch, capsys)
    assert "what it prints is not understood" in out


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    program(tmp_path, "stuck", f"trap '' TERM\nsleep 3600 & echo $! >{tmp_path}/child\nwait\nsleep 3600")
    answer = Host().run([str(tmp_path / "stuck")], 3)
    assert answer.problem == "no answer within 3 s"
    assert answer.complaint == answer.problem
    assert are_gone([int((tmp_path / "child").read_text())])


def test_programs_that_are_not_there_or_no_programs(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    assert Host().run(["aspo-no-such-program"], 5).problem == "not found"
    assert Host().run([str(tmp_path / "text")], 5).problem.startswith("cannot be started (")
    program(tmp_path, "fails", "echo so >&2; exit 3")
    answer = Host().run([str(tmp_path / "fails")], 5)
    assert (answer.code, answer.complaint, answer.good) == (3, "so", False)


def test_a_check_that_fails_by_itself_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[Line]:
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(report, "memory_lines", broken)
    monkeypatch.setattr(report, "read_sglang", broken)
    host = Imitated(eight_gpus())
    groups = report.examine(host, requirements_of(host=host))
    assert [group.name for group in groups][-1] == "Environment variables"
    (memory,) = (group for group in groups if group.name == "Memory")
    assert memory.lines == (Line("unknown", "a check", "failed: RuntimeError: not foreseen"),)
    assert report.exit_code(groups) == 0


@pytest.mark.parametrize(("mark", "code"), [("ok", 0), ("warn", 0), ("unknown", 0), ("unneeded", 0), ("wrong", 1)])
def test_only_what_is_wrong_changes_the_exit_code(mark: str, code: int) -> None:
    groups = [LineGroup("a", (Line("ok", "one", "there"), Line(mark, "two", "found", "mend it")))]  # type: ignore[arg-type]
    assert report.exit_code(groups) == code
    shown = report.text(groups, requirements_of(host=Imitated()))
    assert "-> mend it" in shown


@pytest.mark.parametrize("config", ["[]", "null", '"text"', "{", '{"model_type": 7}'])
def test_a_model_whose_config_is_rubbish_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    code, out, err = doctor(monkeypatch, capsys, "examples/tiny/run.yaml", f"model.path={tmp_path}", "--json")
    (line,) = (line for line in json.loads(out)["lines"] if line["what"] == "model.path")
    assert (code, line["mark"], err) == (1, "wrong", "")
    assert str(tmp_path) in line["found"]


def test_what_may_not_be_read_is_said_to_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root reads everything, so the file system's answers are imitated."""
    closed = tmp_path / "closed"

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            if str(path).startswith(str(closed)):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *args, **options)

        return call

    for name in ("stat", "listdir", "open"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    host = Host()
    problems = f"data.train={{kind: jsonl, path: {closed}/train.jsonl}}"
    config = ROOT / "examples" / "tiny" / "run.yaml"
    groups = report.examine(host, read_requirements(config, [f"output_dir={closed}/run", problems], host))
    (group,) = (group for group in groups if group.name == "The run")
    assert [(line.what, line.mark) for line in group.lines] == [
        ("model.path", "ok"),
        ("data.train.path", "wrong"),
        ("output_dir", "wrong"),
    ]
    assert all("Permission denied" in line.found for line in group.lines[1:])
    with pytest.raises(ConfigError, match=f"{closed}/model.*: Permission denied"):
        read_requirements(config, [f"model.path={closed}/model"], host)


def test_a_folder_is_no_file_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    host = Host()
    assert host.unreadable(tmp_path) == "Is a directory"
    assert host.unreadable(tmp_path / "pipe") == ""
    assert host.unreadable(tmp_path / "pipe", folder=True) == "Not a directory"
    assert host.unreadable(tmp_path / "none") == "No such file or directory"
