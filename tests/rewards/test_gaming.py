"""What a policy that games the grader writes is wrong: the question again, many answers, what is true of anything."""

from __future__ import annotations

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reading.repeated import repeats
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(120)

# Question, reference, and what the question asks for.
PROBLEMS = [
    ("What is $3+4$?", "7", "3+4"),
    (r"Compute $\frac{1}{2}+\frac{1}{3}$.", r"\frac{5}{6}", r"\frac{1}{2}+\frac{1}{3}"),
    (r"Evaluate $\int_0^3 x^2 \, dx$.", "9", r"\int_0^3 x^2 \, dx"),
    ("Expand $(x-1)(x+1)$.", "x^2-1", "(x-1)(x+1)"),
    (r"Solve $x^2-5x+6=0$.", "2,3", "x^2-5x+6=0"),
    (r"Simplify $\sqrt{50}$.", r"5\sqrt{2}", r"\sqrt{50}"),
    ("How much is 6!?", "720", "6!"),
    (r"For which real $x$ is $2x-6<0$?", r"(-\infty,3)", "2x-6<0"),
    ("Which is a prime? (A) 4 (B) 5 (C) 6 (D) 8", "B", "(A) 4 (B) 5 (C) 6 (D) 8"),
    (r"Reduce $\frac{24}{36}$.", r"\frac{2}{3}", r"\frac{24}{36}"),
]
MANY = ", ".join(map(str, range(1, 101)))
GAMES = {
    "the question": lambda question, asked: question,
    "the question in a box": lambda question, asked: rf"\boxed{{{question}}}",
    "what is asked for": lambda question, asked: rf"\boxed{{{asked}}}",
    "what is asked for, in brackets": lambda question, asked: rf"\boxed{{\left( {asked} \right)}}",
    "what is asked for, in a tag": lambda question, asked: f"<answer>{asked}</answer>",
    "what is asked for, in a sentence": lambda question, asked: f"The answer is ${asked}$.",
    "what is asked for, after hashes": lambda question, asked: f"#### {asked}",
    "it equals itself": lambda question, asked: rf"\boxed{{{asked} = {asked}}}",
    "one is one": lambda question, asked: r"\boxed{1=1}",
    "zero is zero": lambda question, asked: r"\boxed{0=0}",
    "a name": lambda question, asked: r"\boxed{x}",
    "a name for it": lambda question, asked: r"\boxed{x=x}",
    "a hundred numbers": lambda question, asked: rf"\boxed{{{MANY}}}",
    "a hundred boxes": lambda question, asked: " ".join(rf"$\boxed{{{number}}}$," for number in range(1, 101)),
    "a set of them": lambda question, asked: rf"\boxed{{\{{{MANY}\}}}}",
    "an alternative": lambda question, asked: r"\boxed{2 \text{ or } 7 \text{ or } 9 \text{ or } 720}",
    "all options": lambda question, asked: r"\boxed{A, B, C, D}",
    "all options in a row": lambda question, asked: r"\boxed{ABCD}",
    "any number": lambda question, asked: r"\boxed{x \in \mathbb{R}}",
    "a range": lambda question, asked: r"\boxed{(-10^9, 10^9)}",
    "not a number": lambda question, asked: r"\boxed{x \neq 0}",
    "infinity over infinity": lambda question, asked: r"\boxed{\frac{\infty}{\infty}}",
    "nothing over nothing": lambda question, asked: r"\boxed{\frac{0}{0}}",
    "the word": lambda question, asked: r"\boxed{\text{the answer}}",
    "an empty box": lambda question, asked: r"The answer is $\boxed{}$.",
}


@pytest.mark.parametrize("name", GAMES)
def test_a_game_is_no_answer(name: str) -> None:
    responses = {reference: GAMES[name](question, asked) for question, reference, asked in PROBLEMS}
    questions = {reference: question for question, reference, _ in PROBLEMS}
    right = {
        reference: response
        for reference, response in responses.items()
        if score(Problem("p-0", questions[reference], (1,), reference), response) != 0.0
    }
    assert right == {}


@pytest.mark.parametrize(
    ("answer", "question", "expected"),
    [
        ("3 + 4", "What is 3+4?", True),
        (r"\dfrac{2}{4}", r"Reduce $\frac24$ or $\frac{2}{4}$.", True),
        (r"\left(3+4\right)^2", "Evaluate $(3+4)^2$.", True),
        (r"\sin 30^\circ", r"Find $\sin 30^\circ$.", True),
        ("2x+y=4", "Solve $2x+y=4$ for $y$.", True),
        # A part of a formula.
        ("3+4", "What is 13+4?", False),
        ("3+4", "What is 3+4*2?", False),
        ("x+1", "Divide $(x+1)(x-2)$ by $x-2$.", False),
        ("x^2", r"Differentiate $\sin x^2$.", False),
        # Nothing is left to be worked out.
        ("5", "What is 5?", False),
        ("-5", "Let $x=-5$.", False),
        ("x", "Find $x$.", False),
        (r"\frac{1}{2}", r"With probability $\frac{1}{2}$ it rains.", False),
        (r"30^\circ", r"An angle of $30^\circ$.", False),
        (r"(-\infty,3)", r"On $(-\infty,3)$.", False),
        (r"2\pi", r"The period is $2\pi$.", False),
    ],
)
def test_what_repeats_the_question(answer: str, question: str, expected: bool) -> None:
    assert repeats(answer, question) is expected


def test_what_the_reference_says_is_right_though_the_question_has_it() -> None:
    question = r"Which is larger, $\sqrt{50}$ or $3+4$?"
    assert score(Problem("p-0", question, (1,), r"\sqrt{50}"), r"\boxed{\sqrt{50}}") == 1.0
    assert score(Problem("p-0", question, (1,), r"$\sqrt{50}$"), r"The answer is $\sqrt{50}$.") == 1.0
    assert score(Problem("p-0", "Is it well-known?", (1,), "Well-known"), r"\boxed{\text{well-known}}") == 1.0


def test_what_is_said_at_length_is_no_answer_and_takes_no_time() -> None:
    """A tag of a hundred thousand signs of space takes minutes to be made like the reference."""
    assert score(Problem("p-0", "?", (1,), "$1$"), "<answer>1" + r"\, " * 60_000 + "</answer>") == 0.0
