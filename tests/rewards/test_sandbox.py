"""Hostile programs get nothing and leave nothing, in each way of isolating; honest ones in between pass."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from rewards.hostile_programs import CALLS, ENDLESS, PRELUDE, STOPPED

from aspo_megatron.config import CodeConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.programs import compare
from aspo_megatron.rewards.programs.interpreter import package_folders, readable_paths
from aspo_megatron.rewards.programs.reward import CodeScorer
from aspo_megatron.rewards.programs.sandbox import Limits, Sandbox, find_mode

pytestmark = pytest.mark.timeout(240)

CAPTURED: dict[str, Any] = {"capture_output": True, "text": True}
MODES = ("namespaces", "landlock")
HONEST = "print(int(input()) ** 3 % 1000003)"
HONEST_CALL = "class Solution:\n    def cube(self, n):\n        return n ** 3 % 1000003"
GIVEN, EXPECTED = 98765, 98765**3 % 1000003
PROBLEM = Problem("p-0", "?", (1,), None, {"tests": {"inputs": [str(GIVEN)], "outputs": [str(EXPECTED)]}})
CALL = Problem("p-1", "?", (1,), None, {"tests": {"inputs": [[GIVEN]], "outputs": [EXPECTED], "fn_name": "cube"}})


@dataclass(frozen=True)
class Outside:
    """What hostile programs try to get at."""

    names: str
    secret: Path
    canary: Path
    listener: socket.socket

    def is_untouched(self) -> bool:
        self.listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.listener.accept()
        folder = self.canary.parent
        return self.canary.read_text() == "untouched" and sorted(folder.iterdir()) == [self.canary, self.secret]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    try:
        return find_mode(request.param)
    except ConfigError as error:
        pytest.skip(f"no sandbox here: {error}")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    monkeypatch.setenv("ASPO_TEST_SECRET", "abc")
    # Readable for everyone, so that it is not file permissions that keep programs away.
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    secret, canary = tmp_path / "secret-tests.json", tmp_path / "canary"
    secret.write_text(str(EXPECTED))
    canary.write_text("untouched")
    canary.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        values = {
            "PARENT": os.getpid(),
            "SECRET": str(secret),
            "CANARY": str(canary),
            "FOLDER": str(tmp_path),
            "PORT": listener.getsockname()[1],
            "CHECKER": compare.__file__,
        }
        names = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        yield Outside(names, secret, canary, listener)


def is_sandboxed(process: psutil.Process) -> bool:
    return "rewards.programs.jail.init" in " ".join(process.cmdline()) or process.uids().real >= 0x7F000000


def sandboxed() -> list[psutil.Process]:
    """Processes that belong to a sandbox of this process or of nobody; others may run tests of their own."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            parents = process.parents()
            ours = any(parent.pid == os.getpid() for parent in parents)
            nobodys = all(parent.pid == 1 or is_sandboxed(parent) for parent in parents)
            if (ours or nobodys) and is_sandboxed(process):
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = set(sandboxed())
    yield
    deadline = time.monotonic() + 5
    while set(sandboxed()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(sandboxed()) - before == set()
    made = [name for path in ("/etc", "/dev/shm", "/var/tmp", "/tmp") for name in os.listdir(path)]
    assert [name for name in made if name == "aspo-was-here"] == []


def fenced(source: str) -> str:
    return f"Here it is.\n```python\n{source}\n```\n"


def config(mode: str, **options) -> CodeConfig:
    values = {"memory_mib": 256, "output_mib": 1, "files_mib": 8, "packages": False} | options
    return CodeConfig(sandbox=mode, **values)


def test_more_than_forty_programs():
    assert len(STOPPED) + len(ENDLESS) + len(CALLS) > 40


def test_hostile_programs_fail_and_honest_ones_pass(mode, outside):
    scorer = CodeScorer(config(mode, seconds_per_test=10.0), timeout_seconds=100.0)
    assert scorer.score(PROBLEM, fenced(PRELUDE + outside.names + "win()")) == 1.0
    passed = []
    for number, (name, attack) in enumerate(STOPPED.items()):
        if scorer.score(PROBLEM, fenced(PRELUDE + outside.names + attack)) != 0.0:
            passed.append(name)
        if number % 8 == 0:
            assert scorer.score(PROBLEM, fenced(HONEST)) == 1.0, f"after {name!r}"
    assert passed == []
    assert outside.is_untouched()
    assert scorer.score(PROBLEM, fenced(HONEST)) == 1.0
    assert scorer.score(CALL, fenced(HONEST_CALL)) == 1.0
    scorer.close()


def test_endless_programs_end(mode, outside):
    scorer = CodeScorer(config(mode, seconds_per_test=0.5), timeout_seconds=100.0)
    for name, attack in ENDLESS.items():
        assert scorer.score(PROBLEM, fenced(PRELUDE + outside.names + attack)) == 0.0, name
    scorer.close()
    patient = CodeScorer(config(mode), timeout_seconds=100.0)
    assert patient.score(PROBLEM, fenced(HONEST)) == 1.0
    patient.close()


def test_functions_cannot_forge_a_verdict(mode):
    scorer = CodeScorer(config(mode, seconds_per_test=2.0), timeout_seconds=100.0)
    for name, source in CALLS.items():
        assert scorer.score(CALL, fenced(source)) == 0.0, name
    assert scorer.score(CALL, fenced(HONEST_CALL)) == 1.0
    assert scorer.score(CALL, fenced("def cube(n): return pow(n, 3, 1000003)")) == 1.0
    scorer.close()


@pytest.mark.parametrize(
    "bomb",
    [
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "for _ in range(20):\n    if os.fork() == 0:\n        os.setsid()\n        os.fork()\n        time.sleep(1000)",
        "for _ in range(20):\n    if os.fork() == 0:\n        os._exit(0)\ntime.sleep(1000)",
    ],
    ids=["fork bomb", "daemons", "zombies"],
)
def test_processes_die_with_the_program_where_it_may_start_any(bomb):
    """The second line of defence: the system call filter is opened for forks, and namespaces end them all."""
    try:
        find_mode("namespaces")
    except ConfigError as error:
        pytest.skip(f"no sandbox here: {error}")
    limits = Limits(seconds=1.0, memory=256 << 20, tasks=64, processes=True)
    with Sandbox("namespaces", limits, packages=False) as sandbox:
        outcome = sandbox.run("import os, time\nprint('x', flush=True)\n" + bomb, "")
        assert outcome.status in {"late", "failed", "done"}
        assert sandbox.run("import os\nif os.fork(): print(os.wait()[0] > 0)", "").output == b"True\n"
    with pytest.raises(ValueError, match="only in the mode `namespaces`"):
        Sandbox("landlock", limits)


def test_what_a_program_has(mode):
    """Its input, an empty folder (of its own, if it can write), threads, the standard library and numpy."""
    with Sandbox(mode, Limits(seconds=60)) as sandbox:
        assert sandbox.run("import sys; print(sys.stdin.read()[::-1])", "abc").output == b"cba\n"
        assert sandbox.run("import os; print(os.listdir('.'), __name__)", "").output == b"[] __main__\n"
        threads = "import threading\nthreading.Thread(target=lambda: print(sum(range(10)))).start()"
        assert sandbox.run(threads, "").output == b"45\n"
        assert sandbox.run("import numpy as np; print(np.arange(4).sum())", "").output == b"6\n"
        assert sandbox.run("import asyncio; print(asyncio.run(asyncio.sleep(0, 7)))", "").output == b"7\n"
        assert sandbox.run("print(gcd(12, 18), Counter('aab')['a'], pow(2, 3, 5))", "").output == b"6 2 3\n"
        assert sandbox.run("print(1); exit(1)", "").output == b"1\n"
        assert sandbox.call("def f(a, b): return (a, {1: b})", "f", '[1, "x"]').output == b'[1, {"1": "x"}]'
        if mode == "namespaces":
            # Where the environment itself lies below /tmp, as it may on a build machine, that is no other name for it.
            below_tmp = any(path.startswith("/tmp/") for path in readable_paths(package_folders()))
            place = "a" if below_tmp else "/tmp/a"
            written = sandbox.run(f"with open('a', 'w') as f:\n    f.write('x')\nprint(open('{place}').read())", "")
            assert written.output == b"x\n", written
            assert sandbox.run("import os; print(os.listdir('.'))", "").output == b"[]\n"


def test_limits_without_isolation():
    """The mode `rlimits`: no writing, no processes, no network, but the machine's files can be read."""
    with Sandbox("rlimits", Limits(seconds=4, memory=256 << 20), packages=False) as sandbox:
        assert sandbox.run("print(bool(open('/etc/passwd').read()))", "").output == b"True\n"
        assert sandbox.run("while True: pass", "").status == "late"
        for attack in ("os.fork()", "open('x', 'w')", "__import__('socket').socket()", "x = bytes(1 << 30)"):
            assert sandbox.run(f"import os\n{attack}\nprint('won')", "").status == "failed", attack


def test_the_way_that_this_machine_has_keeps_programs_apart(tmp_path):
    """Whichever it is: without one no program is run at all."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    attacks = (
        f"open({str(secret)!r}).read()",
        f"open({str(secret)!r}, 'w')",
        f"os.kill({os.getpid()}, 0)",
        "os.fork()",
        "__import__('socket').create_connection(('127.0.0.1', 9), 1)",
        "x = bytes(1 << 30)",
    )
    with Sandbox(find_mode("auto"), Limits(seconds=4, memory=256 << 20), packages=False) as sandbox:
        assert sandbox.run("print(input())", "honest").output == b"honest\n"
        assert sandbox.run("while True: pass", "").status == "late"
        for attack in attacks:
            assert sandbox.run(f"import os\n{attack}\nprint('won')", "").status == "failed", attack
    assert secret.read_text() == "x"


@pytest.mark.parametrize("mode", ["namespaces", "landlock"])
def test_an_ordinary_user_can_have_it(mode, tmp_path):
    """Started by a user without any rights, where the interpreter can be read by such a user."""
    interpreter = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(interpreter).exists():
        pytest.skip("needs root, to become another user, and the system's Python")
    version = subprocess.run(
        [interpreter, "-c", "import sys; print(sys.version_info[:2] >= (3, 11))"], check=False, **CAPTURED
    )
    if version.stdout != "True\n":
        pytest.skip("the system's Python is older than 3.11")
    find_mode(mode)
    code = f"""
import os, sys
sys.path.insert(0, {str(tmp_path)!r})
os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)
os.environ.clear()
from aspo_megatron.rewards.programs.sandbox import Limits, Sandbox
with Sandbox({mode!r}, Limits(seconds=60), packages=False) as sandbox:
    print(sandbox.run("import os; print(os.getuid() != 0, os.listdir('.'))", ""))
    print(sandbox.run("open({str(tmp_path / "file")!r})", "").status)
"""
    package = tmp_path / "aspo_megatron"
    source = Path(compare.__file__).parents[2]
    modules = (
        "__init__.py",
        "errors.py",
        "foreign_text.py",
        "rewards/__init__.py",
        "rewards/programs/__init__.py",
        "rewards/programs/sandbox.py",
        "rewards/programs/interpreter.py",
    )
    for name in (*modules, "rewards/programs/jail"):
        target = package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", source / name, target], check=True)
    (tmp_path / "file").write_text("x")
    subprocess.run(["chmod", "-R", "a+rX", *(str(p) for p in (tmp_path, *tmp_path.parents[:2]))], check=True)
    done = subprocess.run([interpreter, "-B", "-c", code], check=False, **CAPTURED)
    assert done.stderr == ""
    assert done.stdout == "Outcome(status='done', output=b'True []\\n', detail='')\nfailed\n"


def test_the_sandbox_dies_with_a_killed_parent(mode, tmp_path):
    code = f"""
from aspo_megatron.rewards.programs.sandbox import Limits, Sandbox
sandbox = Sandbox({mode!r}, Limits(seconds=100), packages=False)
print(sandbox.run("print(1)", "").status, flush=True)
sandbox.run("while True: pass", "")
"""
    before = set(sandboxed())
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "done\n"
        time.sleep(0.3)
        assert len(set(sandboxed()) - before) >= 2
        parent.kill()
        parent.wait()
    # `nothing_is_left` waits for the rest.


def test_landlock_where_there_are_no_namespaces():
    """As in an ordinary container: no right to mount, and no user namespaces."""
    code = """
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.programs.sandbox import find_mode
print(find_mode("auto"))
try:
    find_mode("namespaces")
except ConfigError as error:
    print(error)
"""
    without = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -sys_admin"
    outer = ["unshare", "-Ur", "sh", "-c", f'{without} "$@"', "sh"]
    if subprocess.run([*outer, "true"], check=False, **CAPTURED).returncode != 0:
        pytest.skip("needs user namespaces, to take them away, and setpriv")
    find_mode("landlock")
    done = subprocess.run([*outer, sys.executable, "-c", code], check=False, **CAPTURED)
    assert done.stdout.startswith("landlock\nreward.code.sandbox: namespaces does not work on this machine (")
    assert "unshare: No space left on device" in done.stdout


def test_a_mode_that_does_not_work_is_refused(monkeypatch):
    find_mode.cache_clear()
    monkeypatch.setattr("aspo_megatron.rewards.programs.interpreter._FLAGS", ("-c", "raise SystemExit(1)"))
    try:
        with pytest.raises(
            ConfigError, match=r"reward\.code\.sandbox: auto does not work on this machine \(namespaces"
        ):
            find_mode("auto")
        with pytest.raises(ConfigError, match=r"rlimits does not work on this machine"):
            find_mode("rlimits")
    finally:
        find_mode.cache_clear()
