"""What would take minutes to compute is wrong at once, and no right answer is lost by that."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import suppress

import pytest
from math_verify import parse
from rewards.big_formulas import BIG, INFINITE, RIGHT, SMALL
from rewards.slow_formulas import SLOW_FORMULAS
from thorough import one_in

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.cpu_clock import OutOfTimeError, cpu_limit, cpu_seconds
from aspo_megatron.rewards.mathematics import reward as math_reward
from aspo_megatron.rewards.mathematics.cost.latex_size import LIMIT, latex_size
from aspo_megatron.rewards.mathematics.cost.sympy_size import sympy_size
from aspo_megatron.rewards.mathematics.reading.answers import TARGETS, TooBigError, read_answer
from aspo_megatron.rewards.mathematics.reading.formula import find_formula, is_too_big
from aspo_megatron.rewards.mathematics.reward import score
from aspo_megatron.rewards.workers.pool import RewardPool

pytestmark = pytest.mark.timeout(240)

ALL_BIG = [formula for formulas in BIG.values() for formula in formulas]


def grade(answer: str, response: str) -> float:
    return score(Problem("p-0", "?", (1,), answer), response)


@pytest.mark.parametrize("kind", BIG)
def test_what_is_too_big_is_seen_before_it_is_computed(kind, monkeypatch):
    monkeypatch.setattr(math_reward, "verify", None)
    assert len(BIG[kind]) >= 10
    assert [formula for formula in BIG[kind] if not is_too_big(formula)] == []
    assert [formula for formula in BIG[kind] if grade("42", rf"\boxed{{{formula}}}") != 0.0] == []


@pytest.mark.parametrize("kind", SLOW_FORMULAS)
def test_what_would_take_seconds_is_seen_before_it_is_computed(kind, monkeypatch):
    monkeypatch.setattr(math_reward, "verify", None)
    monkeypatch.setattr(math_reward, "same_by_value", None)
    reference = "y=2x+1" if kind == "relations" else "7"
    assert len(SLOW_FORMULAS[kind]) >= 10
    for formula in SLOW_FORMULAS[kind]:
        with pytest.raises(TooBigError):
            read_answer(rf"\boxed{{{formula}}}", LIMIT)
    assert [formula for formula in SLOW_FORMULAS[kind] if grade(reference, rf"\boxed{{{formula}}}") != 0.0] == []


@pytest.mark.parametrize("above", [r"\infty", "10^9"])
def test_where_a_sum_begins_is_no_last_side(above):
    assert grade("7", rf"\boxed{{\sum_{{k=7}}^{{{above}}}\sin k}}") == 0.0
    assert grade("7", rf"\boxed{{\sum_{{k=9}}^{{{above}}}\sin k = 7}}") == 1.0


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"\int_0^1 x^{x} dx", r"\int_{0}^{1} x^x dx"),
        (r"y=\sin x+\cos x", r"y=\cos x+\sin x"),
        (r"y=\sin x+\cos x", r"\cos x+\sin x=y"),
        ("x^4+xy^3+y^2+x=1", "x^4+y^3x+x=1-y^2"),
    ],
)
def test_a_reference_of_the_kind_allows_it(reference, answer):
    assert grade(reference, rf"\boxed{{{answer}}}") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        *("The answer is $9^{9^{9^{9}}}$", "The answer is 10**10**10", r"answer: \(10^{9}!\)", "Answer: $$9^{12!}$$"),
        *(
            "#### 9^9^9",
            r"<answer>(10^9)!</answer>",
            r"\[\binom{12!}{11!}\]",
            "so 9**9**9 it is",
            "= (10**99999)**99999",
        ),
        *(r"\framebox{9^{9^9}}", "answer is 9**9**9//1, " + "so " * 100, r"\boxed{\text{x} = $9^{12!}$}"),
    ],
)
def test_wherever_it_stands(text):
    formula = find_formula(text, 1000)
    assert formula is not None
    with pytest.raises(TooBigError):
        read_answer(formula, LIMIT)
    assert grade("42", text) == 0.0


@pytest.mark.parametrize(("reference", "answer"), one_in(4, RIGHT), ids=range(len(RIGHT)))
def test_large_right_answers_are_right(reference, answer):
    assert grade(reference, rf"Thus \boxed{{{answer}}}.") == 1.0
    assert grade(reference, rf"Thus \boxed{{{answer}+1}}.") == 0.0 or "," in answer or "=" in answer


@pytest.mark.parametrize("formula", ALL_BIG[::3], ids=range(len(ALL_BIG[::3])))
def test_what_is_written_as_the_reference_is_right(formula):
    assert grade(formula, rf"\boxed{{{formula}}}") == 1.0


@pytest.mark.parametrize(
    "reference", ["2^{2^{2023}}", "(10^9)!", "9^{9^9}", r"\binom{10^9}{500000000}", "10^{10^{10}}"]
)
@pytest.mark.parametrize("answer", ["5", "x", r"2^{2^{2024}}"])
def test_a_reference_too_big_to_compute_is_not_computed(reference, answer, monkeypatch):
    monkeypatch.setattr(math_reward, "parse_reference", None)
    assert grade(reference, rf"\boxed{{{answer}}}") == 0.0


@pytest.mark.parametrize(("reference", "answer", "reward"), INFINITE, ids=range(len(INFINITE)))
def test_infinity(reference, answer, reward):
    assert grade(reference, rf"\boxed{{{answer}}}") == reward


@pytest.mark.parametrize("kind", ["powers", "factorials", "roots", "symbols"])
def test_the_tree_is_bounded_as_well_as_the_text(kind):
    """Of what SymPy can read without computing it, the tree alone tells that it is too big."""
    formulas = [
        formula for formula in BIG[kind] if not re.search(r"Gamma|gamma|prod|gcd|1e9|,|9\^9\^9|99999999999\^", formula)
    ]
    endless = LIMIT.grown(float("inf"))
    read = {formula: read_answer(rf"\boxed{{{formula}}}", endless) for formula in formulas[:6]}
    assert [formula for formula, found in read.items() if len(found) > 1 and sympy_size(found[0]).fits(LIMIT)] == []


def test_the_text_is_read_as_math_verify_does():
    assert [read_answer(text, LIMIT) for text in (r"\boxed{7}", "so $x+1$ or 7", "nothing")] == [
        parse(text, TARGETS, parsing_timeout=None) for text in (r"\boxed{7}", "so $x+1$ or 7", "nothing")
    ]


LONG = {
    "digits": "9" * 10**5,
    "braces": "{" * 10**5,
    "parentheses": "(" * 10**5,
    "powers": "2^" * 10**5,
    "fractions": r"\frac" * 10**5,
    "roots": r"\sqrt" * 10**5,
    "indices": "x_" * 10**5,
    "sums": r"\sum_" * 10**5,
    "bars": "|" * 10**5,
    "words": r"\text{" * 10**5,
    "commas": "1," * 10**5,
    "exponents": "1e" * 10**5 + "9" * 10**5,
    "factorials": "3" + "!" * 10**5,
    "backslashes": "\\" * 10**5,
}


@pytest.mark.parametrize("name", LONG)
def test_long_texts_are_no_matter(name):
    assert not latex_size(LONG[name]).fits(LIMIT) or name in ("digits", "words")


def test_a_thousand_of_them_end_no_worker(monkeypatch):
    """None runs into the time limit of the worker or into an error, and right answers between them stay right."""
    wrong = [rf"\boxed{{{formula} + {index}}}" for index in range(1000 // len(ALL_BIG) + 1) for formula in ALL_BIG]
    asked = Problem("p-0", "?", (1,), "7")
    items = [(asked, response) for response in wrong[:1000]]
    items[::10] = [(asked, r"\boxed{7}")] * 100
    with RewardPool(RewardConfig(kind="math", workers=1, timeout_seconds=120.0)) as pool:
        before = pool.score([(asked, r"\boxed{7}")])
        workers = [handle.pid for handle in pool._pool._supervisor.workers]
        rewards = pool.score(items)
        assert [handle.pid for handle in pool._pool._supervisor.workers] == workers
    assert before[0].value == 1.0
    assert {(reward.value, reward.error) for reward in rewards[::10]} == {(1.0, None)}
    del rewards[::10]
    assert {(reward.value, reward.error) for reward in rewards} == {(0.0, None)}


SLOW = {
    "loop": lambda: all(True for _ in iter(int, 1)),
    "regular expression": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),
    "what catches exceptions": lambda: [_stubborn() for _ in iter(int, 1)],
}


def _stubborn() -> None:
    with suppress(Exception):
        sum(range(1000))


@pytest.mark.parametrize("name", SLOW)
def test_the_clock_ends_what_takes_too_long(name):
    former = signal.getsignal(signal.SIGPROF)
    with pytest.raises(OutOfTimeError), cpu_limit(0.05):
        SLOW[name]()
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGPROF) == former


def test_the_clock_is_no_matter_in_other_threads_or_for_what_is_quick():
    done = []

    def work() -> None:
        with cpu_limit(1e-6):
            done.append(sum(range(100_000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with cpu_limit(60.0):
        done.append(0)
    assert len(done) == 2
    assert [cpu_seconds(seconds) for seconds in (1.0, 4.0, 10.0, 600.0)] == [0.25, 1.0, 2.0, 2.0]


def test_an_answer_out_of_time_is_wrong_and_spoils_nothing(monkeypatch):
    """After it the libraries are as they were, also for the same symbols."""
    asked = Problem("p-0", "?", (1,), "x^2+1")
    slow = r"\boxed{\int_0^1 \frac{\sin x}{1+x^3} dx + x^2}"
    assert score(asked, slow, seconds=0.05) == 0.0
    assert score(asked, r"\boxed{1+x^2}") == 1.0
    assert score(asked, r"\boxed{x^2-1}") == 0.0


@pytest.mark.parametrize(("reference", "answer"), SMALL)
def test_small_numbers_are_not_all_the_same(reference, answer):
    assert grade(reference, rf"\boxed{{{answer}}}") == 0.0
    assert grade(reference, rf"\boxed{{{reference} \cdot 1}}") == 1.0
