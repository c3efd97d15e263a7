"""Answers that stand in no box: in sentences, in tags and after hashes, in Chinese, and letters of options."""

from __future__ import annotations

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(120)


def grade(reference: str, response: str) -> float:
    return score(Problem("p-0", "?", (1,), reference), response)


PARTS = [
    *("7x", "7 x", "7xy", "7 xy", "7ab", "7i", "7 i", "7π", "7pi", "7 pi", "7 e", "7e^x", "7m^2 n", "7x + 1", "7 + x"),
    *(
        "7 + 4i",
        "7 - x",
        "7-x",
        "7√2",
        "7sqrt(2)",
        "7 sqrt 2",
        "7*sqrt(2)",
        r"7\pi",
        r"7\sqrt{2}",
        "$7$x",
        "7/x",
        "7^x",
    ),
    *(
        "7²",
        "7!.",
        "7:4",
        "7 : 4",
        "7:20",
        "7 \u00d7 4",
        "7 x 4",
        "7·4",
        "7 \u00d7 10^5",
        "7 x 10^5",
        "2\u00d77",
        "2 x 7",
        "±7",
        "7 ± 1",
    ),
    *(
        "log 7",
        "ln 7",
        "log_2 7",
        "sqrt 7",
        "cos 7",
        "n > 7",
        "n>=7",
        "x ≠ 7",
        "x != 7",
        "7 < x",
        "7 ≤ x",
        "x + 7",
        "n7",
    ),
    *("4 mod 7", "7 mod 4", "7%4", "1 (mod 7)", "7 (mod 9)", "1 2 7", "(1, 7)", "(-∞, 7]", "7, 8, 9", "1, 7", "{1, 7}"),
    *("7 or 4", "4 or 7", "2 and 7", "7 and 4", "2 & 7", "7 to 4", "4 to 7", "7 of 9", "7 out of 9", "7 over 9", "7+"),
    *(
        "7 plus 4",
        "7 minus 1",
        "4 times 7",
        "7 times 4",
        "7 squared",
        "7 cubed",
        "7 halves",
        "7 and a half",
        "7 choose 2",
    ),
    *("7 million", "7 thousand dollars", "$7 billion", "7 to the power of 2", "7 percent less", "7 degrees below zero"),
    *("7 feet 4 inches", "7 hours and 20 minutes", "20 feet 7 inches", "7 cm by 4 cm", "7 dogs and 4 cats", "7-digit"),
    *(
        "not 7",
        "at least 7",
        "at most 7",
        "more than 7",
        "less than 7",
        "7 or more",
        "7 or more apples",
        "4 rather than 7",
    ),
    *("negative 7", "minus 7", "- 7", "\u2013 7", "\u2212 7", "7 apples or 4 apples", "4 or maybe 7", "7.x"),
    *("7th", "5 minus 7"),
]
"""What says something else than 7."""

PHRASINGS = ["The answer is {}.", "The answer is {}", "So it is {}", "{}", "<answer>{}</answer>", "#### {}"]


@pytest.mark.parametrize("phrasing", PHRASINGS)
def test_a_part_is_not_the_whole(phrasing: str) -> None:
    assert [part for part in PARTS if grade("7", phrasing.format(part)) != 0.0] == []


WHOLE = [
    *(("3\\pi", "3pi"), ("3\\pi", "3 pi"), ("3\\pi", "3*pi"), ("3\\pi", "3π"), ("2\\sqrt{3}", "2*sqrt(3)")),
    *(("2\\sqrt{3}", "2sqrt(3)"), ("2\\sqrt{3}", "2√3"), ("3x+1", "3x + 1"), ("3x+1", "y = 3x + 1")),
    ("3x+1", "1 + 3x"),
    *(("3x+1", "f(x) = 3x+1"), ("3x+1", "**3x + 1**"), ("(3,4)", "(3, 4)"), ("(3,4)", "**(3, 4)**"), ("3,4", "{3, 4}")),
    *(("3,4", "3 and 4"), ("3,4", "**3 and 4**"), ("3,4", "x = 3 or x = 4"), ("3,4", "x = 3, 4")),
    ("(3,4)", "x = 3, y = 4"),
    *(("-3", "negative 3"), ("-3", "minus 3"), ("-3", "- 3"), ("-3", "\u2212 3"), ("3/4", "`3/4`")),
    ("3.5", "3 and a half"),
    *(("3000000", "3 million"), ("3000000", "3 million dollars"), ("3000000", "$3 million"), ("4500", "4.5 thousand")),
    *(("9", "3 squared"), (r"3\%", "3 percent"), ("x>3", "x > 3"), (r"x \ge 3", "x >= 3"), ("300000", "3 x 10^5")),
    *(("3+4i", "3 + 4i"), ("1,2,3", "1, 2, 3"), ("17.5", "17 1/2"), ("12", "3 x 4"), ("12", "3 \u00d7 4")),
]  # fmt: skip


@pytest.mark.parametrize("phrasing", ["The answer is {}.", "The answer is {}", "So we get that it is {}."])
def test_the_whole_is_right(phrasing: str) -> None:
    assert [pair for pair in WHOLE if grade(pair[0], phrasing.format(pair[1])) != 1.0] == []


SENTENCES = [
    "It has 7 eggs.",
    "so 5 + 2 = 7",
    "So she pays 5 x $2 - $3 = $7 for them.",
    "Thus 14 pounds / 2 = 7 pounds of flour are left.",
    "There are 12 camels and 19 - 12 = 7 dromedaries.",
    "The second tree is half as tall, or 14/2=7 feet.",
    "In 2020, 7 people came.",
    "She has 7 more than Tom.",
    "She needs 7 more apples.",
    "The answer is 7 because 14 / 2 = 7.",
    "The answer is 7 (as 3 + 4 = 7).",
    "The answer is 7 - which is odd.",
    "The answer is 7!",
    "The answer is 7. Check: 4 + 4 = 8, so 8 is too much.",
    "Answer: 14 / 2 gives x = 7",
    "Step 3: 7",
    "Hence 7 apples are left.\n\nStep 4",
    "**Total:** 7",
    "- 14 is too much\n- 7",
    "Result: `7`",
    "The total is **7**.",
    "<answer>7 apples, not 8</answer>",
    "<answer>7 (apples)</answer>",
    "#### 7 eggs, of 9",
    "#### 7 apples per day",
    "It is 7, not 8.",
    "It is 7 rather than 8.",
    "答案是7",
    "答案:7",
    "答案\uff1a7。",
    "答\uff1a还剩7个苹果。",
    "【答案】7",
    "共有7个。",
    "等于7。",
    "最终答案\uff1a7",
    "答案是**7**。",
    "小明有7个苹果",
    "<answer>答案是7</answer>",
    "#### 7\uff08个\uff09",
]
OTHER_SENTENCES = [
    "She has 7 or more.",
    "There are more than 7.",
    "It takes 3 hours and 7 minutes.",
    "The answer is at least 7.",
    "x + y = 7",
    "x^2 = 7",
    "答案是至少7",
    "答案不是7",
    "答案是7万",
    "答案是7或8",
    "答案是7x",
    "共7小时20分。",
    "<answer>7亿</answer>",
    "负7",
]


@pytest.mark.parametrize("response", SENTENCES)
def test_a_number_in_a_sentence(response: str) -> None:
    assert grade("7", response) == 1.0
    assert grade("8", response.replace("8", "6")) == 0.0


@pytest.mark.parametrize("response", OTHER_SENTENCES)
def test_a_sentence_that_says_something_else(response: str) -> None:
    assert grade("7", response) == 0.0


OPTIONS = [
    *("The answer is (A).", "The answer is A", "The correct option is A.", "Therefore, the correct answer is **A**."),
    *("Therefore, the answer is **(A) 5**.", "Final Answer: (A)", "Answer: A) 5", "The answer is $\\text{(A)}$."),
    *("选A", "Hence:\n\nThe answer is A."),
    *("答案是A", "答案\uff1aA", "故选\uff1aA。", "故选A。", "故选A", "答案是 **A**。"),
    *("【答案】A", r"\boxed{\text{(A) 5}}", r"\boxed{选A}"),
    *(r"\boxed{\text{A: 5}}", r"\boxed{\text{A. Yes}}", r"\boxed{\text{选项A}}"),
    *("Answer: A", "B is 4, and A is 5.\nThe answer is A."),
]  # fmt: skip
NO_OPTIONS = [
    *("The answer is (B).", "The answer is A or B.", "The answer is not A.", "The answer is A'.", "A is wrong."),
    *("The answer is (A) or (B).", "The answer is A, so B is right", "The answer is A and B.", "Answer: AB"),
    *("The answer is", "故选B"),
    *(r"\boxed{(A)(B)}", r"\boxed{A)B}", "\\boxed{A'}", "The answer is (A). No, wait, it is B."),
    "The answer is A + B.",
]  # fmt: skip


@pytest.mark.parametrize("response", OPTIONS)
def test_an_option_is_said(response: str) -> None:
    assert grade("A", response) == 1.0
    assert grade("B", response) == 0.0


@pytest.mark.parametrize("response", NO_OPTIONS)
def test_another_option_is_said(response: str) -> None:
    assert grade("A", response) == 0.0


@pytest.mark.parametrize(
    "content",
    ["A,D", "A, D", r"A \text{ and } D", "A、D", r"\text{A, D}", "(A)(D)", "A和D", "AD", r"\text{A}, \text{D}", "A; D"],
)
def test_several_options(content: str) -> None:
    for reference in ("AD", "A, D", "(A), (D)"):
        assert grade(reference, rf"\boxed{{{content}}}") == 1.0
        assert grade(reference, rf"\boxed{{{content}, F}}") == 0.0
    assert grade("AC", rf"\boxed{{{content}}}") == 0.0
    assert grade("A", rf"\boxed{{{content}}}") == 0.0
    assert grade("AD", "The answer is A and D.") == 1.0


def test_an_option_is_compared_with_its_value() -> None:
    assert grade("(B) 18", "The answer is (B).") == 1.0
    assert grade("(B) 18", "The answer is (B) 18.") == 1.0
    assert grade("(B) 18", "The answer is (B) 19.") == 0.0
    assert grade("(B) 18", "The answer is 18.") == 1.0
    assert grade("18", "The answer is (B) 18.") == 1.0


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        *((r"$\boxed{7}+x$", 0.0), (r"\boxed{7}+x", 0.0), (r"$\boxed{7}{4}$", 0.0), (r"$\boxed{7} \times 10^5$", 0.0)),
        *((r"$\boxed{7}\sqrt{2}$", 0.0), (r"$\boxed{7}^2$", 0.0), (r"$\boxed{7}x$", 0.0), (r"$\boxed{7} - 4$", 0.0)),
        *((r"$\boxed{7} \text{ cm}$", 1.0), (r"$\boxed{7}.$", 1.0), (r"$\boxed{7}$, as 3+4", 1.0)),
        *((r"\boxed{7}cm", 1.0), (r"$\boxed{7} {eV}$", 1.0), (r"$\boxed{7} {m} / {s}$", 1.0)),
        *((r"$\boxed{7} / \mathrm{cm}^{3}$", 1.0), (r"$\boxed{7}^{\prime \prime}$", 1.0), (r"$\boxed{7}/4$", 0.0)),
        *((r"$\boxed{7} \pm 2$ years", 1.0), (r"$\boxed{7} \pm \sqrt{2}$", 0.0)),
        (r"$\boxed{7} \pmod{9}$", 1.0),
        *((r"$\boxed{7}^\circ$", 1.0), (r"$\boxed{7}\%$", 1.0), (r"**\boxed{7}**", 1.0), (r"$\boxed{7} - 4 = 3$", 1.0)),
        *((r"\boxed{7} - that is all", 1.0), (r"\boxed{7} (as 3+4)", 1.0), ("\\boxed{7}\n\n+ more", 1.0)),
    ],
)  # fmt: skip
def test_a_formula_that_goes_on_behind_a_box(response: str, reward: float) -> None:
    assert grade("7", response) == reward


@pytest.mark.parametrize(
    "piece", ["not 3 ", "3 or ", "1, ", "(1, ", "x = ", "3 apples and ", "答案是", "A、", "$x$ ", "3 + "]
)
def test_long_texts_are_read_at_once(piece: str) -> None:
    for start in ("", "The answer is ", "<answer>"):
        assert grade("7", start + piece * (4000 // len(piece))) == 0.0
