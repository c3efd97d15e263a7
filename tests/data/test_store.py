"""A million problems take little memory, are hashed once, and come out as they went in, in another process too."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aspo_megatron.config import DataConfig
from aspo_megatron.data import store as store_module
from aspo_megatron.data.prompts import load_problems
from aspo_megatron.data.records import Gathering, kinds
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.store import ProblemStore, StoreBuilder, empty_store
from aspo_megatron.errors import ConfigError
from aspo_megatron.inputs.handover import handed_over, reading_shown, taken_over
from aspo_megatron.inputs.read import Inputs
from aspo_megatron.train import start


class Bytes:
    """A tokenizer: a token for each byte."""

    chat_template = None
    name_or_path = "bytes"

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        ids = [list(text.encode()) for text in texts]
        return {"input_ids": ids, "special_tokens_mask": [[0] * len(row) for row in ids]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return list(map(chr, ids))


def write(path: Path, lines: int, **more: Any) -> Path:
    with path.open("w") as file:
        for number in range(lines):
            sum_ = {"id": f"p{number}", "prompt": f"what is {number} plus {number % 7}?", "answer": number + number % 7}
            file.write(json.dumps(sum_ | more) + "\n")
    return path


def load(path: Path, **options: Any) -> tuple[ProblemStore, ProblemStore]:
    settings = {"train": {"kind": "jsonl", "path": str(path)}, "format": "raw", **options}
    tokenizer: Any = Bytes()
    return load_problems(DataConfig.model_validate(settings), tokenizer, 256, 16)


PROBLEMS = [
    Problem("a", "1 + 1 =", (1, 2, 3), "2", {"id": "a", "level": 1}),
    Problem("b", "\u20ac?", (2**31 - 1,), None, {"id": "b"}),
    Problem("c", "x\U0001f600" * 300, tuple(range(500)), "", {"id": "c", "tests": [[1, "a"], {"b": None}], "n": 2**80}),
    Problem("d", "fields", (7, 0), "3", {"id": "d", "when": (1, 2), "bytes": b"\0", "large": 1e300, "half": "\ud800"}),
    Problem("5", "last", (9,), "4", {"id": 5}),
]


def stored(problems: list[Problem]) -> ProblemStore:
    """A store of problems that are called by their own ids."""
    gathering = Gathering()
    for problem in problems:
        gathering.add("here", problem.question, problem.answer, problem.metadata)
    builder = StoreBuilder(gathering.records("source"))
    for number, problem in enumerate(problems):
        builder.add(number, problem)
    return builder.store(repeated=0)


def test_problems_come_out_as_they_went_in() -> None:
    store, problems = stored(PROBLEMS), PROBLEMS
    assert list(store) == problems == store
    assert store[1:4] == problems[1:4]
    assert store[-1] == problems[-1]
    assert store[::-2] == problems[::-2]
    assert (len(store), bool(store), bool(empty_store())) == (5, True, False)
    assert all(type(token) is int for problem in store for token in problem.prompt_ids)
    for other in (problems[:4], [*problems[:4], problems[0]], "abcde", 5):
        assert store != other
    with pytest.raises(IndexError):
        store[5]


def test_parts_of_a_store() -> None:
    store, problems = stored(PROBLEMS), PROBLEMS
    assert store.answered() == [problem for problem in problems if problem.answer is not None]
    assert store.first(2) == problems[:2]
    assert store.first(None) is store
    assert store.first(9) is store
    assert store.answered().first(2) == [problems[0], problems[2]]
    assert store.named(["d", "a", "a", "none"]) == {"d": problems[3], "a": problems[0]}
    assert store.answered().named(["b"]) == {}
    assert store.deal([[0, 4], [2]], 1) == [problems[2]]


def test_the_digest_is_that_of_states_saved_before() -> None:
    digest = hashlib.sha256()
    for problem in PROBLEMS:
        digest.update(repr((problem.id, problem.prompt_ids, problem.answer)).encode())
    assert stored(PROBLEMS).digest == digest.hexdigest()
    one = [Problem("sums-0", "1 + 2 =", (4, 5), "3")]
    assert stored(one).digest == "c1e064da5672a244570439a3cffa50db26c7361a045496fdb70b5e7b1f27179d"
    assert stored(PROBLEMS[::-1]).digest != stored(PROBLEMS).digest


def test_each_problem_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    digested = store_module.digested
    monkeypatch.setattr(store_module, "digested", lambda problem: hashed.append(problem.id) or digested(problem))
    train, heldout = load(write(tmp_path / "d.jsonl", 60), heldout_fraction=0.1)
    assert len(hashed) == len(train) + len(heldout) == 60
    with handed_over(train, heldout) as path:
        assert path is not None
        stores = taken_over(path)
    assert stores is not None
    assert [store.digest for store in (train, *stores)] == [train.digest, train.digest, heldout.digest]
    assert len(hashed) == 60


READER = """
import pickle, sys
from pathlib import Path
from aspo_megatron.inputs.handover import taken_over
train, heldout = taken_over(Path(sys.argv[1]))
sys.stdout.buffer.write(pickle.dumps((list(train), list(heldout), train.digest, heldout.digest)))
"""


def test_another_process_takes_them_over() -> None:
    store = stored(PROBLEMS)
    part = store.answered()
    with handed_over(part, empty_store()) as path:
        read = subprocess.run([sys.executable, "-c", READER, str(path)], stdout=subprocess.PIPE, check=True).stdout
    assert pickle.loads(read) == (list(part), [], "", empty_store().digest)
    assert taken_over(Path(str(path))) is None  # it lasts as long as the command


def test_the_command_keeps_no_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """While its ranks run, which may be for days."""
    left: list[weakref.ref[ProblemStore]] = []
    family: Any = SimpleNamespace(vocab_size=1 << 31)
    tokenizer: Any = None

    def read_inputs(*_: Any) -> Inputs:
        stores = stored(PROBLEMS), stored(PROBLEMS[:2])
        left.extend(map(weakref.ref, stores))
        return Inputs(family, tokenizer, *stores)

    monkeypatch.setattr("aspo_megatron.inputs.read.read_inputs", read_inputs)
    monkeypatch.setattr("aspo_megatron.inputs.machine.refuse_ranks_beyond", lambda *_, **__: "")
    loss = SimpleNamespace(name="aspo", hyperparameters={})
    warmup = SimpleNamespace(updates=0, batch_size=1)
    run: Any = SimpleNamespace(train=SimpleNamespace(steps=3), warmup=warmup, loss=loss)
    with start._problems_read(run, progress=True) as (path,):
        assert [store() for store in left] == [None, None]
        expected: object = (PROBLEMS, PROBLEMS[:2])
        assert taken_over(path) == expected


@pytest.mark.parametrize("call", ["memfd_create", "write"])
def test_without_memory_nothing_is_handed_over(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    before = len(os.listdir("/proc/self/fd"))
    if call == "write":
        monkeypatch.setattr(ProblemStore, "write", full)
    else:
        monkeypatch.setattr(os, "memfd_create", full)
    with handed_over(stored(PROBLEMS)) as path:
        assert path is None
    assert len(os.listdir("/proc/self/fd")) <= before  # fewer, where an earlier test's are collected meanwhile


LINES = 100_000


def measure(path: Path, few: Path) -> None:
    """In a process of its own: print the bytes that this many problems are kept in, and needed at most."""

    def resident(field: str) -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(field))

    load(few, heldout_fraction=0.1)
    before = resident("VmRSS")
    train, heldout = load(path, heldout_fraction=0.1)
    assert (len(train), len(heldout)) == (90_000, 10_000)
    print(json.dumps([resident("VmRSS") - before, resident("VmHWM") - before]))


def test_memory_of_many_problems(tmp_path: Path) -> None:
    """Of each problem 40 bytes are text, and 100 are tokens; as objects they took 4000 bytes."""
    paths = [str(write(tmp_path / f"{lines}.jsonl", lines)) for lines in (LINES, 1000)]
    command = [sys.executable, "-c", "import sys, test_store; test_store.measure(*sys.argv[1:])", *paths]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
    kept, peak = json.loads(done.stdout)
    assert kept / LINES < 400
    assert peak / LINES < 600


def test_what_is_shown_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    told: list[str] = []
    settings = {"train": {"kind": "jsonl", "path": str(write(tmp_path / "d.jsonl", 9000))}, "format": "raw"}
    tokenizer: Any = Bytes()
    load_problems(DataConfig.model_validate(settings), tokenizer, 256, 16, told.append)
    assert told[:3] == [
        "data.train: 4,096 lines read",
        "data.train: 8,192 lines read",
        "1,024 of 9,000 problems tokenised",
    ]
    assert told[-1] == "8,192 of 9,000 problems tokenised"
    now = [0.0]
    monkeypatch.setattr("aspo_megatron.inputs.handover.time.monotonic", lambda: now[0])
    tell = reading_shown(4)
    for second, text in enumerate(["a", "b", "c", "d"]):
        now[0] = 3.0 * second
        tell(text)
    assert capsys.readouterr().out == "c\n"


def test_kinds_are_in_the_order_of_bytes() -> None:
    chance = random.Random(3)
    hashes = [bytes(chance.choices([0, 1, 127, 128, 255], k=32)) for _ in range(300)]
    hashes += chance.choices(hashes, k=100)
    rows = np.frombuffer(b"".join(hashes), dtype=">u8").astype(np.uint64).reshape(-1, 4)
    place = {content: number for number, content in enumerate(sorted(set(hashes)))}
    assert kinds(rows).tolist() == [place[content] for content in hashes]
    assert kinds(rows[:0]).tolist() == []


def test_a_field_that_no_other_process_can_be_given() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for field, said in ((deep, "row 3: a field is nested too deeply"), (lambda: 0, "row 3: a field cannot be handed")):
        with pytest.raises(ConfigError, match=said):
            Gathering().add("row 3", "question", None, {"field": field})
    while deep:  # else its destructor would run out of stack
        deep = deep.pop()
