"""However a run is ended, all of it ends: ranks, reward workers, ports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from .command import ASPO, Finished, RunFolder, finish, start, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Training:
    """A run that is past its second step, with all its processes and the sockets they listen on."""

    command: subprocess.Popen[str]
    ranks: dict[int, psutil.Process]
    others: list[psutil.Process]
    sockets: set[tuple[str, str]]

    def assert_all_ends(self) -> Finished:
        """Wait for the command, then see that nothing is left of it."""
        done = finish(self.command, timeout=30)
        _, alive = psutil.wait_procs([*self.ranks.values(), *self.others], timeout=5)
        assert alive == []
        assert not self.sockets & listening()
        return done


def listening() -> set[tuple[str, str]]:
    """Address and inode of each TCP socket of this machine that listens: another one may get the port, not both."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {(fields[1], fields[9]) for fields in map(str.split, lines) if fields[3] == "0A"}


LEFT = re.compile(
    r"interrupted by SIGINT; (no state is saved yet|the last saved state is step-\d+); "
    r"to resume: aspo train run/config\.yaml\n"
)


@pytest.fixture
def training(tmp_path: Path, work: Path) -> Training:
    settings = ["parallel.tp=2", "train.steps=100000", "eval.every=0", "eval.max_problems=2", "reward.workers=2"]
    command = start([*ASPO, "train", str(work / "small.yaml"), "output_dir=run", *settings], tmp_path)
    run = RunFolder(tmp_path / "run")
    wait_until(lambda: len(run.metrics()) > 2 or command.poll() is not None, "the second step")
    assert command.poll() is None, finish(command)
    processes = psutil.Process(command.pid).children(recursive=True)
    ranks = {int(p.environ()["RANK"]): p for p in processes if "aspo_megatron.launch.rank" in p.cmdline()}
    workers = [p for p in processes if any("multiprocessing.spawn" in word for word in p.cmdline())]
    assert ranks.keys() == {0, 1}
    assert len(workers) == 2
    connections = [connection for rank in ranks.values() for connection in rank.net_connections("tcp")]
    ports = {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert int(ranks[0].environ()["MASTER_PORT"]) in ports
    everywhere = [one for process in processes for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
    assert {one.laddr.ip for one in everywhere} == {"127.0.0.1"}  # no other machine reaches any of them
    others = [process for process in processes if process not in ranks.values()]
    sockets = {(address, inode) for address, inode in listening() if int(address.rpartition(":")[2], 16) in ports}
    assert len(sockets) >= len(ports)
    return Training(command, ranks, others, sockets)


@pytest.mark.thorough
def test_interrupt_from_the_terminal(training: Training) -> None:
    """Ctrl-C goes to the whole process group."""
    os.killpg(training.command.pid, signal.SIGINT)
    done = training.assert_all_ends()
    assert done.code == 130
    assert LEFT.fullmatch(done.stderr)


@pytest.mark.thorough
def test_interrupt_of_the_command_alone(training: Training) -> None:
    """As `kill`, a job scheduler or a service manager does."""
    training.command.send_signal(signal.SIGINT)
    done = training.assert_all_ends()
    assert done.code == 130
    assert LEFT.fullmatch(done.stderr)


def test_killed_command(training: Training) -> None:
    """Nothing can be tidied up by a command that was killed: the ranks see to themselves."""
    training.command.kill()
    assert training.assert_all_ends().code == -signal.SIGKILL


@pytest.mark.thorough
def test_killed_rank(training: Training, tmp_path: Path) -> None:
    """The others fail for want of it a moment later; it is the one that is named."""
    training.ranks[1].kill()
    done = training.assert_all_ends()
    assert done.code == 1
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("rank 1 of 2 was killed by SIGKILL")
    assert "" not in done.stderr.splitlines()
    assert last == "error: rank 1 failed and the run was ended; all output is in run/logs/rank*.log"
    assert "rank 0 of 2" not in done.stderr
    assert "Connection" in (tmp_path / "run" / "logs" / "rank0.log").read_text()  # its error is kept
