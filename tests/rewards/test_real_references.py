"""Real references, each against itself in several phrasings, and against the others: `real_references.json`.

They are drawn from Minerva's and college mathematics, OlympiadBench, Gaokao, CARP, AQuA, MATH, ASDiv and SAT.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from thorough import some_of

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reward import score
from benchmarks.graders import CHANGES, PHRASINGS, changed, plain

pytestmark = pytest.mark.timeout(240)

REFERENCES = json.loads((Path(__file__).parent / "real_references.json").read_text(encoding="utf-8"))
ALL = [reference for references in REFERENCES.values() for reference in references]


def grade(reference: str, response: str) -> float:
    return score(Problem("p-0", "?", (1,), reference), response)


def test_they_are_all_there() -> None:
    assert len(ALL) == 201


@pytest.mark.parametrize("phrasing", PHRASINGS)
def test_each_is_right_for_itself(phrasing: str) -> None:
    wrong = [reference for reference in ALL if grade(reference, PHRASINGS[phrasing](plain(reference))) != 1.0]
    assert wrong == []


THIRDS = [(change, third) for change in CHANGES for third in range(3)]
DEALT = [(change, turn % 3) for turn, change in enumerate(CHANGES)][::2]


@pytest.mark.parametrize(("change", "third"), some_of(THIRDS, DEALT))
def test_each_is_wrong_if_it_is_changed(change: str, third: int) -> None:
    references = ALL[third::3]
    cases = {wanted: response for wanted in references for kind, response in changed(plain(wanted)) if kind == change}
    assert cases
    assert [reference for reference, response in cases.items() if grade(reference, response) != 0.0] == []


@pytest.mark.parametrize("name", REFERENCES)
def test_each_is_wrong_for_its_neighbour(name: str) -> None:
    references = REFERENCES[name]
    pairs = list(zip(references, [*references[1:], references[0]], strict=True))
    right = [pair for pair in pairs if grade(pair[0], rf"\boxed{{{plain(pair[1])}}}") != 0.0]
    assert right == []
