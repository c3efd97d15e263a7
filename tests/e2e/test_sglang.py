"""Training with real SGLang servers, from `aspo serve` and from the run itself, through the death of all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .command import ASPO, RunFolder, aspo, finish, start, wait_until

SGLANG_PYTHON = Path(__file__).parents[2] / ".venv-sglang" / "bin" / "python"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.sglang,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not SGLANG_PYTHON.exists(), reason="SGLang is not installed: make sglang-cpu"),
]

KEY = "key-to-all-doors"
SERVERS = f"rollout.servers={{python: {SGLANG_PYTHON}, count: 2, max_cached_tokens: 4096, api_key_file: key}}"
TRAINER = ["parallel={tp: 2, sequence_parallel: true}", "rollout.engine=sglang", "checkpoint.every=100"]
ROOT = Path(__file__).parents[2]
LEARNS = ["train.steps=8", "eval={every: 0, samples: 4, pass_k: [1], max_problems: 100}", "checkpoint.every=0"]


class Serve:
    """`aspo serve` in a process of its own; `settings` are those of its servers."""

    def __init__(self, work: Path, settings: str) -> None:
        self.file = work / "servers.txt"
        self.file.unlink(missing_ok=True)
        self.work = work
        (work / "key").write_text(KEY)
        argv = ["serve", "small.yaml", "output_dir=serve", settings, "--addresses", str(self.file)]
        self.process = start([*ASPO, *argv], work)
        wait_until(lambda: self.file.exists() or self.process.poll() is not None, "servers", 400)
        assert self.process.poll() is None, finish(self.process).stderr
        self.urls = self.file.read_text().split()

    @property
    def addresses(self) -> str:
        return f"rollout.servers={{addresses: [{','.join(self.urls)}], api_key_file: {self.work / 'key'}}}"

    def server(self, number: int) -> psutil.Process:
        """The process of a server."""
        port = self.urls[number].rpartition(":")[2]
        mine = [child for child in psutil.Process(self.process.pid).children() if child.status() != "zombie"]
        (found,) = [process for process in mine if f"--port {port} " in " ".join(process.cmdline())]
        return found

    def end(self) -> list[psutil.Process]:
        """Ctrl-C; all that it had started."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return started


@pytest.fixture(scope="module", autouse=True)
def key(work: Path) -> None:
    (work / "key").write_text(KEY)


@pytest.fixture(scope="module")
def serve(work: Path) -> Iterator[Serve]:
    serving = Serve(work, SERVERS)
    yield serving
    if serving.process.poll() is None:
        serving.end()


def on_the_way(work: Path, name: str, *overrides: str) -> subprocess.Popen[str]:
    return start([*ASPO, "train", "small.yaml", f"output_dir={name}", *TRAINER, *overrides], work)


def figures(run: RunFolder, name: str) -> list[float]:
    return [line[name] for line in run.metrics() if name in line]


@pytest.mark.thorough
def test_a_run_with_two_servers_learns_as_with_the_embedded_engine(work: Path, serve: Serve) -> None:
    run, other = RunFolder(work / "two-servers"), RunFolder(work / "embedded")
    for folder, engine in ((run.path, ["rollout.engine=sglang", serve.addresses]), (other.path, [])):
        done = aspo("train", "examples/tiny/run.yaml", f"output_dir={folder}", *LEARNS, *engine, folder=ROOT)
        assert (done.code, done.stderr) == (0, "")
    assert [line["step"] for line in run.metrics() if "loss/total" in line] == list(range(1, 9))
    assert set(figures(run, "sync/servers")) == {2.0}
    # Both servers compute with the trainer's weights, before, in between and after.
    assert max(figures(run, "engine_log_prob_diff/max")) < 1e-4
    gains = [r.summary()["heldout_after"] - r.summary()["heldout_before"] for r in (run, other)]
    assert min(gains) > 0.03, gains


@pytest.mark.thorough
def test_nobody_sees_the_key_and_nobody_is_served_without_it(work: Path, serve: Serve) -> None:
    for process in psutil.process_iter(["cmdline"]):
        assert KEY not in " ".join(process.info["cmdline"] or [])
    logs = list((work / "serve" / "logs").glob("server*.log"))
    assert [log.stat().st_mode & 0o077 for log in logs] == [0, 0]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{serve.urls[0]}/model_info", timeout=30)


@pytest.mark.thorough
def test_probes_of_the_weights_after_every_sync(work: Path, serve: Serve) -> None:
    settings = ["rollout.servers.probe_every=1", "rollout.servers.sync=disk", "train.steps=2", "eval.every=0"]
    done = finish(on_the_way(work, "probed", serve.addresses, *settings))
    assert (done.code, done.stderr) == (0, "")
    differences = figures(RunFolder(work / "probed"), "sync/probe_difference")
    assert len(differences) == 2
    assert max(differences) < 1e-5


@pytest.mark.thorough
def test_a_server_of_another_model_is_found_out(work: Path, serve: Serve) -> None:
    settings = ["rollout.servers.probe_tolerance=1e-12"]
    done = finish(on_the_way(work, "distrustful", serve.addresses, *settings))
    assert done.code == 2
    assert "computes other log-probs than the trainer" in done.stderr
    assert serve.urls[0] in done.stderr or serve.urls[1] in done.stderr


@pytest.mark.thorough
def test_a_run_outlives_its_servers(work: Path, serve: Serve) -> None:
    """One is killed, and comes back; then all are gone; then they are there again."""
    run = RunFolder(work / "outlives")
    settings = [
        "train.steps=400",
        "eval.every=0",
        "rollout.servers.recovery_minutes=0.05",
        "rollout.servers.max_failures=1",
    ]
    process = on_the_way(work, "outlives", serve.addresses, *settings)

    def steps() -> list[dict[str, Any]]:
        return [line for line in run.metrics() if "loss/total" in line]

    wait_until(lambda: len(steps()) >= 3, "three steps")
    victim = serve.server(0)
    os.kill(victim.pid, signal.SIGKILL)
    at = len(steps())
    wait_until(lambda: len(steps()) >= at + 3, "three steps on one server")
    assert steps()[-1]["sync/servers"] == 1.0
    wait_until(lambda: steps()[-1]["sync/servers"] == 2.0, "the killed server takes part again", 300)
    left = serve.end()
    done = finish(process)
    assert done.code == 2
    assert len(done.stderr.strip().splitlines()[-1]) < 500
    assert "error: " in done.stderr
    assert serve.urls[0] in done.stderr.strip().splitlines()[-1]
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    last = steps()[-1]["step"]
    assert [line["step"] for line in steps()] == list(range(1, last + 1))

    again = Serve(work, SERVERS)
    try:
        more = [*settings, f"train.steps={last + 2}"]
        done = finish(on_the_way(work, "outlives", again.addresses, *more))
        assert done.code == 0, done.stderr
        assert f"resuming after step {last}" in done.stdout
        assert [line["step"] for line in steps()] == list(range(1, last + 3))
    finally:
        again.end()


def test_a_run_starts_its_own_servers_and_leaves_none(work: Path) -> None:
    settings = [SERVERS, "rollout.servers.count=1", "train.steps=1", "eval.every=0"]
    done = finish(on_the_way(work, "own", *settings), 600)
    assert (done.code, done.stderr) == (0, "")
    assert set(figures(RunFolder(work / "own"), "sync/servers")) == {1.0}
    assert not [p for p in psutil.process_iter(["cmdline"]) if f"{work}" in " ".join(p.info["cmdline"] or [])]


@pytest.mark.thorough
def test_no_sglang_is_said_at_once(work: Path) -> None:
    done = aspo(
        "train", "small.yaml", "output_dir=none", "rollout={engine: sglang, servers: {python: /no/python}}", folder=work
    )
    assert done.code == 2
    assert "rollout.servers.python=/no/python" in done.stderr
    assert "make sglang-cpu" in done.stderr
