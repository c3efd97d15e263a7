"""Tests as datasets keep them besides inputs and outputs: asserts, checks, tests within other information."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from aspo_megatron.config import CodeConfig, RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.code import CodeScorer
from aspo_megatron.rewards.code_tests import CodeTest, read_tests
from aspo_megatron.rewards.jail.arguments import dump, load
from aspo_megatron.rewards.scorers import unfit

pytestmark = pytest.mark.timeout(120)

CHECK = '''
METADATA = {"author": "x"}

def check(candidate):
    """What it should give."""
    assert candidate(nums = [3, 3], target = 6) == [0, 1], "three and three"
    assert (0, 2) == candidate([1, 2, 3], 4)
'''
TWO_SUM = "def two_sum(self, nums, target):\n    return [0, 1] if nums == [3, 3] and target == 6 else (0, 2)"
STREAM = [{"type": "stdin_stdout", "input": "1 2\n", "output": "3\n"}]
CALL = [{"type": "function_call", "fn_name": "add", "input": [1, 2], "output": 3}]
ADD = "def add(a, b): return a + b"


def problem(answer: str | None = None, **metadata: object) -> Problem:
    return Problem("p-0", "?", (1,), answer, metadata)


def fenced(source: str) -> str:
    return f"```python\n{source}\n```"


@pytest.fixture(scope="module")
def scorer() -> Iterator[CodeScorer]:
    scorer = CodeScorer(CodeConfig(), timeout_seconds=60.0)
    yield scorer
    scorer.close()


@pytest.mark.parametrize(
    ("asked", "right", "wrong"),
    [
        (problem(test_cases=["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]), ADD, "def add(a, b): return 3"),
        (problem(test_cases='["assert add(1, 2) == 3"]'), ADD, ADD.replace("+", "-")),
        (problem(test_list=["assert add(1, 2) == 3"], test_setup_code=""), ADD, ADD.replace("+", "-")),
        (problem("assert add(1, 2) == 3\nassert add(2, 2) == 4"), ADD, "def add(a, b): return 3"),
        (problem(tests={"assert_case": ["assert add(1, 2) == 3"]}), ADD, ADD.replace("+", "-")),
        (problem(test=CHECK, entry_point="two_sum"), TWO_SUM.replace("self, ", ""), "def two_sum(a, b): return [0, 1]"),
        (
            problem(tests={"functional": CHECK}, entry_point="Solution().two_sum"),
            f"class Solution:\n    {TWO_SUM.replace(chr(10), chr(10) + '    ')}",
            "class Solution:\n    def two_sum(self, nums, target): return [0, 1]",
        ),
        (
            problem(test_list=["assert kinds((1, 2), {3}, {4: 5}, None, -1.5) == (True, {4: 'x'})"]),
            "def kinds(a, b, c, d, e): return [a == (1, 2) and b == {3} and c[4] == 5 and e == -1.5, {4: 'x'}]",
            "def kinds(a, b, c, d, e): return [a == [1, 2], {4: 'x'}]",
        ),
        (problem(verification_info={"language": "python", "test_cases": STREAM}), "print(3)", "print(4)"),
        (problem(verification_info=json.dumps({"language": "python", "test_cases": STREAM})), "print(3)", "print(4)"),
        (problem(json.dumps({"language": "python3", "test_cases": json.dumps(STREAM)})), "print(3)", "print(4)"),
        (problem(verification_info={"test_cases": CALL}), ADD, ADD.replace("+", "-")),
    ],
)
def test_they_are_understood(scorer, asked, right, wrong):
    assert unfit(RewardConfig(kind="code"), asked) is None
    assert scorer.score(asked, fenced(right)) == 1.0
    assert scorer.score(asked, fenced(wrong)) == 0.0


@pytest.mark.parametrize(
    "program",
    [
        "import os, sys\ndef add(a, b):\n    os._exit(0)",
        "import sys\ndef add(a, b):\n    sys.exit(0)",
        "class Same:\n    def __eq__(self, other): return True\ndef add(a, b):\n    return Same()",
        "class Same(int):\n    def __eq__(self, other): return True\ndef add(a, b):\n    return Same(7)",
        "import builtins\nbuiltins.AssertionError = None\ndef add(a, b):\n    return True",
    ],
)
def test_a_program_cannot_say_that_an_assert_holds(scorer, program):
    assert scorer.score(problem(test_cases=["assert add(1, 2) == 3"]), fenced(program)) == 0.0


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"test_cases": ["assert f(1) == 1", "assert f(2)"]}, "'assert f(2)' is not read: of programs only asserts"),
        ({"test_cases": ["assert abs(f(1) - 2) < 0.1"]}, "'assert abs(f(1) - 2) < 0.1' is not read"),
        ({"test_cases": ["assert f(1) != 2"]}, "'assert f(1) != 2' is not read"),
        ({"test_cases": ["assert f(1) == 2 == 3"]}, "is not read"),
        ({"test_cases": ["assert f(x) == 1"]}, "is not read"),
        ({"test_cases": ["assert f(*[1]) == 1"]}, "is not read"),
        ({"test_cases": ["assert f(1) == {1, 2}"]}, "is not read"),
        ({"test_cases": ["x = 3"]}, "'x = 3' is not read"),
        ({"test_cases": ["assert f("]}, "asserts that are not Python"),
        ({"test_cases": ["(" * 9999]}, "asserts that are not Python"),
        ({"test_cases": ["assert f(" + "-" * 9999 + "1) == 1"]}, "asserts that are not Python"),
        ({"test_cases": ["assert f(1) == 1", 3]}, "a list of texts and of int"),
        ({"test": "from solution import f\n\ndef test_f():\n    assert f(1) == 2"}, "is not read"),
        ({"test": "def check(candidate):\n    for n in range(3):\n        assert candidate(n) == n"}, "is not read"),
        ({"test": "assert f('" + "x" * 2**20 + "') == 1"}, "asserts of more than 1 MiB"),
        ({"verification_info": {"language": "rust", "test_cases": STREAM}}, "only those in Python are run"),
        ({"verification_info": {"a\x1b[1m": 1, "b": 2}}, "but an object with a␛[1m, b"),
        (
            {"tests": [{"input": "1", "output": "1", "testtype": "functional"}]},
            "its name is missing: give it as fn_name",
        ),
        ({"tests": [{"type": "function_call", "input": [1], "output": 1}]}, "its name is missing"),
        ({"tests": [["1", "2"]]}, "a test is no object with input and output, but of type list"),
        ({"tests": {"test_cases": []}}, "holds no test"),
    ],
)
def test_others_are_named_before_the_run(metadata, said):
    reason = unfit(RewardConfig(kind="code"), problem(**metadata))
    assert reason is not None
    assert reason.kind == "unreadable tests"
    assert reason.text.startswith("reward.kind: code: problem p-0: ")
    assert said in reason.text
    assert len(reason.text) < 600
    assert reason.text.isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [1, "a", None, True, 0.5],
        [(1, [2]), {3, 4}, set()],
        [{1: {2: (3,)}}, {"a": 1}, {}, {"1": [()]}, {(1, 2): 3}],
    ],
)
def test_arguments_arrive_as_they_are(arguments):
    found, keywords = load(dump(arguments, {"a": (1, 2)}))
    assert (found, keywords) == (arguments, {"a": (1, 2)})
    assert list(map(type, found)) == list(map(type, arguments))
    assert load(dump(arguments)) == (arguments, {})


def apps(given: list[object], expected: object) -> Problem:
    return problem(input_output=json.dumps({"inputs": [given], "outputs": [expected], "fn_name": "f"}))


LINES = [{"input": '{"1": 2}\n1', "output": "2", "testtype": "functional", "metadata": {"func_name": "f"}}]


@pytest.mark.parametrize(
    ("asked", "source", "reward"),
    [
        (apps([{"1": 2}], 2), "return a[0][1]", 1.0),
        (apps([{"1": 2}], 2), "return a[0]['1']", 1.0),
        (apps([{"1": 2}], 2), "return a[0].get(1, 0)", 1.0),
        (apps([{"1": 2}], 2), "return a[0][2]", 0.0),
        (apps([{"1.5": 2, "-3": 4}], 6), "return a[0][1.5] + a[0][-3]", 1.0),
        (apps([5, [{"1": {"2": 3}}]], 3), "return a[1][0][1][2]", 1.0),
        (apps([{"1": 2, "b": 3}], 5), "return a[0]['1'] + a[0]['b']", 1.0),
        (apps([{"01": 2}], 2), "return a[0]['01']", 1.0),
        (apps([{}], 0), "return len(a[0])", 1.0),
        (apps([{"1": 2}], {"2": 1}), "return {v: k for k, v in a[0].items()}", 1.0),
        (problem(tests=LINES), "return a[0][a[1]]", 1.0),
    ],
)
def test_keys_of_dictionaries_that_json_has_made_texts(scorer, asked, source, reward):
    assert scorer.score(asked, fenced(f"def f(*a): {source}")) == reward


def test_only_keys_that_may_have_been_numbers_are_tried_twice():
    (test,) = read_tests(apps([{"1": 2}], 2))
    assert test == CodeTest("f", dump([{1: 2}]), (2,), '[{"1": 2}]')
    for given in ([{"a": 1}], [{"1": 1, "a": 2}], [{"01": 1}], [{"+1": 1}], [{"1e2": 1}], [{}], [[1, 2]], ["{1}"]):
        (test,) = read_tests(apps(given, 2))
        assert (test.given, test.or_given) == (json.dumps(given), None)


def test_tests_within_another_field():
    """As verl keeps them."""
    asked = problem(
        reward_model={"ground_truth": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]}), "style": "rule"}
    )
    assert read_tests(asked, "reward_model.ground_truth") == [CodeTest(None, "1 2\n", "3\n")]
    config = RewardConfig.model_validate({"kind": "code", "code": {"tests_field": "reward_model.ground_truth"}})
    assert unfit(config, asked) is None
    assert unfit(config, problem(reward_model={})).kind == "no tests"
