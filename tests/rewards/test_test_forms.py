"""Tests as datasets keep them besides inputs and outputs: asserts, checks, tests within other information."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest
from thorough import some_of

from aspo_megatron.config import CodeConfig, RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.programs.jail import nodes
from aspo_megatron.rewards.programs.jail.arguments import dump, load
from aspo_megatron.rewards.programs.reward import CodeScorer
from aspo_megatron.rewards.programs.tests import CodeTest, read_tests
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
PLUS = """
import numpy as np

def assertion(out, exp, atol):
    exact_match = out == exp

def check(candidate):
    inputs = [[3, 2], [9, 3]]
    results = [1.5, 3.0]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0.01)
"""
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
        (problem(test=f"{CHECK}\ncheck(two_sum)"), TWO_SUM.replace("self, ", ""), "def two_sum(a, b): return [0, 1]"),
        (problem(test=CHECK.replace("candidate", "f"), entry_point="g"), TWO_SUM.replace("two_sum(self, ", "g("), ADD),
        (
            problem(test=f"{PLUS}\ncheck(candidate)", entry_point="half"),
            "def half(n, by): return n / by",
            "def half(n, by): return n // by",
        ),
        (
            problem(test=PLUS, entry_point="half"),
            "def half(n, by): return n / by + 1e-3",
            "def half(n, by): return 1.6",
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
    ("said", "right", "wrong"),
    [
        ("f(1) == {(1, 2): [3], (0, 1): [4]}", ["{(0, 1): [4], (1, 2): [3]}"], ["{(0, 1): [4], (1, 2): [5]}", "[]"]),
        ("f(1) == {'b', 'a', 'c'}", ["set('abc')", "frozenset('cba')"], ["set('ab')", "list('bac')", "set('abd')"]),
        ("f(1) == {(2, 1), (1, 2)}", ["{(1, 2), (2, 1)}"], ["{(1, 2)}", "[(1, 2), (2, 1)]"]),
        ("f(1) == [3, 1]", ["[3, 1]", "(3, 1)"], ["{3, 1}", "{1, 3}"]),
        ("f(1) == -2+1j", ["-2 + 1j", "complex(-2, 1.0000000001)"], ["-2", "[-2, 1]", "-2 + 2j"]),
        ("f(1) == 1.0 / 3", ["1 / 3"], ["0", "0.34"]),
        ("f(1) == 'ab' + 2 * 'c'", ["'abcc'"], ["'abc'"]),
        ("f(1) == set([2, 3])", ["{3, 2}"], ["[2, 3]"]),
        ("set(f(1)) == set((4, 5))", ["(5, 4)", "[4, 5, 5]", "{4, 5}"], ["(4,)", "4"]),
        ("tuple(f(1)) == tuple([4, 5])", ["[4, 5]", "(n for n in (4, 5))"], ["[5, 4]"]),
        ("int(f(1)) == 35", ["35.2", "'35'"], ["34.9", "'x'"]),
        ("f(1) == {0, 8, 16}", ["{16, 8, 0}"], ["{16, 8}"]),
        ("sorted(set(f(1))) == [1, 2]", ["[2, 1, 1]"], ["[2]", "3"]),
        ("round(f(1), 2) == 3.14", ["3.14159"], ["3.2"]),
        ("len(f(1)) == 2", ["'ab'"], ["'abc'", "2"]),
        ("f(1)", ["True", "[0]"], ["False", "[]", "None"]),
        ("not f(1)", ["False", "0"], ["True", "'no'"]),
        ("abs(f(1) - 2.5) < 0.1", ["2.45", "2.55"], ["2.39", "2.61", "'2.5'", "float('nan')", "None"]),
        ("abs(f(1) - 200) <= 0.1", ["200.05"], ["200.2"]),
        ("math.isclose(f(1), 200, rel_tol=0.001)", ["200.1"], ["200.3", "199.7"]),
        ("math.isclose(f(1), 0.5, abs_tol=0.1)", ["0.41"], ["0.39"]),
        ("math.isclose(f(1), 3)", ["3.0"], ["3.00001"]),
        ("f(1) is True", ["True"], ["False"]),
        ("Solution().f(1) == 2", ["2"], ["3"]),
    ],
)
def test_what_asserts_say(scorer, said, right, wrong):
    asked = problem(test_cases=["import math", "assert True", f"assert {said}, 'why'"])
    assert unfit(RewardConfig(kind="code"), asked) is None
    for rewards, values in ((1.0, right), (0.0, wrong)):
        programs = [fenced(f"def f(n): return {value}") for value in values]
        assert [scorer.score(asked, program) for program in programs] == [rewards] * len(values)


def test_arguments_that_are_computed(scorer):
    asked = problem(test_list=["assert f('a' * 2 + 'b', 10**2, [0] * 3, -1j, list(range(2))) == 1"])
    source = "def f(*a): return int(a == ('aab', 100, [0, 0, 0], -1j, [0, 1]))"
    assert scorer.score(asked, fenced(source)) == 1.0


LISTS = """
def check(candidate):
    assert is_same_list(candidate(head = list_node([3, 1, 2])), list_node([2, 1, 3]))
    assert is_same_list(candidate(head = list_node([])), list_node([]))
"""
REVERSE = """
class Solution:
    def f(self, head: Optional[ListNode]) -> Optional[ListNode]:
        last = None
        while head:
            head.next, last, head = last, head, head.next
        return last
"""
TREES = """
def check(candidate):
    assert is_same_tree(candidate(root = tree_node([1, 2, None, 3])), tree_node([1, None, 2, None, 3]))
    assert is_same_tree(candidate(tree_node([])), None)
"""
MIRROR = """
class Solution:
    def f(self, root: Optional[TreeNode]) -> Optional[TreeNode]:
        return root and TreeNode(root.val, self.f(root.right), self.f(root.left))
"""
OWN_LIST = """
class ListNode:
    def __init__(self, x):
        self.val, self.next = x, None

class Solution:
    def f(self, head):
        values = []
        while isinstance(head, ListNode):
            values.append(head.val)
            head = head.next
        first = None
        for value in values:
            node = ListNode(value)
            node.next = first
            first = node
        return first
"""


@pytest.mark.parametrize(
    ("test", "source", "reward"),
    [
        (LISTS, REVERSE, 1.0),
        (LISTS, OWN_LIST, 1.0),
        (LISTS, REVERSE.replace("return last", "return last and last.next"), 0.0),
        (LISTS, "class Solution:\n    def f(self, head): return head", 0.0),
        (LISTS, "class Solution:\n    def f(self, head): return head and [2, 1, 3]", 0.0),
        (LISTS, REVERSE.replace("return last", "last.next.next.next = last\n        return last"), 0.0),
        (TREES, MIRROR, 1.0),
        (TREES, MIRROR.replace("root.right), self.f(root.left)", "root.left), self.f(root.right)"), 0.0),
        (TREES, MIRROR.replace("root.right), self.f(root.left)", "root.right), root"), 0.0),
        (TREES, MIRROR.replace("return root and", "root.left = root\n        return root or"), 0.0),
        (TREES, "class Solution:\n    def f(self, root): return root and [1, None, 2, None, 3]", 0.0),
    ],
)
def test_nodes_of_lists_and_trees(scorer, test, source, reward):
    """LeetCode's classes are defined for programs that define none, and those of a program are used."""
    asked = problem(
        input_output=[{"input": "head = [3,1,2]", "output": "[2,1,3]"}], test=test, entry_point="Solution().f"
    )
    assert unfit(RewardConfig(kind="code"), asked) is None
    assert scorer.score(asked, fenced(source)) == reward


@pytest.mark.parametrize(
    ("node", "values"), [(nodes.list_node, nodes.list_values), (nodes.tree_node, nodes.tree_values)]
)
def test_nodes_are_bounded(node, values):
    """So are those that lead back to themselves."""
    few = [1, 2, None, 3]
    assert values(node(few)) == few
    with pytest.raises(ValueError, match="without end"):
        values(node([0] * 300_000))


def test_what_programs_for_leetcode_find_imported(scorer):
    asked = problem(test="def check(candidate):\n    assert candidate(n = 4) == 6", entry_point="Solution().f")
    source = """class Solution:
    def f(self, n: Optional[int]) -> List[int]:
        seen = defaultdict(int, Counter(accumulate(range(n))))
        heappush(heap := [inf], gcd(4, 6))
        return max(seen, key=cache(lambda key: (key, bisect_left([1], key), len(deque(pairwise(heap))))))"""
    assert scorer.score(asked, fenced(source)) == 1.0


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


ALL = """
class All(BASE):
    val = next = left = right = None
    def __eq__(self, other): return True
    def __hash__(self): return 0
    def __bool__(self): return True
    def __len__(self): return 2
    def __iter__(self): return iter((self, self))
    def __lt__(self, other): return True
    __le__ = __gt__ = __lt__
    def __sub__(self, other): return 0
    __rsub__ = __abs__ = __round__ = __sub__
import builtins, json, math
builtins.round = builtins.bool = All
math.isclose = lambda *a, **k: True
PATCH
is_same_list = is_same_tree = math.isclose
def f(n): return All()
"""


FORGED = r"""json.dumps = lambda *a, **k: r'{"\u0000set": [true, true]}'"""


BASES = ["", "set", "list", "dict", "int", "float", "str", "complex"]


@pytest.mark.parametrize("base", some_of(BASES, ["", "dict", "float"]))
@pytest.mark.parametrize("patch", ["", FORGED])
@pytest.mark.parametrize(
    "said",
    [
        "f(1) == {1, 2}",
        "f(1) == {(1, 2): 3}",
        "f(1) == 1 + 2j",
        "set(f(1)) == {3, 4}",
        "sorted(f(1)) == [3, 4]",
        "len(f(1)) == 3",
        "round(f(1), 2) == 3.14",
        "abs(f(1) - 7) < 0.1",
        "math.isclose(f(1), 7)",
        "is_same_list(f(1), list_node([1, 2]))",
        "is_same_tree(f(1), tree_node([1, 2]))",
    ],
)
def test_a_result_that_is_equal_to_all_is_equal_to_nothing(scorer, said, base, patch):
    source = ALL.replace("BASE", base).replace("PATCH", patch)
    assert scorer.score(problem(test_cases=[f"assert {said}"]), fenced(source)) == 0.0


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (
            {"test_cases": ["assert f(1) == 1", "assert g(f(2))"]},
            "'assert g(f(2))' is not read: of programs only asserts",
        ),
        ({"test_cases": ["assert abs(f(1) - f(2)) < 0.1"]}, "'assert abs(f(1) - f(2)) < 0.1' is not read"),
        ({"test_cases": ["assert abs(f(1) - 'a') < 0.1"]}, "is not read"),
        ({"test_cases": ["assert math.isclose(f(1), 2, tol=1)"]}, "is not read"),
        ({"test_cases": ["assert f(1) > 2"]}, "is not read"),
        ({"test_cases": ["assert f(1) == 2 or f(1) == 3"]}, "is not read"),
        ({"test_cases": ["assert isinstance(f(1), list)"]}, "is not read"),
        ({"test_cases": ["assert f([1]).sort() == 1"]}, "is not read"),
        ({"test_cases": ["assert Stack().push(1) == 1"]}, "is not read"),
        ({"test_cases": ["assert False"]}, "is not read"),
        ({"test_cases": ["from solution import f as g", "assert g(1) == 1"]}, "is not read"),
        ({"test_cases": ["assert f('a' * 10**9) == 1"]}, "is not read"),
        ({"test_cases": ["assert f([[0] * 9999] * 9999) == 1"]}, "is not read"),
        ({"test_cases": ["assert f(list(range(10**6))) == 1"]}, "is not read"),
        ({"test_cases": ["assert f(10**10**10) == 1"]}, "is not read"),
        ({"test_cases": ["assert f('%999999999d' % 1) == 1"]}, "is not read"),
        ({"test_cases": ["assert f(1 / 0) == 1"]}, "is not read"),
        ({"test": "assert f('x' * 250000) == 1\n" * 999}, "asserts with constants of more than 32 MiB"),
        ({"test": "def check(candidate):\n    pass\ncheck(candidate)"}, "is missing: give it as entry_point"),
        ({"test": "def check(candidate):\n    assert candidate(1) == 1"}, "is missing: give it as entry_point"),
        (
            {"input_output": [{"input": "n = 3", "output": "4"}], "fn_name": "f"},
            "Python's own notation is read in asserts",
        ),
        ({"test_cases": ["assert f(1) != 2"]}, "'assert f(1) != 2' is not read"),
        ({"test_cases": ["assert f(1) == 2 == 3"]}, "is not read"),
        ({"test_cases": ["assert f(x) == 1"]}, "is not read"),
        ({"test_cases": ["assert f(*[1]) == 1"]}, "is not read"),
        ({"test_cases": ["x = 3"]}, "'x = 3' is not read"),
        ({"test_cases": ["assert f("]}, "asserts that are not Python"),
        ({"test_cases": ["(" * 9999]}, "asserts that are not Python"),
        ({"test_cases": ["assert f(" + "-" * 9999 + "1) == 1"]}, "asserts that are not Python"),
        ({"test_cases": ["assert f(1) == 1", 3]}, "a list of texts and of int"),
        ({"test": "from solution import f\n\ndef test_f():\n    assert f(1) == 2"}, "is not read"),
        (
            {
                "test": "def check(candidate):\n    for n in range(3):\n        assert candidate(n) == n",
                "entry_point": "f",
            },
            "is not read",
        ),
        ({"test": "assert f('" + "x" * 2**20 + "') == 1"}, "asserts of more than 1 MiB"),
        ({"verification_info": {"language": "rust", "test_cases": STREAM}}, "only those in Python are run"),
        ({"verification_info": {"a\x1b[1m": 1, "b": 2}}, "but an object with a␛[1m, b"),
        (
            {"tests": [{"input": "1", "output": "1", "testtype": "functional"}]},
            "its name is missing: give it as fn_name",
        ),
        ({"tests": [{"type": "function_call", "input": [1], "output": 1}]}, "its name is missing"),
        ({"tests": {"inputs": [[1, [2, 3]]], "outputs": [3]}}, "its name is missing: give it as fn_name"),
        ({"tests": [{"input": {"a": 1}, "output": 1}]}, "its name is missing: give it as fn_name"),
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
        [{1: {2: (3,)}}, {"a": 1}, {}, {"1": [()]}, {(1, 2): 3}, 1 - 2j],
    ],
)
def test_arguments_arrive_as_they_are(arguments):
    found, keywords = load(dump(arguments, {"a": (1, 2)}))
    assert (found, keywords) == (arguments, {"a": (1, 2)})
    assert list(map(type, found)) == list(map(type, arguments))
    assert load(dump(arguments)) == (arguments, {})


def apps(given: Sequence[object], expected: object) -> Problem:
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
    given: Sequence[object]
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
    assert (reason := unfit(config, problem(reward_model={}))) is not None
    assert reason.kind == "no tests"
