"""Packed tests of any kind: read once, bounded, and named where they cannot be read; nothing in them is run."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import tracemalloc
import zlib

import pytest

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.programs import packed_tests
from aspo_megatron.rewards.programs.tests import CodeTest, read_tests
from aspo_megatron.rewards.scorers import check

MIB = 1 << 20
TEXT = json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}])


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def bomb(mib: int, prefix: bytes = b"", suffix: bytes = b"") -> str:
    """So much that is packed into a thousandth."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(prefix), *(packer.compress(b" " * MIB) for _ in range(mib)), packer.compress(suffix)]
    return base64.b64encode(b"".join((*parts, packer.flush()))).decode()


def problem(text: object, **more: object) -> Problem:
    return Problem("p-0", "?", (1,), None, {"public_test_cases": text, **more})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", [TEXT, TEXT.replace("1", "\u00e9" * 300), TEXT.replace("1", "x" * 100_000)])
def test_texts_of_every_protocol_are_read(protocol, text):
    given = json.loads(text)[0]["input"]
    assert read_tests(problem(packed(pickle.dumps(text, protocol)))) == [CodeTest(None, given, "2\n")]


def test_texts_of_python_2_are_read():
    short = b"U" + bytes([len(TEXT)]) + TEXT.encode() + b"q\x00."
    assert read_tests(problem(packed(short))) == read_tests(problem(TEXT))
    assert read_tests(problem(packed(pickle.dumps(TEXT.encode(), 4)))) == read_tests(problem(TEXT))


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("this is run",)


class State:
    def __init__(self) -> None:
        self.a = 1


def laughs(levels: int = 60) -> bytes:
    """A tuple of itself, level by level, as the key of a dictionary: hashing takes for ever."""
    return b"\x80\x04}(" + b"K\x01" + b"2\x86" * levels + b"K\x01u."


def called(given: str, expected: str = "1", times: int = 1, lines: int = 1) -> str:
    """Tests of a function."""
    about = {"metadata": {"func_name": "f"}, "testtype": "functional"}
    return json.dumps([{"input": given * lines, "output": expected, **about}] * times)


TWO_LEVELS = packed(pickle.dumps(packed(b" " * (4 * MIB))))
STREAM = zlib.compress(pickle.dumps(TEXT))
BAD: dict[str, tuple[str, str]] = {
    "bomb": (bomb(129), "packed tests of more than 128 MiB"),
    "bomb in a text": (bomb(129, b"\x80\x04\x8d" + struct.pack("<Q", 129 * MIB), b"."), "more than 128 MiB"),
    "bomb that says less": (bomb(129, b"\x80\x04\x8d" + struct.pack("<Q", 5), b"."), "more than 128 MiB"),
    "two levels": (TWO_LEVELS, "not JSON"),
    "two levels of zlib": (packed(zlib.compress(b" " * (4 * MIB))), ""),
    "a tail": (base64.b64encode(STREAM + b"more").decode(), "something behind"),
    "a second stream": (base64.b64encode(STREAM + STREAM).decode(), "something behind"),
    "a tail in the pickle": (packed(pickle.dumps(TEXT) + b"more"), "not one text"),
    "two pickles": (packed(pickle.dumps(TEXT) * 2), "not one text"),
    "cut off": (base64.b64encode(STREAM[:-9]).decode(), "cut off"),
    "cut pickle": (packed(pickle.dumps(TEXT)[:-9]), ""),
    "no end": (packed(pickle.dumps(TEXT)[:-1]), ""),
    "memo of 2^31": (packed(b"\x80\x04X\x01\x00\x00\x00ar\xff\xff\xff\x7f."), "not JSON"),
    "memo of 2^32": (packed(b"\x80\x04r\xff\xff\xff\xff."), "not one text"),
    "memo in digits": (packed(b"Va\np" + b"9" * 5000 + b"\n."), ""),
    "a length of 2^63": (packed(b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"a."), ""),
    "a length below zero": (packed(b"T\xff\xff\xff\xffa."), ""),
    "bytearray of 2^40": (packed(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a."), ""),
    "laughs": (packed(laughs()), "ask for"),
    "a list": (packed(pickle.dumps([TEXT])), "ask for"),
    "a number": (packed(pickle.dumps(7)), "ask for"),
    "a huge number": (packed(b"L" + b"9" * 5000 + b"L\n."), ""),
    "nothing": (packed(b""), ""),
    "two texts": (packed(b"\x80\x04\x8c\x01a\x8c\x01b."), "not one text"),
    "code": (packed(pickle.dumps(Code())), "builtins.print"),
    "code, old": (packed(pickle.dumps(Code(), 0)), "print"),
    "an object": (packed(pickle.dumps(State())), "ask for"),
    "an extension": (packed(b"\x80\x02\x82\x01."), "EXT1"),
    "a persistent id": (packed(b"Pabc\n."), "PERSID"),
    "a terminal's escapes": (packed(b"\x80\x04\x8c\x05\x1b[31m\x8c\x01b\x93."), "ask for ␛\\[31m.b"),
    "many values": (packed(pickle.dumps("[" + "{}," * 3_000_000 + "{}]")), "tests: JSON of more than 4,194,304 values"),
    "many values, plain": ("[" + "{}," * 3_000_000 + "{}]", "tests: JSON of more than 4,194,304 values"),
    "many outputs": (called("1", "[" + "{}," * 1_000_000 + "{}]", times=3), "outputs: JSON of more than"),
    "many values as arguments": (
        called("[" + "{}," * 1_000_000 + "{}]\n", times=3, lines=3),
        "arguments: JSON of more",
    ),
    "many arguments": (called("11\n", lines=10_000), "more than 1000 arguments"),
    "deep JSON": (packed(pickle.dumps("[" * 200_000 + "]" * 200_000)), "nested too deeply"),
    "deep JSON, plain": ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
    "deep objects": ('{"inputs":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
    "deep arguments": (json.dumps([{"input": "[" * 100_000, "output": "1", "metadata": {"func_name": "f"}}]), "nested"),
    "huge digits": ("[" + "9" * 5000 + "]", "not JSON"),
    "not base64": ("hello!", ""),
    "not zlib": (base64.b64encode(b"hello").decode(), ""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tests_are_named_before_the_run(name, capfd):
    text, message = BAD[name]
    with pytest.raises(
        ValueError, match=rf"^problem p-0: public_test_cases holds no tests in a known form .*{message}"
    ):
        read_tests(problem(text))
    with pytest.raises(ConfigError, match=rf"^reward\.kind: code: problem p-0: .*{message}") as raised:
        check(RewardConfig(kind="code", code={"sandbox": "rlimits"}), [problem(TEXT), problem(text)])
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("about", ['{"func_name": ' + "[" * 100_000, '{"func_name"', "{" * 100_000])
def test_bad_metadata_are_named(about):
    with pytest.raises(
        ValueError, match=r"^problem p-0: public_test_cases holds no tests in a known form \(metadata: "
    ):
        read_tests(problem(TEXT, metadata=about))


def test_private_tests_are_bounded_as_well():
    with pytest.raises(ConfigError, match=r"problem p-0: .*more than 128 MiB"):
        check(RewardConfig(kind="code", code={"sandbox": "rlimits"}), [problem(TEXT, private_test_cases=bomb(129))])


@pytest.mark.parametrize("name", ["bomb", "bomb in a text", "memo of 2^31", "a length of 2^63", "laughs"])
def test_what_is_refused_costs_no_more_than_the_bound(name, monkeypatch):
    monkeypatch.setattr(packed_tests, "MOST_UNPACKED", 8 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="known form"):
            read_tests(problem(BAD[name][0]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * MIB


def test_tests_are_unpacked_once_a_problem(monkeypatch):
    """Responses to two problems in turn, each of which a worker gets as a copy of its own."""
    unpacked = []
    monkeypatch.setattr(
        "aspo_megatron.rewards.programs.tests.unpack", lambda text: unpacked.append(text) or packed_tests.unpack(text)
    )
    texts = [packed(pickle.dumps(TEXT.replace("1", number))) for number in ("111", "112")]
    for _ in range(10):
        for number, text in zip(("111", "112"), texts, strict=True):
            asked = pickle.loads(pickle.dumps(problem(text)))
            assert read_tests(asked) == [CodeTest(None, f"{number}\n", "2\n")]
    assert unpacked == texts


def test_a_list_that_is_changed_does_not_change_the_next_one():
    tests = read_tests(problem(TEXT))
    tests.clear()
    assert len(read_tests(problem(TEXT))) == 1


@pytest.mark.thorough
def test_large_tests_are_read():
    """Text of several MiB with commas, and as many numbers in lists as problems have."""
    text, numbers = "1,2,3\n" * 3_000_000, list(range(1_000_000))
    stream = json.dumps([{"input": text, "output": "2\n", "testtype": "stdin"}])
    assert read_tests(problem(packed(pickle.dumps(stream)))) == [CodeTest(None, text, "2\n")]
    call = json.dumps({"fn_name": "f", "inputs": [[numbers], [numbers]], "outputs": [[1], [1]]})
    assert read_tests(problem(call))[0].given == json.dumps([numbers])
    assert len(read_tests(problem(called(json.dumps(numbers), json.dumps(text), times=3)))) == 3
