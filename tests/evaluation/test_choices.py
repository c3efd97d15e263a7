"""Multiple choice of each data set's form: which option is which letter, and which is right. All rows are made up."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from aspo_megatron.cli.first_steps.run_file import CHOICE_TEMPLATE
from aspo_megatron.data.records import ProblemRecord
from aspo_megatron.evaluation.benchmarks import LETTER
from aspo_megatron.evaluation.choices import Choice, choice_of


def record(answer: str | None, question: str = "Which?", **metadata: Any) -> ProblemRecord:
    return ProblemRecord("p-1", question, answer, metadata)


def of_gpqa(question: str, first: object = "wrong 1") -> ProblemRecord:
    wrong = {"Incorrect Answer 1": first, "Incorrect Answer 2": "wrong 2", "Incorrect Answer 3": "wrong 3"}
    return ProblemRecord("p-1", question, "right", wrong)


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        (record("B", choices={"text": ["x", "y", "z"], "label": ["A", "B", "C"]}), Choice(("x", "y", "z"), "B")),
        (
            record("4", choices={"text": ["x", "y", "z", "w"], "label": ["1", "2", "3", "4"]}),
            Choice(tuple("xyzw"), "D"),
        ),
        (record("B", choices={"text": np.array(["x", "y"]), "label": np.array(["A", "B"])}), Choice(("x", "y"), "B")),
        (record("A", choices='{"text": ["x", "y"], "label": ["A", "B"]}'), Choice(("x", "y"), "A")),
        (record("J", options=list("abcdefghij")), Choice(tuple("abcdefghij"), "J")),
        (record(" C", options=["x", "y ", " z", "N/A"]), Choice(("x", "y", "z"), "C")),
        (record("C", options=["x", "N/A", "z", "N/A"]), Choice(("x", "z"), "B")),
        (record("B", options=[1, 2.5]), Choice(("1", "2.5"), "B")),
        (record("A", options=["[x] (y)", "{z}"]), Choice(("[x] (y)", "{z}"), "A")),
    ],
)
def test_letters_are_places(asked: ProblemRecord, choice: Choice) -> None:
    assert choice_of(asked, seed=1) == choice


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (record("A"), "it has no `options`"),
        (record("x", **{"Incorrect Answer 1": "y", "Incorrect Answer 2": "z"}), "it has no `options`"),
        (record(None, **{f"Incorrect Answer {number}": "x" for number in (1, 2, 3)}), "it has no `options`"),
        (record(None, options=["x", "y"]), "its answer is '', which is not one of A, B"),
        (record("C", options=["x", "y"]), "its answer is 'C', which is not one of A, B"),
        (record("1", options=["x", "y"]), "its answer is '1', which is not one of A, B"),
        (record("A", options="x, y"), "its 'options' are no list"),
        (record("A", options=["x", "y", None]), "its 'options' have None, which is neither a text nor a number"),
        (record("A", options=["x", float("nan")]), "its 'options' have nan, which is neither"),
        (record("A", options=["x", ["y"]]), "its 'options' have \\['y'\\], which is neither"),
        (record("A", options=[True, False]), "its 'options' have True, which is neither"),
        (record("A", choices={"text": ["x", {}], "label": ["A", "B"]}), "its 'choices.text' have {}, which"),
        (of_gpqa("x", [1]), "Answer 1' have \\[1\\]"),
        (record("A", choices={"text": ["x", "y"], "label": ["A"]}), "its answer is 'A'"),
        (record("A", choices={"text": ["x", "y"], "label": ["A", "A"]}), "its answer is 'A'"),
        (record("A", options=["x"]), "it must have 2 to 10 options"),
        (record("A", options=["x", " "]), "and a text for each"),
        (record("B", options=["x", "N/A", "y"]), "the right option is missing, or there twice"),
        (record("A", options=["x", "x "]), "the right option is missing, or there twice"),
        (record("A", options=list("abcdefghijk")), "it must have 2 to 10 options"),
    ],
)
def test_what_cannot_be_asked(asked: ProblemRecord, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        choice_of(asked, seed=1)


def test_the_order_follows_from_seed_and_question_alone() -> None:
    questions = [f"Question {number}?" for number in range(400)]
    first = {question: choice_of(of_gpqa(question), seed=1) for question in questions}
    random.seed(5)
    np.random.seed(5)
    again = {question: choice_of(of_gpqa(f" {question}\n"), seed=1) for question in reversed(questions)}
    assert first == again
    for choice in first.values():
        assert choice.options["ABCD".index(choice.letter)] == "right"
        assert sorted(choice.options) == ["right", "wrong 1", "wrong 2", "wrong 3"]
    # Each letter, and each order, about as often as the others: 5 standard deviations.
    letters = Counter(choice.letter for choice in first.values())
    assert all(abs(letters[letter] - 100) < 44 for letter in "ABCD")
    assert len({choice.options for choice in first.values()}) == 24
    other = [choice_of(of_gpqa(question), seed=2) == choice for question, choice in first.items()]
    assert 2 <= sum(other) <= 42


def test_the_order_stays_what_it_is() -> None:
    """An order that changes with a version would change scores."""
    assert choice_of(of_gpqa("Which?"), seed=1) == Choice(("wrong 3", "wrong 1", "right", "wrong 2"), "C")


def test_how_it_is_asked() -> None:
    assert Choice(("x", "y\nz"), "A").asked(" Which?\n") == "Which?\n\nA) x\nB) y\nz"
    assert LETTER == CHOICE_TEMPLATE
