"""A problem's tests, in the forms in which LiveCodeBench, APPS, CodeContests and others keep them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from aspo_megatron.data.samples import Problem
from aspo_megatron.data.sources.fields import ABSENT, lookup
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import parse_json, refuse_many_values
from aspo_megatron.rewards.programs.asserts import has_check, is_program, read_asserts
from aspo_megatron.rewards.programs.jail.arguments import dump
from aspo_megatron.rewards.programs.packed_tests import MOST_UNPACKED, unpack
from aspo_megatron.rewards.text import named

FIELDS = (
    *("input_output", "tests", "test_cases", "public_test_cases", "public_tests"),
    *("verification_info", "test_list", "test"),
)
"""Where tests are looked for, after the answer and a `check(candidate)` in the last one."""

_CHECK_FIELD = FIELDS[-1]

_MORE_FIELDS = {"public_test_cases": ("private_test_cases",), "public_tests": ("private_tests", "generated_tests")}

_MALFORMED = (UserError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_REMEMBERED = 2
_MIB = 1 << 20
_SHORT_RESULT = 1 << 16
_LONGER_THAN_EXPECTED = 32
_MOST_ARGUMENTS = 1000
_SHOWN_NAMES = 8
_SHOWN = 60
_COLUMNS = (("inputs", "outputs"), ("input", "output"))

_WITHIN = ("test_cases", "assert_case", "functional")
"""Names under which a problem's information has its tests."""

_NAMELESS = "a test calls a function, and its name is missing: give it as fn_name"
_PYTHON = ("python", "python3", "py")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,999})")

_Told = tuple[Any, Any, str | None]
"""What is given, what is expected, and the name of the function, of one test."""


@dataclass(frozen=True)
class CodeTest:
    """One test. `given` is the standard input, or a function's arguments as a JSON list.

    `expected` is the standard output as text, or the values of which the function may return any. `or_given` are the
    arguments as they stand in the data, if keys of dictionaries in them are texts of numbers, which JSON may have made
    of numbers; they are numbers in `given`. `tolerance` is the test's own, as `same_output` has it.
    """

    function: str | None
    given: str
    expected: str | tuple[Any, ...]
    or_given: str | None = None
    tolerance: float | None = None

    def could_be(self, size: int) -> bool:
        """Whether a right result may have so many bytes as JSON; numbers can be written in many digits or few."""
        return size <= _SHORT_RESULT or size <= _LONGER_THAN_EXPECTED * len(json.dumps(self.expected))


def read_tests(problem: Problem, field: str | None = None) -> list[CodeTest]:
    """The tests of a problem, those that are public first.

    Args:
        problem: its `answer` or `metadata` holds the tests.
        field: the field of the metadata that holds them; None: the answer if it is JSON or asserts, else the
            first of `FIELDS`, `test` before others if it has a `check(candidate)`.

    Raises:
        ValueError: there are none, or they are in no known form.
    """
    name, value = _find(problem, field)
    values = (value, *(problem.metadata[more] for more in _MORE_FIELDS.get(name, ()) if problem.metadata.get(more)))
    try:
        function = _function_name(problem.metadata)
        # Texts are often packed and large, and scored with many responses in a row.
        read = _read_texts if all(isinstance(value, str) for value in values) else _read_all
        tests = list(read(values, function))
    except _MALFORMED as error:
        raise ValueError(
            f"{named(problem)}: {name} holds no tests in a known form ({one_line(error)[:300]})"
        ) from error
    if not tests:
        raise ValueError(f"{named(problem)}: {name} holds no test")
    return tests


def _read_all(values: tuple[Any, ...], function: str | None) -> tuple[CodeTest, ...]:
    tests = tuple(test for value in values for test in _read(_decoded(value), function))
    if all(_may_be_wrapped(test) for test in tests):
        return tests
    return tuple(test if test.function is None else replace(test, expected=test.expected[:1]) for test in tests)


_read_texts = lru_cache(maxsize=_REMEMBERED)(_read_all)


def _may_be_wrapped(test: CodeTest) -> bool:
    """APPS wraps the results of some problems into a list, and nothing tells of which; but then it is all results."""
    return test.function is None or len(test.expected) == 2


def has_tests(problem: Problem, field: str | None = None) -> bool:
    """Whether there is something that may be tests, without reading it."""
    try:
        _find(problem, field)
    except ValueError:
        return False
    return True


def _find(problem: Problem, field: str | None) -> tuple[str, Any]:
    if field is None and problem.answer is not None and _may_be_tests(problem.answer):
        return "the answer", problem.answer
    # LeetCodeDataset shows the same tests in `input_output`, in no notation and without saying what is a tree.
    first = (_CHECK_FIELD,) if has_check(problem.metadata.get(_CHECK_FIELD)) else ()
    for name in (*first, *FIELDS) if field is None else (field,):
        value = lookup(problem.metadata, name)
        if value is not ABSENT and value:
            return name, value
    raise ValueError(f"{named(problem)} has no tests: none of {field or ', '.join(('answer', *FIELDS))} holds any")


def _may_be_tests(answer: str) -> bool:
    return answer.lstrip()[:1] in {"{", "["} or ("assert " in answer and is_program(answer))


def _function_name(fields: Mapping[str, Any]) -> str | None:
    """What LiveCodeBench names beside its tests."""
    about = fields.get("metadata")
    if isinstance(about, str) and about.lstrip().startswith("{"):
        about = parse_json(about, "metadata")
    named = [about.get("func_name")] if isinstance(about, Mapping) else []
    for name in (*named, *map(fields.get, ("fn_name", "func_name", "entry_point"))):
        if isinstance(name, str) and name:
            return name
    return None


def _decoded(value: Any) -> Any:
    """Undo JSON, and LiveCodeBench's packing of private tests: JSON, pickled as a text, zlib, base64."""
    if not isinstance(value, str):
        return value
    if len(value) > MOST_UNPACKED:
        raise ValueError(f"more than {MOST_UNPACKED // _MIB} MiB")
    if value.lstrip()[:1] in {"{", "["}:
        return parse_json(value, "tests")
    return value if is_program(value) else parse_json(unpack(value), "tests")


def _read(value: Any, function: str | None) -> list[CodeTest]:
    if isinstance(value, str):
        return [
            CodeTest(called.function, called.given, (called.expected,), tolerance=called.tolerance)
            for called in read_asserts(value, function)
        ]
    if isinstance(value, list) and any(isinstance(item, str) for item in value):
        return [test for item in value for test in _read(_program(item), function)]
    if isinstance(value, dict):
        language = value.get("language", "python")
        if str(language).lower() not in _PYTHON:
            raise ValueError(f"programs in {language!r}, and only those in Python are run")
        within = [value[name] for name in _WITHIN if name in value]
        if within:
            own = _function_name(value) or function
            return [test for tests in within for test in _read(_decoded(tests), own)]
    told = list(_told(value, function))
    # Each output is JSON of its own, and all of them are kept.
    outputs = (expected for given, expected, name in told if name is not None and isinstance(given, str))
    refuse_many_values("\n".join(outputs), "outputs")
    return [_test(*each) for each in told]


def _program(item: Any) -> str:
    if not isinstance(item, str):
        raise ValueError(f"a list of texts and of {type(item).__name__}")
    return item


def _told(value: Any, function: str | None) -> Iterator[_Told]:
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, Mapping) or not {"input", "output"} <= item.keys():
                raise ValueError(f"a test is no object with input and output, but {_kind(item)}")
            kind = str(item.get("testtype", item.get("type")))
            name = None if kind.startswith("std") else _function_name(item) or function
            if name is None and kind.startswith("func"):
                raise ValueError(_NAMELESS)
            yield item["input"], item["output"], name
        return
    names = next((names for names in _COLUMNS if isinstance(value, Mapping) and names[0] in value), None)
    if names is None:
        raise ValueError(f"neither a list of tests nor an object with inputs and outputs, but {_kind(value)}")
    own = _function_name(value)
    inputs, outputs = (value[name] for name in names)
    if isinstance(inputs, str) and isinstance(outputs, str):  # one test, and no list of characters
        inputs, outputs = [inputs], [outputs]
    for given, expected in zip(inputs, outputs, strict=True):
        yield given, expected, own


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, list(value)[:_SHOWN_NAMES])) or 'nothing'}"
    return f"of type {type(value).__name__}"


def _test(given: Any, expected: Any, function: str | None) -> CodeTest:
    if function is None:
        if isinstance(given, Mapping) or (isinstance(given, list) and not all(isinstance(line, str) for line in given)):
            raise ValueError(_NAMELESS)  # no lines of a text
        return CodeTest(None, _text(given), _text(expected))
    if isinstance(given, str):
        # LiveCodeBench: an argument a line.
        lines = given.split("\n", _MOST_ARGUMENTS)
        if len(lines) > _MOST_ARGUMENTS:
            raise ValueError(f"more than {_MOST_ARGUMENTS} arguments")
        refuse_many_values(given, "arguments")
        arguments = [_argument(line) for line in lines if line.strip()]
        return CodeTest(function, *_arguments(arguments, (parse_json(expected, "an output"),)))
    if not isinstance(given, list):
        raise ValueError(f"arguments must be a list, not {type(given).__name__}")
    wrapped = tuple(expected) if isinstance(expected, list) and len(expected) == 1 else ()
    return CodeTest(function, *_arguments(given, (expected, *wrapped)))


def _argument(line: str) -> Any:
    try:
        return parse_json(line, f"the argument {line[:_SHOWN]!r}")
    except UserError as error:
        raise ValueError(f"{error}; Python's own notation is read in asserts only, so give those") from error


def _arguments(arguments: list[Any], expected: tuple[Any, ...]) -> tuple[str, tuple[Any, ...], str | None]:
    """What follows a function's name in a test."""
    text = json.dumps(arguments)
    if "{" in text:
        numbered = dump(_with_number_keys(arguments))
        if numbered != text:
            return numbered, expected, text
    return text, expected, None


def _with_number_keys(value: Any) -> Any:
    """With numbers for the keys of each dictionary in it whose keys are all what JSON makes of numbers."""
    if isinstance(value, list):
        return [_with_number_keys(one) for one in value]
    if isinstance(value, dict):
        numbers = [_number(key) for key in value]
        keys = list(value) if None in numbers else numbers
        return {key: _with_number_keys(one) for key, one in zip(keys, value.values(), strict=True)}
    return value


def _number(key: str) -> int | float | None:
    """The number that is written so."""
    if _INTEGER.fullmatch(key):
        return int(key)
    try:
        number = float(key)
    except ValueError:
        return None
    return number if repr(number) == key else None


def _text(value: Any) -> str:
    """A text, or one that is kept as a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
