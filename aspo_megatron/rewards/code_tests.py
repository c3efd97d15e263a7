"""A problem's tests, in the forms in which LiveCodeBench, APPS, CodeContests and their relatives keep them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import parse_json, refuse_many_values
from aspo_megatron.rewards.packed_tests import MOST_UNPACKED, unpack
from aspo_megatron.rewards.text import named

FIELDS = ("input_output", "tests", "test_cases", "public_test_cases", "public_tests")
"""Where tests are looked for, after the answer."""

_MORE_FIELDS = {"public_test_cases": ("private_test_cases",), "public_tests": ("private_tests", "generated_tests")}

_MALFORMED = (UserError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_REMEMBERED = 2
_MIB = 1 << 20
_SHORT_RESULT = 1 << 16
_LONGER_THAN_EXPECTED = 32
_MOST_ARGUMENTS = 1000

_Told = tuple[Any, Any, str | None]
"""What is given, what is expected, and the name of the function, of one test."""


@dataclass(frozen=True)
class CodeTest:
    """One test. `given` is the standard input, or a function's arguments as a JSON list.

    `expected` is the standard output as text, or the values of which the function may return any.
    """

    function: str | None
    given: str
    expected: str | tuple[Any, ...]

    def could_be(self, size: int) -> bool:
        """Whether a right result may have so many bytes as JSON; numbers can be written in many digits or few."""
        return size <= _SHORT_RESULT or size <= _LONGER_THAN_EXPECTED * len(json.dumps(self.expected))


def read_tests(problem: Problem, field: str | None = None) -> list[CodeTest]:
    """The tests of a problem, those that are public first.

    Args:
        problem: its `answer` or `metadata` holds the tests.
        field: the field of the metadata that holds them; None: the answer if it is JSON, else the first of `FIELDS`.

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
    if field is None and problem.answer is not None and problem.answer.lstrip()[:1] in {"{", "["}:
        return "the answer", problem.answer
    for name in FIELDS if field is None else (field,):
        if problem.metadata.get(name):
            return name, problem.metadata[name]
    raise ValueError(f"{named(problem)} has no tests: none of {field or ', '.join(('answer', *FIELDS))} holds any")


def _function_name(fields: Mapping[str, Any]) -> str | None:
    """What LiveCodeBench names beside its tests."""
    about = fields.get("metadata")
    if isinstance(about, str) and about.lstrip().startswith("{"):
        about = parse_json(about, "metadata")
    named = [about.get("func_name")] if isinstance(about, Mapping) else []
    for name in (*named, fields.get("fn_name"), fields.get("func_name")):
        if isinstance(name, str) and name:
            return name
    return None


def _decoded(value: Any) -> Any:
    """Undo JSON, and LiveCodeBench's packing of private tests: JSON, pickled as a text, zlib, base64."""
    if not isinstance(value, str):
        return value
    if len(value) > MOST_UNPACKED:
        raise ValueError(f"more than {MOST_UNPACKED // _MIB} MiB")
    return parse_json(value if value.lstrip()[:1] in {"{", "["} else unpack(value), "tests")


def _read(value: Any, function: str | None) -> Iterator[CodeTest]:
    told = list(_told(value, function))
    # Each output is JSON of its own, and all of them are kept.
    outputs = (expected for given, expected, name in told if name is not None and isinstance(given, str))
    refuse_many_values("\n".join(outputs), "outputs")
    return (_test(*each) for each in told)


def _told(value: Any, function: str | None) -> Iterator[_Told]:
    if isinstance(value, list):
        for item in value:
            is_stream = str(item.get("testtype", item.get("type"))).startswith("std")
            yield item["input"], item["output"], None if is_stream else _function_name(item) or function
        return
    inputs, outputs = (value["inputs"], value["outputs"]) if "inputs" in value else (value["input"], value["output"])
    own = _function_name(value)
    for given, expected in zip(inputs, outputs, strict=True):
        yield given, expected, own


def _test(given: Any, expected: Any, function: str | None) -> CodeTest:
    if function is None:
        return CodeTest(None, _text(given), _text(expected))
    if isinstance(given, str):
        # LiveCodeBench: an argument a line.
        lines = given.split("\n", _MOST_ARGUMENTS)
        if len(lines) > _MOST_ARGUMENTS:
            raise ValueError(f"more than {_MOST_ARGUMENTS} arguments")
        refuse_many_values(given, "arguments")
        arguments = [parse_json(line, "an argument") for line in lines if line.strip()]
        return CodeTest(function, json.dumps(arguments), (parse_json(expected, "an output"),))
    if not isinstance(given, list):
        raise ValueError(f"arguments must be a list, not {type(given).__name__}")
    wrapped = tuple(expected) if isinstance(expected, list) and len(expected) == 1 else ()
    return CodeTest(function, json.dumps(given), (expected, *wrapped))


def _text(value: Any) -> str:
    """A text, or one that is kept as a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
