"""What a program gives is compared with what its test expects: infinity, digits, tolerances, large outputs."""

from __future__ import annotations

import decimal
import json
import tracemalloc

import numpy as np
import pytest

from aspo_megatron.config import CodeConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.programs.compare import _lines, same_output, same_value
from aspo_megatron.rewards.programs.reward import CodeScorer, _is_right
from aspo_megatron.rewards.programs.sandbox import Outcome
from aspo_megatron.rewards.programs.tests import CodeTest

INF = float("inf")
MIB = 1 << 20


@pytest.mark.parametrize("expected", ["inf", "-inf", "Infinity", "+inf", "INF", "-Infinity", "1e400", "-1.5e999"])
@pytest.mark.parametrize("actual", ["7", "-3", "0", "1e308", "-1e308", "nan", "x", "1e399", "1e401", "1.6e999"])
def test_no_number_is_printed_infinity(actual, expected):
    assert not same_output(actual, expected, 1e-6)
    assert not same_output(f"1 {actual}\n2", f"1 {expected}\n2", 1e-6)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        *[("inf", "inf"), ("Infinity", "inf"), ("INF", "Infinity"), ("+inf", "inf"), ("-inf", "-Infinity")],
        *[("1e400", "1e400"), ("10e399", "1e400"), ("1.0000001e400", "1e400"), ("-1.5E+999", "-15e998")],
        *[("inf", "+Infinity"), ("1 inf 2", "1 Infinity 2"), ("nan", "nan"), ("1e-400", "0.0"), ("0", "1e-400")],
    ],
)
def test_right_infinities_and_huge_numbers_are_right(actual, expected):
    assert same_output(actual, expected, 1e-6)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        *[("-inf", "inf"), ("inf", "-inf"), ("inf", "1e400"), ("1e400", "inf"), ("-1e400", "1e400")],
        *[("inf", "1.0"), ("-inf", "-1e308"), ("inf", "0"), ("NaN", "nan"), ("nan", "inf"), ("infinit", "inf")],
    ],
)
def test_other_infinities_are_wrong(actual, expected):
    assert not same_output(actual, expected, 1e-6)


@pytest.mark.parametrize("expected", [INF, -INF, [INF], [1, -INF], {"a": INF}, [[INF, 2.0]], (INF, 1.0), {"a": [-INF]}])
@pytest.mark.parametrize("number", [7, -3.5, 0, 1e308, -1e308, True, 10**400, -(10**400), float("nan"), 0.5])
def test_no_number_is_returned_infinity(number, expected):
    assert not same_value(_with(expected, number), expected, 1e-6)


@pytest.mark.parametrize("expected", [INF, -INF, [INF], [1, -INF], {"a": INF}, [[INF, 2.0]], (INF, 1.0), {"a": [-INF]}])
def test_a_right_infinity_is_returned(expected):
    assert same_value(expected, expected, 1e-6)
    assert same_value(_with(expected, None), expected, 1e-6)
    assert not same_value(_with(expected, "-"), expected, 1e-6)
    assert same_value(json.loads(json.dumps(expected)), expected, 1e-6)


def _with(value: object, number: object) -> object:
    """The same value with a number where infinity is; None: numpy's own infinity, "-": the other one."""
    if isinstance(value, float) and abs(value) == INF:
        return {None: np.float64(value), "-": -value}.get(number, number)  # type: ignore[call-overload]
    if isinstance(value, dict):
        return {key: _with(each, number) for key, each in value.items()}
    return type(value)(_with(each, number) for each in value) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("function", [False, True])
@pytest.mark.parametrize(("printed", "reward"), [("7", 0.0), ("float('inf')", 1.0), ("-float('inf')", 0.0)])
def test_infinity_end_to_end(printed, reward, function):
    tests: dict[str, object] = {"inputs": ["1 2\n"], "outputs": ["inf\n"]}
    source = f"print({printed})"
    if function:
        tests = {"fn_name": "f", "inputs": [[1]], "outputs": [INF]}
        source = f"def f(n):\n    return {printed}"
    scorer = CodeScorer(CodeConfig(), 60.0)
    try:
        asked = Problem("p", "?", (1,), json.dumps(tests), {})
        assert scorer.score(asked, f"```python\n{source}\n```") == reward
    finally:
        scorer.close()


@pytest.mark.parametrize(
    "word",
    [
        *["1_0", "1_0.0", "\uff11\uff10", "\u0661\u0660", "\u096710", "1\u0660", "\U0001d7cf\U0001d7ce", "1e\uff11"],
        *["0x0a", "10j", "10L", "1,0", "+-10", "--10", "1e1e0", "\u221210"[1:] + "\u200b", "1 0", "10.0.0", "e1"],
    ],
)
@pytest.mark.parametrize("expected", ["10", "10.0"])
def test_words_that_are_no_number(word, expected):
    assert not same_output(word, expected, 1e-6)


@pytest.mark.parametrize("word", ["10", "10.0", "+10", "010", "10.", "1e1", "1E+1", "100e-1", "0.1e2", "10.000000"])
def test_words_that_are_ten(word):
    assert same_output(word, "10", 0.0)


@pytest.mark.parametrize(
    ("actual", "expected", "tolerance", "same"),
    [
        ("1e308", "-1e308", 1e-6, False),
        ("1e999", "-1e999", 10.0, True),
        ("1e999999999999999", "1.5", 1e-6, False),
        ("-9e9999999999999999", "9e9999999999999999", 1.0, False),
        ("1e99999999999999999999", "1e99999999999999999998", 1e-6, False),
        ("1e-99999999999999999999", "1.0", 1e-6, False),
        ("2.000002", "2.0", 1e-6, True),
        ("2.0000021", "2.0", 1e-6, False),
        ("0.000001", "0.0", 1e-6, True),
        ("0.0000011", "0.0", 1e-6, False),
        ("1e-9", "2.0e-9", 0.0, False),
        ("1e400", "1.000001e400", 1e-6, True),
        ("1e400", "1.00001e400", 1e-6, False),
        ("9007199254740993", "9007199254740992", 1e-6, False),
        ("9007199254740993.0", "9007199254740992.0", 0.0, False),
        ("1.7e308", "-1.7e308", 1e300, True),
    ],
)
def test_tolerances_neither_overflow_nor_vanish(actual, expected, tolerance, same):
    assert same_output(actual, expected, tolerance) is same


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        *[(1e308, -1e308, False), (10**400, 1e308, False), (10**308, 1e308, True), (True, 1.0, True)],
        *[(False, 1.0, False), (1j, 1.0, False), ("1.0", 1.0, False), (None, 0.0, False), (2**53 + 1, 2.0**53, True)],
        *[([1.0], 1.0, False), (1e-300, 0.0, True), (5e-324, 0.0, True), (float("nan"), float("nan"), False)],
        *[((1, 2), [1, 2], True), ([1, 2], (1, 2.0), True), (10**4000, 10**4000, True), (10**4000, 1.0, False)],
    ],
)
def test_returned_numbers(actual, expected, same):
    assert same_value(actual, expected, 1e-6) is same


@pytest.mark.parametrize("precision", [1, 2, 3])
def test_a_context_of_decimals_set_elsewhere_does_not_matter(precision):
    with decimal.localcontext() as context:
        context.prec = precision
        context.traps = dict.fromkeys(context.traps, True)
        assert same_output("1.2345678", "1.2345679", 1e-6)
        assert not same_output("1.24", "1.25", 1e-6)
        assert not same_output("inf", "1.25", 1e-6)


@pytest.mark.parametrize(
    "text", ["", "a", "a\n", "\n\na", "a\r\nb\r", "a\x0b\x0cb", "\x1c\x1d\x1e", "a\x85\u2028\u2029b\n\n"]
)
def test_lines_are_those_of_python(text):
    assert list(_lines(text)) == text.splitlines()


OUTPUTS = {
    "empty lines": "x" + "\n" * (4 * MIB) + "x",
    "short lines": "a\n" * (2 * MIB),
    "words": "ab " * (MIB),
    "one word": "a" * (4 * MIB),
    "digits": "9" * (4 * MIB),
    "numbers": "1.5 " * MIB,
    "right, then more": "3\n" + "1 " * (2 * MIB),
    "right, then lines": "3\n" * (2 * MIB),
    "other line ends": "3\r" * (2 * MIB),
    "spaces inside": "3" + " " * (4 * MIB) + "3",
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_large_output_costs_no_more_than_its_own_size(name):
    tests = CodeTest(None, "", "3\n"), CodeTest("f", "", ([3], 3))
    outcome = Outcome("done", OUTPUTS[name].encode())
    tracemalloc.start()
    try:
        assert not any(_is_right(outcome, test, 1e-6) for test in tests)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(outcome.output)


RESULTS = {
    "lists": "[" + "[]," * MIB + "[]]",
    "objects": "[" + "{}," * MIB + "{}]",
    "numbers": "[" + "1," * (2 * MIB) + "1]",
    "decimals": "[" + "1.5," * MIB + "1]",
    "texts": "[" + '"a",' * MIB + "1]",
    "pairs": "{" + ",".join(f'"{i}":1' for i in range(MIB // 4)) + "}",
    "one text": '"' + "a" * (4 * MIB) + '"',
    "one number": "9" * (4 * MIB),
    "nested": "[" * (2 * MIB) + "]" * (2 * MIB),
    "spaces": " " * (4 * MIB) + "[4]",
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_large_result_costs_no_more_than_its_own_size(name):
    outcome = Outcome("done", RESULTS[name].encode())
    tracemalloc.start()
    try:
        assert not _is_right(outcome, CodeTest("f", "", ([3], 3)), 1e-6)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(outcome.output)


def test_a_large_right_result_is_right():
    expected = [[0.5, 1, "\u00e9"]] * 4000
    written = json.dumps([[0.5000000000000001, 1, "\u00e9"]] * 4000, indent=8)
    assert _is_right(Outcome("done", written.encode()), CodeTest("f", "", (expected,)), 1e-6)
    lines = "1.50   2\n" * 30_000
    assert _is_right(Outcome("done", lines.encode()), CodeTest(None, "", "1.5 2\n" * 30_000), 1e-6)
