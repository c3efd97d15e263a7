"""Multiple choice: every usual way of stating an answer is understood, and where none is stated none is found."""

from __future__ import annotations

import itertools

import pytest
from thorough import one_in

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.choice.reward import score, stated
from aspo_megatron.rewards.scorers import build, check

LETTERS = "ABCDEFGHIJ"
WORDS = (
    "photosynthesis", "osmosis", "heat transfer", "gravity", "3.5 m/s", "A and B together", "10\u00b2 J",
    "a [4+2] reaction", "Ice", "cyclopenta[c]pyridine",
)  # fmt: skip
"""Texts of options: words, numbers, two letters, brackets, a power."""

DECORATED = (
    "{}", "({})", "[{}]", "**{}**", "*{}*", "`{}`", "${}$", r"\({}\)", r"\boxed{{{}}}", r"$\boxed{{\text{{{}}}}}$",
    r"\boxed{{\textbf{{({})}}}}", r"\mathbf{{{}}}", "**({})**", '"{}"', "\u201c{}\u201d", "option {}", "Option ({})",
)  # fmt: skip
"""Ways to write a letter."""

SENTENCES = (
    "The answer is {}.", "the answer is {}", "The answer is: {}", "The correct answer is {}.", "Answer: {}",
    "**Answer:** {}", "**Answer: {}**", "ANSWER: {}", "Final answer: {}", "**Final Answer**\n\n{}", "### Answer\n{}",
    "So the best answer is\n\n{}", "Therefore, the correct option is {}.", "The correct choice is {}",
    "The answer to this question is {}.", "Hence the answer must be {}.", "My answer is {}.", "I choose {}.",
    "Thus the answer is {} because of the second law.", "The answer is {}, not the others.", "Answer = {}",
    "Answer \u2192 {}", "<answer>{}</answer>", "It follows.\n\n{}", "#### {}",
)  # fmt: skip
"""Ways to state one."""

ELSEWHERE = (
    "Die Antwort ist {}.", "Die richtige Antwort lautet: {}", "Antwort: {}", "La r\u00e9ponse est {}.",
    "R\u00e9ponse : {}", "La respuesta correcta es {}.", "Respuesta: {}", "A resposta correta \u00e9 {}.",
    "La risposta corretta \u00e8 {}.", "Het antwoord is {}.", "\u7b54\u6848\u662f{}\u3002", "\u7b54\u6848\uff1a{}",
    "\u6b63\u786e\u7b54\u6848\u4e3a {}\u3002", "\u6545\u9009{}\u3002", "\u7b54\u3048\u306f{}\u3067\u3059\u3002",
    "\u6b63\u89e3: {}", "\uc815\ub2f5: {}", "\uc815\ub2f5\uc740 {}\uc785\ub2c8\ub2e4.",
    "\u041e\u0442\u0432\u0435\u0442: {}",
    "\u041f\u0440\u0430\u0432\u0438\u043b\u044c\u043d\u044b\u0439 \u043e\u0442\u0432\u0435\u0442 \u2014 {}.",
    "\u0627\u0644\u0625\u062c\u0627\u0628\u0629: {}", "\u0909\u0924\u094d\u0924\u0930: {}", "Cevap: {}",
    "Jawaban: {}", "\u0110\u00e1p \u00e1n: {}", "Odpowied\u017a: {}",
)  # fmt: skip
PLAINLY = ("{}", "({})", "**{}**", r"\boxed{{{}}}")

WITH_TEXT = (
    "The answer is ({letter}) {text}.", "Answer: {letter}. {text}", "Answer: {letter}) {text}",
    "**{letter}: {text}**", r"\boxed{{{letter}}} {text}", r"\boxed{{\text{{{letter}) {text}}}}}",
    "So:\n\n({letter}) {text}", "Answer: {letter} {text}", "The correct answer is:\n\n**{letter}) {text}**",
    "({letter}) {text} is the correct answer.", "Answer: {text}", r"\boxed{{\text{{{text}}}}}",
    "The answer is {text}.", "<answer>{text}</answer>", '{{"answer": "{letter}: {text}"}}',
)  # fmt: skip
"""With the option's text, or by it alone."""

WHOLE = (
    "{}", "{}.", "({})", '{{"answer": "{}"}}', '```json\n{{"answer": "{}"}}\n```', "{{'answer': '{}'}}",
    '"answer": "{}"', "Option {} is the correct answer.", "Therefore, ({}) is the best option.", "Thus, **{}**.",
    "<think>\nIt may be A. The answer is A.\n</think>\n\n{}", "Answer: A. Wait, no. Answer: {}",
    "At first the answer is A.\nBut no: A is wrong.\n\nAnswer: {}", r"A is wrong, so not \boxed{{A}}: \boxed{{{}}}",
    "**The correct answer is ({}).** A is wrong, as is B, because of heat.", "Answer:\n- {}", "The answer is {}</s>",
    "({})<|im_end|>", r"\boxed{{\boxed{{{}}}}}", "final_answer = '{}'", "The answer is {} and I am sure.",
    "The best answer is ({}). Note that A is a distractor, as is (B).", "The answer is ({}), since A and B fail.",
    "Answer:\n\n> **{}**", "The answer is not A but {}.",
    "Answer: {}\n\nExplanation: a plant, as A says, grows. I am sure.",
    r"\boxed{{{}}}" "\n\nThis answer is correct, as B and A are wrong.", "Answer: {}. I considered C, too.",
)  # fmt: skip

REASONING = "Let us see. A is about light, (B) is about water. I think option C is odd, and D or A might be right.\n\n"


def phrasings() -> list[tuple[str, str, int]]:
    """Texts, the letter that each states, and of how many options."""
    found = []
    for count, template in itertools.product((4, 10), WHOLE):
        found += [(template.format(letter), letter, count) for letter in LETTERS[:count]]
    for sentence, written in itertools.product(SENTENCES, DECORATED):
        found += [(REASONING + sentence.format(written.format(letter)), letter, 4) for letter in "ABCD"]
    for sentence, letter in itertools.product(SENTENCES, LETTERS):
        found.append((REASONING + sentence.format(f"({letter})"), letter, 10))
    for sentence, written, letter in itertools.product(ELSEWHERE, PLAINLY, "ACI"):
        found.append((sentence.format(written.format(letter)), letter, 10))
    for template, (letter, text), before in itertools.product(
        WITH_TEXT, zip(LETTERS, WORDS, strict=True), ("", REASONING)
    ):
        found.append((before + template.format(letter=letter, text=text), letter, 10))
    for count in (2, 3, 5, 7):
        found += [(f"Answer: {letter}", letter, count) for letter in LETTERS[:count]]
    for full in "\uff21\uff22\uff23\uff24":
        found.append((f"Answer: {full}", LETTERS[ord(full) - 0xFF21], 4))
    return [*found, ("answer: b", "B", 4), (r"\boxed{c}", "C", 4), ("d", "D", 4), ("Answer: (a)", "A", 4)]


def test_every_phrasing_is_understood() -> None:
    """More than a thousand different texts; each is also none where the question lacks its letter."""
    all_of_them = phrasings()
    assert len({(text, count) for text, _, count in all_of_them}) == len(all_of_them) > 2500
    wrong = [
        (text, letter, found) for text, letter, count in all_of_them if (found := stated(text, WORDS[:count])) != letter
    ]
    assert wrong == []


def test_a_letter_that_the_question_lacks_is_none() -> None:
    sentences = [template.format(letter) for template in (*SENTENCES, *WHOLE[:8]) for letter in "EFGHIJ"]
    assert [text for text in sentences if stated(text, WORDS[:4]) is not None] == []


def test_without_known_options_letters_to_j_count() -> None:
    assert [stated(text) for text in ("Answer: J", r"\boxed{E}", "Answer: K")] == ["J", "E", None]
    assert stated("The answer is (C) heat transfer.") == "C"


NONE = (
    "", " ", "\n\n", "I", "A plant", "I am sure.", "A.B.C.", "E = mc^2", "42", "?", "I think it is light. I am sure.",
    "A is wrong. B is wrong.", "So A is wrong.", "A good idea\n\nA plant", "Options: A, B, C, D", "(A) or (B)",
    "A or B", "A, B", "Let me consider each option:\nA) photosynthesis", "A) photosynthesis\nB) osmosis",
    "The plant has vitamin A", "A. photosynthesis\nB. osmosis\nC. heat transfer\nD. gravity",
    "Statement A is correct.", "Option B is correct.", "The answer depends on heat.", "The answer is",
    "The answer is ", "Answer:", "Final answer:\n\n", "**Answer**", "#### ", "The answer is a", "the answer is i",
    "The answer is Ball", "The answer is A's", "The answer is B'", "The answer is C-14", "The answer is C. elegans",
    "The answer is A good one", "Answer: Because of heat, it is C", "Answer: I think B", "Answer: none of the above",
    "Answer: unknown", "Answer: E", "Answer: 2", "Answer: AB", "Answer: ABCD", "Answer: A/B", "Answer: A and C",
    "Answer: A, C", "Answer: A; C", "Answer: A & C", "Answer: B (or A)", "Answer: B, possibly A",
    "The answer is (A) or (B)", "The answer is (A) and (B).", "The answer is either A or B",
    "The answer is A or maybe B.", "The answer is between A and B.", "The answer is not A",
    "The answer is not A, B or C.", "The answer isn't A.", "The answer is A?", "The answer is A. Wait, no.",
    "Answer: A. Hmm, no", "Answer: B or not", "Answer: A, but B is possible.",
    "If the answer is A, then plants grow.", "Suppose the answer is A.", "Suppose that the correct answer is (A).",
    "Let us check whether the answer is A", "The wrong answer is A.", "Another option is B.",
    "The first option is A.", "John's answer is A", "The student said the answer is A",
    "I do not think the answer is A", "I thought the answer is A", "The answer could be A",
    "The answer might be (B).", "A may be the answer", "Is A the correct answer?",
    "Which is the correct answer, A or B?", "If A is the correct answer, plants grow.",
    "A is not the correct answer.", r"\boxed{}", r"\boxed{A", r"\boxed{42}", r"\boxed{A, B}", r"\boxed{AB}",
    r"\boxed{A B}", r"\boxed{A.B}", r"\boxed{I}", r"\boxed{\text{A or B}}", r"\boxed{A \text{ and } C}",
    r"\boxed{\text{not A}}", r"\boxed{A} or \boxed{B}", r"\boxed{A}, \boxed{B}", r"\boxed{A}\boxed{B}",
    r"\boxed{B} or A", r"It is not \boxed{A}", r"\boxed{A + B}", r"\boxed{B: gravity}", r"\boxed{\text{(B) gravity}}",
    "The answer is (B) gravity.", "Answer: A) osmosis", "(B) gravity", "The answer is photosynthesis or osmosis.",
    "It is osmosis, I think.", "Osmosis is a process.", "Answer: osmosis and heat", '{"answer": ""}',
    '{"answer": "A or B"}', '{"option": "E"}', '{"wrong_answer": "A"}', '{"answer": "B', "<answer></answer>",
    "<answer>A or B</answer>", "<answer>A", "<think>\n\n</think>\n\n", "<think></think>",
    "<think>The answer is B.</think>", "<think>The answer is B. But", "The answer is B.</think>\n\nLet me",
    "Answer: B\n</think>\n\nIt is", "<think>\n\n</think>\n\nI", "\u7b54\u6848\u662fA\u6216B\u3002",
    "\u9009\u9879A\u662f", "\u041e\u0442\u0432\u0435\u0442: \u0411", "Antwort: A oder B",
    "La r\u00e9ponse est A ou B.", "Answer: B\n\nWait. Now the answer is unclear", "1) A 2) B 3) C",
    "The answer is A as well as B.", "The answer is A and B are correct", "The answer is (A) if x, otherwise (B)",
    "Answer: F = ma", "Answer: A = 3.2", "Answer: A. B", "Answer: A (most likely), B (possible)", "Answer: A -> B",
    "Answer: A; or (b)", "Answer: C(5,2)", "Answer: B_0", "Answer: H2O", "The answer is A unless x holds.", "- A:",
    "B:", "The answer is A with B", "Answer: E = mc^2", "The answer is C I think", "I'm going with light.",
    "B) osmosis?", "B) osmosis. It is about water.", "B) osmosis, but", "Answer: B) osmosis. Wait, no.",
    "Answer: osmosis?", "The answer is (B) osmosis? No.", "Answer: osmosis. Wait, no.",
    "**A) photosynthesis**\nIt is light.\n\n**B) osmosis**",
    "(A) photosynthesis: no.\n(B) osmosis: no.\n\nIt is not light.\n\n(C) heat transfer",
    "The answer is (B) gravity, as it falls.", "Answer: A) osmosis because of water",
)  # fmt: skip
"""Texts that state no option of `WORDS[:4]`."""


@pytest.mark.parametrize("before", ["", REASONING])
def test_where_none_is_stated_none_is_found(before: str) -> None:
    assert [(text, found) for text in NONE if (found := stated(before + text, WORDS[:4])) is not None] == []


PLANETS = ("Mercury", "Venus", "Earth", "Mars")
AMOUNTS = (r"10^2 N", r"3.2 \times 10^{-4} J", "5 m/s", "0")

REMARKS = (
    "The answer is reasonable.", "This answer is plausible.", "The answer is not A.",
    "So the answer is not A, C or D.", "The correct answer is marked above.", "Final answer: see above",
    "Confidence in the answer: 95%", "Note that the answer is independent of the mass.",
    "The answer is neither A nor C", "The answer can't be A.", "The answer is correct because A and C are cold.",
    "Option A is wrong; option: C is wrong.", "The answer is exact.", "If there were no air, the answer would be A.",
    "Without air the answer would be A.", "Had there been no air, the correct answer would be A.",
    "A common mistake is to think the answer is A.", "It is a mistake to believe that the answer is A.",
    "C is the best choice when the atmosphere is ignored.", "Those who forget the air think the answer is A.",
    "Alternative answer: A", "No other planet is hotter.",
    "For the largest planet, it is D, while for the smallest the answer is A.", "If you have questions, ask.",
)  # fmt: skip
"""What may follow the answer B and leaves it."""

BOXED_B = (
    r"\text{B}\ \text{Venus}", r"B\ ", "~B~", r"\quad B", r"B\quad\text{Venus}", r"\left(B\right)", r"\Large B",
    r"\texttt{B}", r"\boldsymbol{B}", r"\mathtt{B}", r"\mathcal{B}", r"\underline{B}", r"\color{blue}{B}",
    r"\textcolor{red}{B}", r"(B)~\text{Venus}", r"\large\textbf{B}", r"B \, \checkmark", r"\hspace{1em}B",
    r"\operatorname{B}", r"\colorbox{red}{B}",
)  # fmt: skip

STATES_B = (
    "Answer: B \u2705", "**Answer: B** \u2705", "\u2705 **B) Venus**", "B. Venus\n\nExplanation: Venus has air.",
    "**B. Venus**\n\nVenus has air.", "B\n\nVenus has air.", "The answer is Venus (B).",
    "Venus (B) is the correct answer.", "So the answer is Venus, which is option B.", "The answer is Venus, option B.",
    "The answer is Venus, because it is hot.", "The answer is, therefore, B.", "The answer is of course B.",
    "The answer corresponds to option B.", "Solution: B", "Final: B", "<final_answer>B</final_answer>",
    "So B is correct.", "It is hot. Hence option B is correct.", "The answer is option b.",
    "The closest option is (B).", "The option that best fits is B.", "The answer's B.",
    "La respuesta correcta es la B.", "La respuesta es la opci\u00f3n (B).", "La opci\u00f3n correcta es B.",
    "La bonne r\u00e9ponse est la B.", "La bonne r\u00e9ponse est l'option B.", "La r\u00e9ponse est donc B.",
    "A resposta correta \u00e9 a letra B.", "A alternativa correta \u00e9 B.", "La risposta corretta \u00e8 la B.",
    "L'opzione corretta \u00e8 B.", "Die Antwort ist also B.", "Die richtige Option ist B.",
    "\u3010\u7b54\u6848\u3011B", "\u7b54\u6848\u9009B", "\u56e0\u6b64\uff0c\u9009\u9879B\u6b63\u786e\u3002",
    "\u672c\u9898\u9009B", "\u7b54\u6848\u4e3a\u9009\u9879B\u3002", "\u7b54\u3048\u306f B \u3067\u3059\u3002",
    "\u7b54\u3048\u306f\u3001B\u3067\u3059\u3002", "\uc815\ub2f5\uc740 B \uc785\ub2c8\ub2e4.",
    "\u0938\u0939\u0940 \u0909\u0924\u094d\u0924\u0930 B \u0939\u0948\u0964",
    "\u0110\u00e1p \u00e1n \u0111\u00fang l\u00e0 B.", "Jawaban yang benar adalah B.",
    "\u0627\u0644\u062c\u0648\u0627\u0628 \u0627\u0644\u0635\u062d\u064a\u062d \u0647\u0648 B.",
    "\u0e04\u0e33\u0e15\u0e2d\u0e1a\u0e04\u0e37\u0e2d B", '{"answer": ["B"]}',
    '{"answer": "B", "incorrect_option": "A"}', '{"answer": "B", "second_choice": "A"}',
    '{"answer": "B", "alternative_answer": "A"}', "{answer: B}", "Thus we choose option B as it is hot.",
    "This is the right one:\n\nB", '{"answer": "B", "rejected_option": "A"}',
    '{"best_answer": "B", "worst_answer": "A"}', "If the mass doubles, the force does, so the answer is B.",
    "As Mercury does not have air, the answer is B.", "There is no doubt that the answer is B.",
    "I think the answer is B.", "Of these, the best answer would be B.", "Answer: B. If you need more, ask.",
    "Answer: B. No other planet is hotter.", "### Conclusion\n\n**B) Venus**", "It has air.\n\n---\n\n**B) Venus**",
    "A. Mercury: no air.\n\nThe right choice:\n\nB", "The answer is:\n\n$$B$$",
)  # fmt: skip

NO_PLANET = (
    r"$\boxed{B} \quad \boxed{C}$", r"\boxed{B},\ \boxed{C}", r"\boxed{B and also C}",
    "I don't think the answer is B.", "The least likely answer is B.", "The worst answer is B.",
    "It is false that the answer is B.", "Maybe the answer is B.", "We can rule out that the answer is B.",
    "It would be a mistake to say the answer is B.", "One possible answer is B.",
    "We cannot conclude that the answer is B.", "It's possible that the answer is B.",
    "The textbook says the answer is B.", "\\boxed{A}\n\nWait, that's wrong. Let me recompute the", r"\boxed{A}? No.",
    r"\boxed{A} is wrong.", "The answer is A, which is wrong.", "The answer is A. That can't be right.",
    "Answer: A (wrong)", "Answer: A \u274c", "The answer is A. However, this contradicts the data.",
    "The answer is A. Let me double-check. No, this is", "The answer is B. No wait, let me recompute.",
    "The answer is B. C is also correct.", "The answer is A. Or B.", "The answer is B. The answer is not B.",
    "Answer: B. The answer isn't B.", "Answer: B. The answer is not Venus.", "Answer: B\n\nThe answer is 42.",
    "Answer: B\n\nThe answer is not unique.", "Answer: B\n\nThe answer is not A but C or D.",
    "If one ignores air, the correct answer is A", "Assuming no air, the answer is A",
    "In a vacuum the answer would be A", "The naive answer is A", "The answer is A for x > 0, B otherwise.",
    "The answer is A in the first case, and B in the second.", r"For example, \boxed{B}. I can't solve this.",
    "The letter is B in the alphabet.", 'Here the option: "B" is listed', "Let's evaluate option A:\n\n**A) Mercury**",
    "So the wrong one is:\nMars", "The answer is not:\nMars", "Eliminated:\nB", "Thus the capacitance is\n\n$$\nC\n$$",
    "We integrate.\n\n$$\nC\n$$", "E = 5 J\n\nA", "So we get\n\n(C)", "**1. Mercury**\nIt is small.\n\n**Venus**",
    "A) Mercury\nNo air.\n\nD) Mars", "Let me see.\n\n**Mercury**", "For the point, we choose C (the center of mass).",
    "Now we choose D. The derivative then is", "**Option A:**\n\nMercury", "A. Mercury\n\nIt is small and",
    "B. Venus\n\nIt is hot.\n\nC. Earth\n\nIt", "The answer is $C$ where C is a constant.", "I don't know.\n\nA",
    "The answer is Venus (A).", "The answer is Venus (B) or Mars (D).", '{"answer": ["B", "C"]}',
    "Si la respuesta es B, entonces", "Die falsche Antwort ist B.", "\u9519\u8bef\u7b54\u6848\u662fB",
    "\u5982\u679c\u7b54\u6848\u662fB\uff0c\u90a3\u4e48",
)  # fmt: skip
"""Texts that state none of `PLANETS`."""


@pytest.mark.parametrize("answer", ["The answer is B.", "Answer: B", r"\boxed{B}", '{"answer": "B"}'])
def test_a_remark_after_the_answer_leaves_it(answer: str) -> None:
    assert [text for text in REMARKS if stated(f"It is hot.\n\n{answer}\n\n{text}", PLANETS) != "B"] == []


def test_usual_outputs_are_understood() -> None:
    texts = [*STATES_B, *(rf"Thus:$$\boxed{{{said}}}$$" for said in BOXED_B)]
    assert [(text, found) for text in texts if (found := stated(text, PLANETS)) != "B"] == []
    amounts = (r"\boxed{5\ \text{m/s}}", "The answer is 5 m/s (option C).", "The answer is 5 m/s, i.e. option C.")
    assert [stated(text, AMOUNTS) for text in amounts] == ["C"] * 3
    assert stated(r"\boxed{10^{2}\ \text{N}}", AMOUNTS) == "A"
    assert stated("A. Mercury\n\nExplanation: it is closest.", PLANETS) == "A"
    assert stated("Answer: B\n\nThe answer is not B but C.", PLANETS) == "C"


@pytest.mark.parametrize("before", ["", REASONING])
def test_what_is_doubted_denied_or_looked_at_is_none(before: str) -> None:
    texts = NO_PLANET if not before else [text for text in NO_PLANET if not text.startswith(("A", "B"))]
    assert [(text, found) for text in texts if (found := stated(before + text, PLANETS)) is not None] == []
    assert stated(before + "so that the velocity is\n5 m/s", AMOUNTS) is None
    assert stated(before + "Answer: I, myself, don't know", WORDS) is None


def test_every_cut_of_a_chain_of_thought_is_none() -> None:
    """Up to each of its characters. (Only a cut behind a capital letter that begins a line looks like an answer.)"""
    chain = (
        REASONING.strip() + " First, A: a plant is green. I know vitamin C and B-cells. Is it option D? In case A, "
        "E = mc^2 J. The first answer that one thinks of is (A), which many would choose. If the answer is B, then I "
        "see a D-glucose. I can say: A is wrong, B or C may hold.\nNo plan: I compare B with D.\n- A: no.\nThus"
    )
    found = {chain[:end][-30:] for end in range(len(chain)) if stated(chain[:end], WORDS) is not None}
    assert found == set()


def test_the_last_statement_counts() -> None:
    parts = ["The answer is A.", r"\boxed{B}", '{"answer": "C"}', "Answer: D", "<answer>E</answer>"]
    for order in itertools.permutations(parts):
        last = next(letter for letter, part in zip("ABCDE", parts, strict=True) if part == order[-1])
        assert stated("\n".join(order), WORDS[:5]) == last
        assert stated(" So ".join(order), WORDS[:5]) == last
    assert stated("Answer: B\n\nThe answer is A or C.", WORDS[:4]) is None
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip("ABCD", WORDS, strict=False))
    assert stated(f"{listed}\n\nIt is about water. So:\n\nB) osmosis", WORDS[:4]) == "B"
    assert stated("Answer: osmosis. It is about water.", WORDS[:4]) == "B"


def test_options_that_are_letters_or_differ_little() -> None:
    blood = ["B", "A", "AB", "O"]
    found = [stated(f"Answer: {text}", blood) for text in ("A", "B", "AB", "C", "A) B", "A) A")]
    assert found == ["A", "B", "C", "C", "A", None]
    genes = ["Aa", "aa", "AA", "aA"]
    assert [stated(f"Answer: {text}", genes) for text in genes] == ["A", "B", "C", "D"]
    assert stated("Answer: GRAVITY", ["Gravity", "gravity"]) is None
    assert stated("Answer: Gravity", ["Gravity", "gravity"]) == "A"
    assert stated("Answer: 102 J", ["10\u00b2 J", "5 J"]) is None
    assert stated("Answer: heat", ["heat", "heat"]) is None
    assert stated("The answer is C. elegans.", ["E. coli", "C. elegans"]) == "B"
    assert stated("The answer is (E)-but-2-ene.", [*WORDS[:4], "(Z)-but-2-ene", "(E)-but-2-ene"]) == "F"


def problem(answer: str | None, **metadata: object) -> Problem:
    return Problem("p-1", "Which?", (1,), answer, metadata)


def test_scores() -> None:
    asked, texts = problem("B", options=list(WORDS[:4])), ("Answer: B", r"\boxed{\text{osmosis}}", "Answer: A", "")
    assert [score(asked, text) for text in texts] == [1.0, 1.0, 0.0, 0.0]
    scorer = build(RewardConfig(kind="choice"))
    assert [scorer(problem("B"), text).value for text in ("B", "C", "B or C")] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (problem(None), r"reward\.kind: choice needs reference answers, and problem p-1 has none; set answer_field"),
        (problem("E", options=["x", "y"]), r"the reference answer of problem p-1 must be a letter from A to B"),
        (problem("K"), r"must be a letter from A to J"),
        (problem("b"), r"must be a letter from A to J"),
        (problem("AB"), r"must be a letter from A to J"),
        (problem("A", options="x, y"), r"field 'options' of problem p-1 must be a list of 2 to 10 texts"),
        (problem("A", options=["x", 2]), r"must be a list of 2 to 10 texts"),
        (problem("A", options=["x"]), r"must be a list of 2 to 10 texts"),
        (problem("A", options=["x"] * 11), r"must be a list of 2 to 10 texts"),
    ],
)
def test_problems_that_have_no_options_or_no_letter(asked: Problem, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(RewardConfig(kind="choice"), [asked])
    check(RewardConfig(kind="choice"), [problem("J"), problem("B", options=["x", "y"])])


HOSTILE = (
    "answer is ", "answer: ", "The answer is A", "The correct answer is ", "\\boxed{", "\\boxed{A}", "\\boxed{A} or ",
    "{", "}", "(", "A", "A ", "A) ", "(A) is the correct answer ", " is the answer", " is the correct answer. ",
    "I choose ", '"answer": "', '"answer": ', "'", '"', "<answer>", "</answer>", "<answer>A</answer>", "#### ",
    "####", "answer\n", "\n", " ", "\t", "*", "**", "_", "$", "\\text{", "\\text{A", "\\textbf{A}", "or A ", "and ",
    "not ", "not but ", "the ", "the correct ", "\u7b54\u6848", "\u7b54\u6848\u662f", "\uff21", "\u00b2", "</think>",
    "<think>", "if the answer is A ", "B, ", "- ", "-", "= ", ": ", "option ", "correct option ", "x's ", "a_", "\\",
    "\u0300", "\x00", "\ud7ff", "answer to this question ", "A.", ".",
)  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", one_in(4, range(len(HOSTILE))))
def test_long_responses_are_looked_at_once(number: int) -> None:
    """200,000 characters of anything are no error; what is looked at more than once would take minutes."""
    text = HOSTILE[number] * (200_000 // len(HOSTILE[number]))
    for response in (text, text + "\n\nAnswer: B"):
        assert stated(response, WORDS[:4]) in (None, "A", "B")


@pytest.mark.timeout(120)
def test_any_two_pieces_are_no_error() -> None:
    for pieces in itertools.product(HOSTILE, repeat=2):
        found = stated("".join(pieces) * 20, WORDS)
        assert found is None or found in LETTERS
