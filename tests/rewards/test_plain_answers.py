"""Answers to reasoning-gym's problems run no code, look nothing up and take no longer than their time."""

from __future__ import annotations

from pathlib import Path

import pytest
import reasoning_gym
from thorough import one_in

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards import reasoning_gym as reward
from aspo_megatron.rewards.plain_answers import computes, is_plain
from aspo_megatron.rewards.scorers import build

EVALUATED = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
PARSED = ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
PLAIN = ("chain_sum", "mini_sudoku", "propositional_logic", "basic_arithmetic", "bitwise_arithmetic", "jugs")


def asked(family: str) -> Problem:
    entry = reasoning_gym.create_dataset(family, size=1, seed=5)[0]
    return Problem("p-0", "?", (1,), entry["answer"], {"family": family, "entry": entry})


def evaluate(problem: Problem, answer: str) -> float:
    return reward.score(problem, f"<answer>{answer}</answer>")


def test_what_each_family_computes():
    found = {family: computes(reasoning_gym.get_score_answer_fn(family)) for family in (*EVALUATED, *PARSED, *PLAIN)}
    assert found == {
        **dict.fromkeys(EVALUATED, "literals"),
        **dict.fromkeys(PARSED, "formulas"),
        **dict.fromkeys(PLAIN, "nothing"),
    }


CODE = [
    "__import__('pathlib').Path('{path}').touch()",
    "[__import__('pathlib').Path('{path}').touch()]",
    "open('{path}', 'w').write('x')",
    "[open('{path}', 'w')]",
    "exec(\"open('{path}', 'w')\")",
    "eval(\"open('{path}', 'w')\")",
    "1 + __import__('pathlib').Path('{path}').touch()",
    "(lambda: open('{path}', 'w'))()",
    "[x for x in [open('{path}', 'w')]]",
    "S(\"open('{path}', 'w')\")",
    "sympify(\"open('{path}', 'w')\")",
    "sin(\"open('{path}', 'w')\")",
    'x + sqrt(\'open("{path}", "w")\')',
    "().__class__.__base__.__subclasses__()",
    "5! + open('{path}', 'w').write('x')",
    'f\'{{open("{path}", "w")}}\'',
    "(y := open('{path}', 'w'))",
    "  \topen('{path}', 'w')",
    "eval(chr(111)+chr(112))",
    "0.2[1] + open('{path}', 'w').write('x')",
]


@pytest.mark.parametrize("family", [*EVALUATED, *PARSED])
def test_no_code_is_run(family, tmp_path):
    path = tmp_path / "it-was-here"
    problem = asked(family)
    rewards = {
        code: evaluate(problem, code.replace("{path}", str(path)).replace("{{", "{").replace("}}", "}"))
        for code in CODE
    }
    assert set(rewards.values()) <= {0.0, 0.01}
    assert not path.exists()


@pytest.mark.parametrize("family", EVALUATED)
@pytest.mark.parametrize(
    "answer", ["oracle_answer", "valid_solutions", "entry", "self", "[oracle_answer]", "entry['answer']"]
)
def test_nothing_is_looked_up(family, answer):
    assert evaluate(asked(family), answer) == 0.0


@pytest.mark.parametrize("family", [*EVALUATED, *PARSED])
def test_nothing_is_computed_for_ever(family):
    huge = [
        "9**9**9**9",
        "[9**9**9**9]",
        "(x+1)**99999",
        "factorial(10**9)",
        "10**10**10 + x",
        "9**(9**(9**9))",
        "'a'*9**12",
    ]
    assert [answer for answer in huge if is_plain(answer, "", "formulas" if family in PARSED else "literals")] == []
    problem = asked(family)
    assert {evaluate(problem, answer) for answer in huge} <= {0.0, 0.01}


@pytest.mark.parametrize("family", [*EVALUATED, *PARSED, *PLAIN])
def test_right_answers_are_right(family):
    problem = asked(family)
    answer = problem.answer or problem.metadata["entry"]["metadata"]["example_answer"]
    own = reasoning_gym.get_score_answer_fn(family)(answer, problem.metadata["entry"])
    assert evaluate(problem, answer) == evaluate(problem, f"\n{answer}\n") == own


@pytest.mark.parametrize(
    ("family", "change", "value"),
    [
        ("countdown", lambda answer: f"({answer})", 1.0),
        ("puzzle24", lambda answer: f"1*({answer})".replace("1*(", "("), 1.0),
        ("polynomial_multiplication", lambda answer: f"0 + {answer}", 1.0),
        ("simple_integration", lambda answer: f"{answer} + 7", 1.0),
        ("intermediate_integration", lambda answer: f"{answer} + sin(2)", 1.0),
        ("spiral_matrix", lambda answer: f"[{', '.join(answer.split())}]", 0.1),
        ("string_insertion", lambda answer: str(list(answer)), 0.1),
        ("binary_matrix", lambda answer: str([list(map(int, row.split())) for row in answer.split("\n")]), 0.1),
        ("n_queens", lambda answer: str([row.split() for row in answer.split("\n")]), 0.5),
        ("chain_sum", lambda answer: f"{answer}.0", 1.0),
    ],
)
def test_other_writings_have_the_credit_of_the_family(family, change, value):
    problem = asked(family)
    assert problem.answer is not None
    assert evaluate(problem, change(problem.answer)) == value


LONG = {
    "digits": "9" * 10**6,
    "letters": "a" * 10**6,
    "brackets": "[" * 10**6,
    "parentheses": "(" * 10**6,
    "spaces": "1" + " " * 10**6 + "2",
    "lines": "1\n" * 10**6,
    "tags": "<answer>" * 10**6,
    "ends": "</answer>" * 10**5,
    "minuses": "-" * 10**6 + "1",
    "exponent": "1e999999999",
    "exponent with separators": "1E+9_9_9_9_9_9",
    "words": "a " * 10**6,
}


@pytest.mark.parametrize("name", LONG)
def test_long_answers_are_no_answers(name):
    for family in ("chain_sum", "countdown", "spiral_matrix", "power_function", "coin_flip"):
        problem = asked(family)
        assert not is_plain(LONG[name], problem.answer or "", "nothing") or name in ("tags", "ends")
        assert reward.score(problem, LONG[name]) < 0.1


def test_the_limit_of_the_pool_is_passed_on(tmp_path):
    scorer = build(RewardConfig(kind="reasoning_gym", timeout_seconds=1.0))
    problem = asked("chain_sum")
    assert scorer(problem, problem.answer or "").value == 1.0
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize("family", one_in(2, ["simple_integration", "intermediate_integration"]))
def test_the_integral_of_the_question_is_no_answer(family):
    for entry in reasoning_gym.create_dataset(family, size=60, seed=3):
        problem = Problem("p-0", "?", (1,), entry["answer"], {"family": family, "entry": entry})
        integrand, variable = entry["metadata"]["integrand"], entry["metadata"]["variable"]
        integral = f"Integral({integrand}, {variable})"
        assert problem.answer is not None
        if integral not in problem.answer:
            assert evaluate(problem, integral) == evaluate(problem, f"2*{integral} - {integral} + C") == 0.0
        assert evaluate(problem, problem.answer) == 1.0


def test_integrals_that_the_reference_has_may_be_in_an_answer():
    entry = next(
        entry
        for entry in reasoning_gym.create_dataset("intermediate_integration", size=60, seed=3)
        if "Integral" in entry["answer"]
    )
    problem = Problem("p-0", "?", (1,), entry["answer"], {"family": "intermediate_integration", "entry": entry})
    assert evaluate(problem, f"7 + {entry['answer']}") == 1.0
    assert evaluate(problem, f"{entry['answer']} + 0*Integral(x**2, x)") == 0.0


def test_a_formula_for_24_uses_the_numbers_of_the_problem():
    entry = reasoning_gym.create_dataset("puzzle24", size=1, seed=5)[0]
    entry["metadata"]["numbers"] = [2, 3, 5, 5]
    problem = Problem("p-0", "?", (1,), None, {"family": "puzzle24", "entry": entry})
    assert evaluate(problem, "5*5 - 3 + 2") == 1.0
    assert {evaluate(problem, answer) for answer in ("6*4*1*1", "5*5 - 3/3", "24", "8*3 + 5 - 5", "")} == {0.01}
