"""The reward `code`: the program of a response, tests in their several forms, and what equals what."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Iterator

import pytest

from aspo_megatron.config import CodeConfig, RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.programs.compare import same_output, same_value
from aspo_megatron.rewards.programs.reward import CodeScorer
from aspo_megatron.rewards.programs.tests import CodeTest, read_tests
from aspo_megatron.rewards.scorers import check
from aspo_megatron.rewards.workers.pool import Reward, RewardPool

pytestmark = pytest.mark.timeout(120)


def problem(answer: str | None = None, **metadata) -> Problem:
    return Problem("p-0", "?", (1,), answer, metadata)


def packed(tests: object) -> str:
    """As LiveCodeBench keeps private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


DOUBLE = {"inputs": ["1\n", "2\n", "-3\n"], "outputs": ["2\n", "4\n", "-6\n"]}
DOUBLE_TESTS = [CodeTest(None, "1\n", "2\n"), CodeTest(None, "2\n", "4\n"), CodeTest(None, "-3\n", "-6\n")]
PUBLIC = json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}])
PRIVATE = [{"input": i, "output": o, "testtype": "stdin"} for i, o in [("2\n", "4\n"), ("-3\n", "-6\n")]]
ADD_TEST = [{"input": "1\n[2, 3]", "output": "[3, 4]", "testtype": "functional"}]


@pytest.mark.parametrize(
    "asked",
    [
        problem(json.dumps(DOUBLE)),
        problem(input_output=json.dumps(DOUBLE)),
        problem("not tests", input_output=DOUBLE),
        problem(tests=[{"input": i, "output": o} for i, o in zip(DOUBLE["inputs"], DOUBLE["outputs"], strict=True)]),
        problem(test_cases={"input": DOUBLE["inputs"], "output": DOUBLE["outputs"]}),
        problem(public_test_cases=PUBLIC, private_test_cases=packed(PRIVATE), metadata="{}"),
        problem(public_test_cases=PUBLIC, private_test_cases=json.dumps(PRIVATE)),
        problem(
            public_tests={"input": ["1\n"], "output": ["2\n"]},
            private_tests={"input": ["2\n"], "output": ["4\n"]},
            generated_tests={"input": ["-3\n"], "output": ["-6\n"]},
        ),
    ],
)
def test_tests_for_standard_input(asked):
    assert read_tests(asked) == DOUBLE_TESTS


def test_one_test_that_is_no_list():
    assert read_tests(problem(tests={"input": "12\n", "output": "24\n"})) == [CodeTest(None, "12\n", "24\n")]


def test_tests_of_functions():
    """APPS gives arguments as a list and may wrap the result; LiveCodeBench gives a line of JSON for each."""
    apps = problem(json.dumps({"fn_name": "add", "inputs": [[1, [2, 3]]], "outputs": [[[3, 4]]]}))
    assert read_tests(apps) == [CodeTest("add", "[1, [2, 3]]", ([[3, 4]], [3, 4]))]
    expected = [CodeTest("add", "[1, [2, 3]]", ([3, 4],))]
    assert read_tests(problem(public_test_cases=ADD_TEST, metadata='{"func_name": "add"}')) == expected
    assert read_tests(problem(tests=[{"input": "1\n[2, 3]", "output": "[3, 4]"}], fn_name="add")) == expected
    item = {"input": "1\n[2, 3]", "output": "[3, 4]", "metadata": {"func_name": "add"}}
    assert read_tests(problem(tests=json.dumps([item]))) == expected


@pytest.mark.parametrize(
    "outputs",
    [[[1, 2, 3], [1, 9]], [[[1, 2], [3, 4]], [[1, 2], [5]]], [[1], [1, 2]], [[1], []], [[1], 1], [[[1, 2]], [[1], 2]]],
)
def test_part_of_an_expected_list_is_no_result(outputs):
    """Only where each result is a list of one may it be a wrapped one."""
    tests = read_tests(problem(json.dumps({"fn_name": "f", "inputs": [[5], [7]], "outputs": outputs})))
    assert [test.expected for test in tests] == [(output,) for output in outputs]


def test_input_and_output_as_lists_of_lines():
    assert read_tests(problem(tests={"inputs": [["1", "2"]], "outputs": [["3"]]})) == [CodeTest(None, "1\n2", "3")]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (problem("7"), r"problem p-0 has no tests: none of answer, input_output, tests, .* holds any"),
        (problem(tests=["a"]), r"tests holds no tests in a known form"),
        (problem(tests="{"), r"tests holds no tests in a known form"),
        (problem(tests="hello"), r"tests holds no tests in a known form"),
        (problem(tests=[]), r"problem p-0 has no tests"),
        (problem(tests="[]"), r"tests holds no test"),
        (problem(tests={"inputs": ["1"], "outputs": []}), r"tests holds no tests in a known form"),
        (problem(tests={"inputs": [3], "outputs": [3], "fn_name": "f"}), r"arguments must be a list, not int"),
        (problem(public_test_cases=base64.b64encode(zlib.compress(pickle.dumps(os.getcwd))).decode()), r"posix.getcwd"),
    ],
)
def test_what_holds_no_tests(asked, message):
    with pytest.raises(ValueError, match=message):
        read_tests(asked)


def test_a_named_field():
    assert read_tests(problem(json.dumps({}), own=DOUBLE), "own") == DOUBLE_TESTS
    check(RewardConfig(kind="code", code=CodeConfig(tests_field="own")), [problem(own=DOUBLE)])
    with pytest.raises(ConfigError, match=r"code needs tests, and problem p-0 has none; set reward\.code\.tests_field"):
        check(RewardConfig(kind="code"), [problem("7", own=DOUBLE)])


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("  1   2 \r\n3\n\n", "1 2\n3", True),
        ("1\n2\n3", "1 2\n3", False),
        ("YES", "yes", False),
        ("1.0", "1", True),
        ("0.3333333", "0.33333333", True),
        ("0.3333", "0.33333333", False),
        ("1e-9", "0.0", True),
        ("1000000000000000001", "1000000000000000000", False),
        ("1000000000.5", "1000000000.0", True),
        ("9" * 100_000, "8" * 100_000, False),
        ("1e999999999", "1.5", False),
        ("nan", "1.5", False),
        ("NaN", "nan", False),
        ("", "", True),
        ("", "0", False),
        ("1 2 3", "1 2", False),
        ("a 1.00", "a 1.0", True),
    ],
)
def test_same_output(actual, expected, same):
    assert same_output(actual, expected, 1e-6) is same


def test_exact_comparison():
    assert not same_output("0.3333333", "0.33333333", 0.0)
    assert same_output("0.50", "0.5", 0.0)
    assert not same_value(0.1 + 0.2, 0.3, 0.0)


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ([1, [2.0000001]], [1, [2.0]], True),
        ([1], [1, 2], False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        (5, 5.0, True),
        (10**400, 5.0, False),
        (float("nan"), 5.0, False),
        (None, None, True),
        ("1", 1, False),
        (3, [3], False),
    ],
)
def test_same_value(actual, expected, same):
    assert same_value(actual, expected, 1e-6) is same


@pytest.fixture(scope="module")
def scorer() -> Iterator[CodeScorer]:
    scorer = CodeScorer(CodeConfig(), timeout_seconds=60.0)
    yield scorer
    scorer.close()


def fenced(source: str) -> str:
    return f"```python\n{source}\n```"


@pytest.mark.parametrize(
    ("source", "reward"),
    [
        ("print(2 * int(input()))", 1.0),
        ("import sys\nfor line in sys.stdin:\n    print(int(line) * 2)", 1.0),
        ("import sys\nn = int(sys.stdin.buffer.read())\nsys.stdout.write(str(n + n))\nexit()", 1.0),
        ("n = int(open(0).read())\nprint(n * 2.0)", 1.0),
        ("def main():\n    print(int(input()) * 2)\nif __name__ == '__main__':\n    main()", 1.0),
        ("import threading\nt = threading.Thread(target=lambda: print(2 * int(input())))\nt.start()", 1.0),
        ("print(int(input()) ** 2)", 0.0),
        ("print(abs(2 * int(input())))", 0.0),
        ("print(2 * int(input()", 0.0),
        ("", 0.0),
    ],
)
def test_programs(scorer, source, reward):
    assert scorer.score(problem(tests=DOUBLE), fenced(source)) == reward


@pytest.mark.parametrize(
    ("source", "reward"),
    [
        (
            "class Solution:\n    def add(self, k: int, a: List[int]) -> List[int]:\n        return [k + x for x in a]",
            1.0,
        ),
        ("def add(k, a):\n    print('debugging')\n    return tuple(k + x for x in a)", 1.0),
        ("import numpy as np\ndef add(k, a):\n    return np.array(a) + k", 1.0),
        ("from sortedcontainers import SortedList\ndef add(k, a):\n    return list(SortedList(x + k for x in a))", 1.0),
        ("def add(k, a):\n    return a", 0.0),
        ("def plus(k, a):\n    return [k + x for x in a]", 0.0),
        ("def add(k, a):\n    return {3, 4}", 0.0),
    ],
)
def test_functions(scorer, source, reward):
    if source.endswith("{3, 4}"):
        source = source.replace("{3, 4}", "{4, 3, 5}")
    asked = problem(public_test_cases=ADD_TEST, metadata={"func_name": "add"})
    assert scorer.score(asked, fenced(source)) == reward


def test_the_first_of_what_is_expected_is_no_result(scorer):
    asked = problem(json.dumps({"fn_name": "f", "inputs": [[5], [7]], "outputs": [[1, 2, 3], [1, 9]]}))
    assert scorer.score(asked, fenced("def f(n): return 1")) == 0.0
    assert scorer.score(asked, fenced("def f(n): return [1, 2, 3] if n == 5 else [1, 9]")) == 1.0


def test_all_or_a_fraction():
    asked, half = problem(tests=DOUBLE), fenced("n = int(input())\nif n == 2:\n    1 / 0\nprint(2 * n)")
    rewards = {}
    for score in ("all", "fraction"):
        for max_tests in (None, 1):
            scorer = CodeScorer(CodeConfig(score=score, max_tests=max_tests), timeout_seconds=60.0)
            rewards[score, max_tests] = scorer.score(asked, half)
            assert scorer.score(asked, "no program") == 0.0
            scorer.close()
    assert rewards == {("all", None): 0.0, ("all", 1): 1.0, ("fraction", None): 2 / 3, ("fraction", 1): 1.0}


def test_time_limits_compose():
    """Each test has its time, and all together have a response's: the later ones fail for lack of it."""
    asked = problem(tests={"inputs": ["x"] * 14, "outputs": ["x"] * 14})
    programs = [fenced(source) for source in ("import time\ntime.sleep(0.3)\nprint(input())", "while True: pass")]
    slow, stuck = scored(asked, programs, timeout_seconds=4.0, seconds_per_test=3.0)
    assert slow.error is None
    assert 0.07 <= slow.value < 1.0
    assert stuck.value == 0.0
    assert scored(asked, [fenced("print(input())")], timeout_seconds=60.0, seconds_per_test=10.0) == [Reward(1.0)]


def scored(asked, programs, timeout_seconds, seconds_per_test):
    code = CodeConfig(score="fraction", seconds_per_test=seconds_per_test)
    with RewardPool(RewardConfig(kind="code", workers=1, timeout_seconds=timeout_seconds, code=code)) as pool:
        return list(pool.score((asked, program) for program in programs))
