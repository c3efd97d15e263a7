"""The reward `code`: runs the program of a response on the problem's tests, in a sandbox.

Standard input and output, or calls of a function, see `tests`. Expected results stay in this process.
"""

from __future__ import annotations

import time

from aspo_megatron.config import CodeConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import parse_json
from aspo_megatron.rewards.programs.compare import same_output, same_value
from aspo_megatron.rewards.programs.fences import extract_code
from aspo_megatron.rewards.programs.sandbox import Limits, Outcome, Sandbox, find_mode
from aspo_megatron.rewards.programs.tests import CodeTest, read_tests

_MIB = 1 << 20


class CodeScorer:
    """Scores programs, all in one sandbox, each run in a process of its own."""

    def __init__(self, config: CodeConfig, timeout_seconds: float) -> None:
        """Find out how to isolate; the sandbox starts with the first program.

        Args:
            config: limits and options.
            timeout_seconds: time for one response; a part of it is kept back for what is not the program's.

        Raises:
            ConfigError: programs cannot be isolated as asked for on this machine.
        """
        limits = Limits(
            seconds=config.seconds_per_test,
            memory=config.memory_mib * _MIB,
            output=config.output_mib * _MIB,
            files=config.files_mib * _MIB,
            tasks=config.threads,
        )
        self._config = config
        self._seconds = max(timeout_seconds - 2.0, 0.8 * timeout_seconds)
        try:
            mode = find_mode(config.sandbox)
        except OSError as error:
            raise ConfigError(
                f"reward.code.sandbox: a sandbox cannot be started: {one_line(error)}. Is there enough memory, and "
                "are the limits on processes (ulimit -u) and open files (ulimit -n) high enough?"
            ) from error
        self._sandbox = Sandbox(mode, limits, packages=config.packages)

    def score(self, problem: Problem, response: str) -> float:
        """1 if the program passes all tests, or the share that it passes; 0 without a program.

        A test for which no time is left counts as failed.

        Raises:
            ValueError: the problem has no tests that can be read.
        """
        tests = read_tests(problem, self._config.tests_field)[: self._config.max_tests]
        source = extract_code(response)
        if source is None:
            return 0.0
        deadline = time.monotonic() + self._seconds
        passed = 0
        for test in tests:
            if deadline <= time.monotonic():
                break
            if self._passes(source, test, deadline):
                passed += 1
            elif self._config.score == "all":
                return 0.0
        return passed / len(tests) if self._config.score == "fraction" else float(passed == len(tests))

    def close(self) -> None:
        """End the sandbox."""
        self._sandbox.close()

    def _passes(self, source: str, test: CodeTest, deadline: float) -> bool:
        if test.function is None:
            outcome = self._sandbox.run(source, test.given, deadline - time.monotonic())
            return outcome.status == "done" and _is_right(outcome, test, self._config.tolerance)
        for given in (test.given, test.or_given):
            left = deadline - time.monotonic()
            if given is None or left <= 0:
                break
            outcome = self._sandbox.call(source, test.function, given, left)
            if outcome.status == "done" and _is_right(outcome, test, self._config.tolerance):
                return True
            if outcome.status not in ("done", "failed"):  # other keys would not make it faster
                break
        return False


def _is_right(outcome: Outcome, test: CodeTest, tolerance: float) -> bool:
    if isinstance(test.expected, str):
        return same_output(outcome.output.decode("utf-8", "replace"), test.expected, tolerance)
    if not test.could_be(len(outcome.output)):
        return False
    tolerance = tolerance if test.tolerance is None else test.tolerance
    try:
        value = parse_json(outcome.output.decode("utf-8", "replace"), "result")
        return any(same_value(value, expected, tolerance) for expected in test.expected)
    except (UserError, RecursionError):  # No JSON, or a program's own writing.
        return False
