"""Each limit of a program by one program that goes beyond it, and one that does not."""

from __future__ import annotations

import pytest

from aspo_megatron.rewards.programs.sandbox import Limits, Sandbox, find_mode

MEMORY, FILES = 256 << 20, 1 << 20
BEYOND = {
    "memory": ("x = bytes(64 << 20)", "x = bytes(1 << 30)"),
    "open files": ("f = [open('/dev/null') for _ in range(20)]", "f = [open('/dev/null') for _ in range(100)]"),
    "processes": ("import os", "import os\nos.fork() or os._exit(0)"),
    "network": ("import socket", "import socket\nsocket.socket()"),
    "capabilities": ("import os\nos.getuid()", "import os\nos.setgroups([0])"),
    "core files": (
        "import resource as r\nassert r.getrlimit(r.RLIMIT_CORE) == (0, 0)",
        "import resource as r\nr.setrlimit(r.RLIMIT_CORE, (1, 1))",
    ),
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(find_mode("auto"), Limits(seconds=20.0, memory=MEMORY, files=FILES), packages=False) as running:
        yield running


@pytest.mark.parametrize("limit", BEYOND)
def test_what_is_beyond_a_limit_fails(sandbox, limit):
    within, beyond = BEYOND[limit]
    assert sandbox.run(f"{within}\nprint(input())", "given").output == b"given\n"
    assert sandbox.run(f"{beyond}\nprint('won')", "").output == b""


def test_time_and_what_one_program_leaves(sandbox):
    assert sandbox.run("import time\ntime.sleep(60)", "", seconds=0.3).status == "late"
    if find_mode("auto") == "namespaces":
        assert sandbox.run("open('left', 'w').write('x')\nprint(1)", "").output == b"1\n"
        assert sandbox.run("open('left', 'wb').write(bytes(4 << 20))\nprint('won')", "").output == b""
    assert sandbox.run("import os\nprint(os.listdir('.'))", "").output == b"[]\n"
