"""Ranks that this machine does not bear: train, check and eval refuse them before any starts, or warn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e.command import SETTINGS, Finished
from e2e.test_bad_input import call_main

from aspo_megatron.evaluation import start as evaluation_start
from aspo_megatron.launch.outcome import Outcome
from aspo_megatron.plan import cpu_ranks
from aspo_megatron.plan.machine import ThisMachine, available_memory, usable_cores
from aspo_megatron.train import start as train_start

GIB = 1 << 30
Aspo = Callable[..., Finished]


@dataclass
class Other(ThisMachine):
    """A machine of some cores and some memory."""

    files: dict[str, str] = field(default_factory=dict)
    count: int = 2

    def read(self, path: str | Path) -> str | None:
        return self.files.get(str(path))

    def cores(self) -> int:
        return self.count


def machine(cores: int, gib: float) -> Other:
    return Other({"/proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {int(gib * 2**20)} kB\n"}, cores)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ranks were started, in the place of starting them."""
    counts: list[int] = []

    def run_ranks(module: str, argv: Sequence[str], processes: int, threads: int, **options: object) -> Outcome:
        counts.append(processes)
        return Outcome("stopped by the test", 1)

    monkeypatch.setattr(train_start, "run_ranks", run_ranks)
    monkeypatch.setattr(evaluation_start, "run_ranks", run_ranks)
    return counts


@pytest.fixture
def aspo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Aspo:
    """The command in this process, on a machine of so many cores and GiB."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(SETTINGS)

    def run(*argv: str, cores: int = 2, gib: float = 64.0) -> Finished:
        monkeypatch.setattr(cpu_ranks, "ThisMachine", lambda: machine(cores, gib))
        return call_main([*argv], monkeypatch, capfd)

    return run


def refused(done: Finished) -> str:
    assert done.code == 2
    (line,) = done.stderr.splitlines()
    return line


def test_train_is_refused_beyond_memory(aspo: Aspo, started: list[int], tmp_path: Path) -> None:
    line = refused(aspo("train", "run.yaml", "output_dir=run", "parallel.dp=99", cores=128, gib=16))
    assert line.startswith("error: parallel (tp x cp x dp x pp): 99 ranks would take about ")
    assert "GiB of memory, 0.5 GiB each (0.5 of it for the process itself), but only 16.0 GiB is available" in line
    assert "start at most " in line
    assert not started
    assert not (tmp_path / "run").exists()


def test_one_rank_that_is_too_large_is_told_how_to_be_smaller(aspo: Aspo, started: list[int]) -> None:
    line = refused(aspo("train", "run.yaml", "output_dir=run", gib=0.4))
    assert line.startswith("error: memory: 1 rank would take about ")
    assert "available; set a smaller train.max_tokens_per_micro_batch or rollout.sampling.max_response_tokens" in line
    assert not started


def test_train_is_refused_beyond_four_times_the_cores(aspo: Aspo, started: list[int]) -> None:
    argv = ["train", "run.yaml", "output_dir=run", "parallel.dp=9"]
    line = refused(aspo(*argv))
    assert "9 ranks x 1 thread are more than 4 times the 2 CPU cores here; start at most 8" in line
    assert "platform.more_ranks_than_cores=true" in line
    assert "4 ranks x 3 threads" in refused(aspo(*argv[:3], "parallel.dp=4", "platform.threads_per_rank=3"))
    assert not started
    done = aspo(*argv, "platform.more_ranks_than_cores=true")
    assert started == [9]
    assert "warning: 9 ranks x 1 thread share 2 CPU cores, which is slow" in done.stderr


def test_train_is_warned_beyond_the_cores(aspo: Aspo, started: list[int]) -> None:
    argv = ["train", "run.yaml", "output_dir=run", "parallel.dp=3"]
    assert "warning: 3 ranks x 1 thread share 2 CPU cores" in aspo(*argv).stderr
    assert "warning" not in aspo(*argv, cores=3).stderr
    assert started == [3, 3]


def test_eval_is_refused_and_warned(aspo: Aspo, started: list[int], tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    model = SETTINGS.split("path: ")[1].split(",")[0]
    argv = ["eval", model, "--problems", "problems.jsonl", "--server", "http://127.0.0.1:9"]
    argv += ["data.format=raw", "eval.sampling={max_response_tokens: 4}"]
    assert "--processes 9: 9 ranks x 1 thread are more" in refused(aspo(*argv, "--processes", "9"))
    assert "--processes 9: 9 ranks would take about 4.4 GiB" in refused(aspo(*argv, "--processes", "9", gib=4))
    assert not started
    done = aspo(*argv, "--processes", "3")
    assert started == [3], done.stderr
    assert done.stderr.count("warning: 3 ranks x 1 thread share 2 CPU cores") == 1


def test_check_is_refused(aspo: Aspo) -> None:
    large = ["check", "--layouts", "tp=2", "dp=2,tp=2,pp=4"]
    line = refused(aspo(*large))
    assert "--layouts dp=2,tp=2,pp=4: 16 ranks x 1 thread are more than 4 times the 2 CPU cores here" in line
    assert "set --more-ranks" in line
    assert "16 ranks would take about" in refused(aspo(*large, "--more-ranks", gib=5))
    assert "pp=5" in refused(aspo("check", "--layouts", "pp=5", "--more-ranks"))  # a layout that is wrong at all


def test_more_ranks_than_gpus(aspo: Aspo, started: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    line = refused(aspo("train", "run.yaml", "output_dir=run", "parallel.dp=3"))
    assert "3 ranks need a GPU each, but this machine has 2 (device=auto)" in line
    assert "need a GPU each" in refused(aspo("check", "--layouts", "dp=3"))
    assert not started


def test_what_a_control_group_leaves() -> None:
    files = {
        "/proc/self/cgroup": "0::/\n",
        "/proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
        "/sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    assert available_memory(Other(files)) == 2 * GIB
    assert usable_cores(Other(files, 4)) == 1.5
    del files["/sys/fs/cgroup/memory.max"], files["/sys/fs/cgroup/cpu.max"]
    assert available_memory(Other(files)) == 8 * GIB
    assert usable_cores(Other(files, 4)) == 4.0
    assert available_memory(Other({})) is None
