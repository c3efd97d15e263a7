"""A program finds nothing of those before it and beside it, and has no more threads than it may, in each mode."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest
from rewards.leaking_programs import AT_ONCE, COUNT, LEAKS, NUMBERS, PRELUDE, THREADS

from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.programs.jail import kernel, syscalls
from aspo_megatron.rewards.programs.jail.init import Mode
from aspo_megatron.rewards.programs.jail.threads import has_room
from aspo_megatron.rewards.programs.sandbox import Limits, Sandbox, find_mode

pytestmark = pytest.mark.timeout(240)

MOST = 12
REFUSED = [
    *(
        ("fcntl", f"2, {command}, None")
        for command in (5, 6, 7, 8, 10, 15, 16, 36, 37, 38, 1024, 1026, 1031, 1033, 1036)
    ),
    *(("futex", f"ctypes.byref(ctypes.c_int()), {kind}, 1, None, None, 0") for kind in (1, 3, 4, 5, 6, 10, 257)),
    *(("madvise", f"None, ctypes.c_size_t(0), {advice}") for advice in (3, 9, 12, 20, 21, 22, 23, 25, 100, 101)),
    *(("clock_gettime", f"ctypes.c_long({clock}), ctypes.create_string_buffer(16)") for clock in (-6, -2, 12, 1 << 20)),
    *(("clone", f"{flags}, None, None, None, None") for flags in (17, 0x100, 0x4000, 0x20000000, 0x10000000)),
    *(
        ("socketpair", f"{family}, {kind}, 0, ctypes.create_string_buffer(8)")
        for family, kind in ((1, 2), (1, 5), (2, 1))
    ),
    *(("kill", f"{process}, 0") for process in (0, -1, 1 << 20)),
]
UNFILTERED = {335, 336}
"""The kernel's own, for its probes: it filters them for no one, and ends a process that makes them."""

LOOK = """
import contextlib, io, json
found = {}
for name, source in PROGRAMS.items():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(source, dict(globals()))
    found[name] = said.getvalue()
print(json.dumps(found, indent=0))
"""


@pytest.fixture(scope="module", params=["namespaces", "landlock", "rlimits"])
def mode(request: pytest.FixtureRequest) -> Mode:
    try:
        return find_mode(request.param)
    except ConfigError as error:
        pytest.skip(f"no sandbox here: {error}")


def look(sandbox: Sandbox, programs: Mapping[str, str]) -> list[str]:
    outcome = sandbox.run(f"{PRELUDE}PROGRAMS = {dict(programs)!r}\n{LOOK}", "an input")
    assert outcome.status == "done", outcome
    return outcome.output.decode().splitlines()


def test_nothing_is_left_to_others(mode: Mode) -> None:
    finds = {name: find for name, (_, find) in LEAKS.items()}
    limits = Limits(seconds=60)
    with Sandbox(mode, limits, packages=False) as one, Sandbox(mode, limits, packages=False) as other:
        before = look(one, finds), look(other, finds)
        assert len(before[0]) == len(LEAKS) + 2 > 40
        for name, (leave, _) in LEAKS.items():
            outcome = one.run(PRELUDE + leave, "an input")
            assert outcome.status == "done", (name, outcome)
        assert (look(one, finds), look(other, finds)) == before


def test_calls_that_are_not_listed_do_not_exist(mode: Mode) -> None:
    """Also by the numbers of the other ABI of x86-64; and some that are listed do so for a few arguments only."""
    column = kernel.architecture()
    tables = (syscalls.ALWAYS, syscalls.CONDITIONAL, syscalls.WRITING if mode == "namespaces" else {})
    listed = {numbers[column] for table in tables for numbers in table.values()} | UNFILTERED
    others = [number for number in (*range(-1, 600), *range(1 << 30, (1 << 30) + 600)) if number not in listed]
    source = (
        f"wrong = []\nfor number in {others}:\n    ctypes.set_errno(0)\n"
        "    if call(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 38:\n        wrong.append(number)\n"
        "print(wrong)"
    )
    with Sandbox(mode, Limits(seconds=60), packages=False) as sandbox:
        outcome = sandbox.run(PRELUDE + source, "")
        assert outcome.output == b"[]\n", outcome
        for name, arguments in REFUSED:
            number = syscalls.CONDITIONAL[name][column]
            source = f"print(call({number}, {arguments}), ctypes.get_errno())"
            assert sandbox.run(PRELUDE + source, "").output == b"-1 1\n", (name, arguments)


@pytest.mark.parametrize("mode", ["namespaces"], indirect=True)  # without, they are the machine's
def test_numbers_of_processes_begin_anew(mode: Mode) -> None:
    leave, find = NUMBERS
    with Sandbox(mode, Limits(seconds=60), packages=False) as sandbox:
        before = sandbox.run(PRELUDE + find, "")
        assert before.output == b"2 1 3\n"
        assert sandbox.run(PRELUDE + leave, "").status == "done"
        assert sandbox.run(PRELUDE + find, "") == before


@pytest.fixture(scope="module")
def bounded(mode: Mode) -> Iterator[Sandbox]:
    if mode == "rlimits" and not kernel.can_ask():
        pytest.skip("needs Linux 5.5, to count the threads of a program without namespaces")
    with Sandbox(mode, Limits(seconds=60, tasks=MOST, memory=16 << 30), packages=False) as sandbox:
        yield sandbox


@pytest.mark.parametrize("way", THREADS)
def test_threads_are_bounded(bounded: Sandbox, way: str) -> None:
    outcome = bounded.run(PRELUDE + THREADS[way] + COUNT, "")
    assert outcome.status == "done", outcome
    # Besides its main thread; one that has come to its end may still count.
    assert MOST // 2 <= int(outcome.output) < MOST, outcome


def test_threads_that_start_at_once_are_bounded(bounded: Sandbox) -> None:
    outcome = bounded.run(PRELUDE + AT_ONCE, "")
    assert outcome.status == "done", outcome
    assert int(outcome.output) < 2 * MOST


def test_room_for_threads_comes_back(bounded: Sandbox) -> None:
    source = "for n in range(200):\n    t = threading.Thread(target=int)\n    t.start()\n    t.join()\nprint(n)"
    for _ in range(2):
        assert bounded.run(PRELUDE + source, "").output == b"199\n"


def test_a_program_that_ends_while_it_asks_ends(bounded: Sandbox) -> None:
    source = "threading.Thread(target=time.sleep, args=(9,)).start()\n" * 3 + "os.kill(os.getpid(), 9)"
    for _ in range(3):
        assert bounded.run(PRELUDE + source, "").detail == "it ended with signal 9"
    assert bounded.run("print(1)", "").output == b"1\n"


def test_where_threads_are_not_shown_all_that_were_started_count() -> None:
    """As with the option `hidepid` of /proc, for processes that cannot be looked into."""
    assert has_room(os.getpid(), 0, 1000)
    assert has_room(os.getpid(), 5000, 1000)
    assert not has_room(os.getpid(), 0, 1)
    nobody = 1 << 30
    assert [has_room(nobody, started, 3) for started in range(4)] == [True, True, False, False]
